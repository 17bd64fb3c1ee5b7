"""Which NeuraCrypt ciphertext is of which image: the matching challenge of its authors (T2, and no pair is known).

Source: the challenge is that of A. Yala et al. (github.com/yala/NeuraCrypt-Challenge), solved first by N. Carlini et
al., "NeuraCrypt is not private" (arXiv 2108.07256), of which we could read the abstract: "a series of boosting steps"
turns "a 1% attack advantage into a 100% complete break". The steps here are our own. The adversary holds ciphertexts,
the plain images that they are of, and others; it knows the network's shape and not its weights:

1. clusters of tokens are matched with places, and networks of the adversary's own say how far plain images are apart
   at each place (recover/token_places.py);
2. ciphertexts are matched with images by the distribution of each one's distances to all others: a first matching,
   of which most is right;
3. ciphertext i is image j if its distances to other ciphertexts are those of j to the images that these were matched
   with. The others are at first the tenth of the ciphertexts whose images beat the next best by most, then more and
   more. Repeated until nothing changes, this boosts the part that is right. Clusters are matched anew each time.

No picture is recovered: the adversary has them. What falls is the claim that a ciphertext does not name its image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.contract import Fit, Guess, Knowledge
from coordinator.adversary.opened import open_rows
from coordinator.adversary.recover.token_images import by_patch_or_gray, join_notes, note_unreadable
from coordinator.adversary.recover.token_places import (
    MOST_PATCHES,
    NETWORKS,
    QUANTILES,
    cluster_tokens,
    distances_at,
    margins,
    match_places,
    own_vectors,
    profiles,
    standardised,
)
from coordinator.adversary.time_budget import OutOfTimeError, TimeLeft
from crypto.arrays import Float32Array, Int64Array
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.schemes.neuracrypt import NeuraCrypt

#: Places whose distances are compared, at most: n² numbers each. The most varied are taken.
_PLACES = 24
#: Fewest ciphertexts, and most of them or of images. Few have so few distances that any matching fits: over made
#: pictures, wrong ones of 3 to 8 had fits of .78 to .99, and those of 16 had .64 to .67.
_FEWEST, _MOST_IMAGES = 16, 1500
#: Most steps of the boosting, which ends earlier once nothing changes.
_BOOST_STEPS = 40
#: Share of the ciphertexts that decide at first, and by how much it grows. With all of them from the start, 1000
#: X-rays stopped at 29 % right in one draw of two; like this, all were right in both.
_FIRST_ANCHORS, _GROWTH = 0.1, 1.25
#: Ciphertexts by which clusters are matched with places anew. Set once.
_SAMPLE = 300
#: Least fit to be believed. Matchings that were all right had .76 to .99, one with 2 % right had .46.
LEAST_FIT = 0.70
_FIT = "correlation of distances between ciphertexts with those that networks of our own make"


@dataclass(frozen=True)
class Matching:
    """Which image each ciphertext is said to be of.

    Attributes:
        images: int64 [r], the candidate of each ciphertext.
        first: int64 [r], the same before the boosting.
        fit: Correlation of the distances between ciphertexts with those between their candidates.
    """

    images: Int64Array
    first: Int64Array
    fit: float


def attack(knowledge: Knowledge) -> Guess:
    """Return for every row the candidate that it is matched with, out of `knowledge.public`.

    Raises:
        CipherwardError: If the candidates have another shape than the plain images.
    """
    spec, public = knowledge.pool.spec, knowledge.public
    if spec.name != "neuracrypt":
        return open_rows(knowledge, None, "for neuracrypt only", idle=True)
    if public is None or len(public) < len(knowledge.rows):
        return open_rows(knowledge, None, "needs the plain images of all ciphertexts", idle=True)
    if spec.key_scope == "image":
        return open_rows(knowledge, None, "every image has a network of its own", idle=True)
    if public.shape[1:] != spec.image_shape:
        raise CipherwardError(
            f"candidates of {public.shape[1:]} cannot be the images of ciphertexts of {spec.image_shape}",
            "bring the candidates to the size and channels of the sealed images",
        )
    if spec.blocks > MOST_PATCHES:
        note = f"not sought: {spec.blocks} patches, at most {MOST_PATCHES}"
        return open_rows(knowledge, None, note, idle=True)
    if max(len(public), len(knowledge.rows)) > _MOST_IMAGES or len(knowledge.rows) < _FEWEST:
        note = f"not sought: from {_FEWEST} to {_MOST_IMAGES} ciphertexts and images can be matched"
        return open_rows(knowledge, None, note, idle=True)
    try:
        matching = match_images(knowledge)
    except OutOfTimeError:
        return open_rows(knowledge, None, "truncated: out of time")
    late = "" if knowledge.budget.time_left() else "truncated: out of time"
    note = join_notes(note_unreadable(knowledge.pool, np.asarray(knowledge.rows, np.int64)), late)
    return Guess(np.asarray(public)[matching.images], note=note, fits=(Fit(matching.fit, LEAST_FIT, _FIT),))


def match_images(knowledge: Knowledge) -> Matching:
    """Match the rows to guess with the candidates in `knowledge.public`, which hold their images.

    Raises:
        OutOfTimeError: If the time is used up before there is a first matching.
    """
    pool, rng = knowledge.pool, np.random.default_rng(0)
    algorithm = load(pool.spec).algorithm
    assert isinstance(algorithm, NeuraCrypt)
    plain = np.asarray(knowledge.public)
    sealed = pool.images(np.asarray(knowledge.rows, np.int64))
    tokens, _ = cluster_tokens(by_patch_or_gray(sealed, pool.spec.block), knowledge.budget.time_left)
    vectors = [own_vectors(plain, algorithm, rng, knowledge.budget.time_left) for _ in range(NETWORKS)]
    places = match_places(tokens, vectors, rng, knowledge.budget.time_left)
    clusters = _varied(tokens)
    near = np.stack([distances_at((tokens,), cluster) for cluster in clusters])
    own = np.stack([distances_at(vectors, place) for place in places[clusters]])
    del vectors
    own *= np.float32(np.median(near) / max(float(np.median(own)), 1e-12))
    first = _match_profiles(near, own)
    alike = np.arange(len(clusters))
    candidates = [(first, alike), _boost(first, alike, near, own, knowledge.budget.time_left)]
    fits = [_fit(images, which, near, own) for images, which in candidates]
    best = int(np.argmax(fits))
    return Matching(candidates[best][0], first, fits[best])


def _fit(images: Int64Array, which: Int64Array, near: Float32Array, own: Float32Array) -> float:
    """Return the correlation of the distances of ciphertexts with those of the images they are matched with."""
    here, there = standardised(near), standardised(own[which][:, images][:, :, images])
    return float((here * there).mean())


def _varied(vectors: Float32Array) -> Int64Array:
    """Return the places at which vectors [n, N, d] vary most, at most _PLACES, the most varied first."""
    return np.argsort(-vectors.var(0).sum(1), kind="stable")[:_PLACES]


def _match_profiles(near: Float32Array, own: Float32Array) -> Int64Array:
    """Return the image of each ciphertext, int64 [r], by the distribution of its distances in each cluster."""
    costs = np.zeros((near.shape[1], own.shape[1]), np.float32)
    for here, there in zip(near, own, strict=True):
        ours, theirs = profiles(here), profiles(there)
        for k in range(QUANTILES):
            costs += np.abs(ours[:, k, None] - theirs[None, :, k])
    images: Int64Array = linear_sum_assignment(costs)[1].astype(np.int64)
    return images


def _boost(
    images: Int64Array,
    which: Int64Array,
    near: Float32Array,
    own: Float32Array,
    time_left: TimeLeft,
) -> tuple[Int64Array, Int64Array]:
    """Step 3. Return the image of each ciphertext and the place of each cluster."""
    anchors, share = np.arange(len(images)), _FIRST_ANCHORS
    for _ in range(_BOOST_STEPS):
        if not time_left():
            break
        costs = np.zeros((near.shape[1], own.shape[1]))
        for here, place in zip(near, which, strict=True):
            seen, there = here[:, anchors], own[place][:, images[anchors]]
            costs += (seen**2).sum(1)[:, None] + (there**2).sum(1) - 2 * seen @ there.T
        matched = linear_sum_assignment(costs)[1].astype(np.int64)
        has_settled = share >= 1 and np.array_equal(matched, images)
        images = matched
        anchors = np.argsort(-margins(costs, matched), kind="stable")[: max(3, int(share * len(images)))]
        sample = anchors[:_SAMPLE]
        picked = matched[sample]
        ours = standardised(near[:, sample][:, :, sample])
        theirs = standardised(own[:, picked][:, :, picked])
        which = linear_sum_assignment(-ours @ theirs.T)[1].astype(np.int64)
        if has_settled:
            break
        share = min(1.0, share * _GROWTH)
    return images, which
