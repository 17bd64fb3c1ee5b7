"""Which NeuraCrypt ciphertext is of which image: the matching challenge of its authors (T2, and no pair is known).

Source: the challenge is that of A. Yala et al. (github.com/yala/NeuraCrypt-Challenge), solved first by N. Carlini et
al., "NeuraCrypt is not private" (arXiv 2108.07256), of which we could read the abstract: "a series of boosting steps"
turns "a 1% attack advantage into a 100% complete break". The steps here are our own. The adversary holds ciphertexts,
the plain images that they are of, and others; it knows the network's shape and not its weights:

1. the order of the tokens is undone: position embeddings keep tokens of one place together, so that each image has
   one token in each of N clusters;
2. distances between the tokens of two images depend little on the weights, because wide random networks agree on
   them (their kernel; a design flaw, not a chance). So networks of the adversary's own say how far plain images are
   apart at each place;
3. clusters are matched with places by their distributions of distances, and ciphertexts with images by the
   distribution of each one's distances to all others: a first matching, of which a part is right;
4. ciphertext i is image j if its distances to other ciphertexts are those of j to the images that these were matched
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
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import AnyArray, Float32Array, Float64Array, Images, Int64Array
from crypto.encoder_cipher import EncoderNetwork
from crypto.errors import CipherwardError
from crypto.kernels.blocks import to_blocks
from crypto.scheme import load
from crypto.schemes.neuracrypt import DEVIATION, MEAN, NeuraCrypt

#: Networks of the adversary's own, and their inner width at most. Set once; not tuned further.
_NETWORKS, _WIDTH = 4, 256
#: Places whose distances are compared, at most: n² numbers each. The most varied are taken.
_PLACES = 24
#: Most ciphertexts or images.
_MOST_IMAGES = 1500
#: Quantiles by which distributions of distances are compared. Set once.
_QUANTILES = 30
#: Steps of the clustering, and of the boosting. It ends earlier once nothing changes.
_CLUSTER_STEPS, _BOOST_STEPS = 8, 40
#: Share of the ciphertexts that decide at first, and by how much it grows. With all of them from the start, 1000
#: X-rays stopped at 29 % right in one draw of two; like this, all were right in both.
_FIRST_ANCHORS, _GROWTH = 0.1, 1.25
#: Ciphertexts whose distances decide which cluster is which place. Set once.
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
    if max(len(public), len(knowledge.rows)) > _MOST_IMAGES or len(knowledge.rows) < 3:
        note = f"not sought: from 3 to {_MOST_IMAGES} ciphertexts and images can be matched"
        return open_rows(knowledge, None, note, idle=True)
    matching = match_images(knowledge)
    note = "" if knowledge.budget.time_left() else "truncated: out of time"
    return Guess(np.asarray(public)[matching.images], note=note, fits=(Fit(matching.fit, LEAST_FIT, _FIT),))


def match_images(knowledge: Knowledge) -> Matching:
    """Match the rows to guess with the candidates in `knowledge.public`, which hold their images."""
    pool, rng = knowledge.pool, np.random.default_rng(0)
    algorithm = load(pool.spec).algorithm
    assert isinstance(algorithm, NeuraCrypt)
    plain = np.asarray(knowledge.public)
    sealed = pool.images(np.asarray(knowledge.rows, np.int64))
    tokens = cluster_tokens(by_patch(sealed, pool.spec.block))
    vectors = [_own_vectors(plain, algorithm, rng) for _ in range(_NETWORKS)]
    clusters, places = _varied(tokens), _varied(vectors[0])
    near = np.stack([np.sqrt(_squared_distances(tokens[:, c])) for c in clusters])
    own = np.stack(
        [np.sqrt(sum(_squared_distances(each[:, p]) for each in vectors) / len(vectors)) for p in places]
    )
    del vectors
    own *= np.float32(np.median(near) / max(float(np.median(own)), 1e-12))
    which = _match_distributions(near, own)
    time_left = knowledge.budget.time_left
    first = _match_profiles(near, own[which])
    images, which = _boost(first, which, near, own, time_left)
    here, there = _standardised(near), _standardised(own[which][:, images][:, :, images])
    return Matching(images, first, float((here * there).mean()))


def by_patch(images: AnyArray, block: int) -> Float32Array:
    """Return images as float32 [n, N, V]."""
    blocks = to_blocks(np.asarray(images, np.float32), block)
    return blocks.reshape(*blocks.shape[:2], -1)


def cluster_tokens(tokens: Float32Array) -> Float32Array:
    """Return tokens [n, N, V] with those of one place at one number, in an order of places that is not known.

    Each image has one token in each cluster. The tokens of the first image begin the clusters.
    """
    centres, ordered = tokens[0].astype(np.float64), np.empty_like(tokens)
    for _ in range(_CLUSTER_STEPS):
        before = ordered.copy()
        for i, image in enumerate(tokens):
            costs = (centres**2).sum(1) - 2 * image @ centres.T
            token, cluster = linear_sum_assignment(costs)
            ordered[i, cluster] = image[token]
        centres = ordered.mean(0, dtype=np.float64)
        if np.array_equal(before, ordered):
            break
    return ordered


def _own_vectors(plain: Images, algorithm: NeuraCrypt, rng: np.random.Generator) -> Float32Array:
    """Return what a random network of the adversary's own makes of images before its last layer, [n, N, W]."""
    width = min(_WIDTH, algorithm.width)

    def layer(inputs: int, outputs: int) -> tuple[Float32Array, Float32Array]:
        drawn = (rng.uniform(-1, 1, (inputs + 1, outputs)) / np.sqrt(inputs)).astype(np.float32)
        return drawn[:-1], drawn[-1]

    inner = [layer(width, width) for _ in range(algorithm.depth)]
    network = EncoderNetwork(
        embed=layer(algorithm.values, width),
        layers=(
            np.array([w for w, _ in inner], np.float32).reshape(-1, width, width),
            np.array([b for _, b in inner], np.float32).reshape(-1, width),
        ),
        positions=rng.standard_normal((algorithm.spec.blocks, width)).astype(np.float32),
        mix=layer(width, 1),
        mean=MEAN,
        deviation=DEVIATION,
    )
    patches = to_blocks(plain, algorithm.spec.block)
    return np.stack([network.vectors(image.reshape(len(image), -1)) for image in patches])


def _varied(vectors: Float32Array) -> Int64Array:
    """Return the places at which vectors [n, N, d] vary most, at most _PLACES, the most varied first."""
    return np.argsort(-vectors.var(0).sum(1), kind="stable")[:_PLACES]


def _squared_distances(vectors: Float32Array) -> Float32Array:
    """Return the squared distances of vectors [n, d], float32 [n, n]."""
    exact = vectors.astype(np.float64)
    exact -= exact.mean(0)
    squares = (exact**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * exact @ exact.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    result: Float32Array = distances.astype(np.float32)
    return result


def _profiles(distances: Float32Array) -> Float32Array:
    """Return the quantiles of every row of [n, m]: [n, _QUANTILES]."""
    ranks = np.linspace(0, distances.shape[1] - 1, _QUANTILES + 2)[1:-1].astype(np.int64)
    profiles: Float32Array = np.sort(distances, axis=1)[:, ranks]
    return profiles


def _match_distributions(near: Float32Array, own: Float32Array) -> Int64Array:
    """Return which place each cluster is, int64 [k], by the distributions of their distances."""
    here, there = (np.stack([_profiles(part.reshape(1, -1))[0] for part in parts]) for parts in (near, own))
    places: Int64Array = linear_sum_assignment(np.abs(here[:, None] - there).sum(2))[1].astype(np.int64)
    return places


def _match_profiles(near: Float32Array, own: Float32Array) -> Int64Array:
    """Return the image of each ciphertext, int64 [r], by the distribution of its distances in each cluster."""
    costs = np.zeros((near.shape[1], own.shape[1]), np.float32)
    for here, there in zip(near, own, strict=True):
        ours, theirs = _profiles(here), _profiles(there)
        for k in range(_QUANTILES):
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
    """Step 4. Return the image of each ciphertext and the place of each cluster."""
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
        anchors = np.argsort(-_margins(costs, matched), kind="stable")[: max(3, int(share * len(images)))]
        sample = anchors[:_SAMPLE]
        picked = matched[sample]
        ours = _standardised(near[:, sample][:, :, sample])
        theirs = _standardised(own[:, picked][:, :, picked])
        which = linear_sum_assignment(-ours @ theirs.T)[1].astype(np.int64)
        if has_settled:
            break
        share = min(1.0, share * _GROWTH)
    return images, which


def _margins(costs: Float64Array, matched: Int64Array) -> Float64Array:
    """Return how much dearer each ciphertext's next best image is than the one it is matched with, as a share."""
    every = np.arange(len(matched))
    chosen = costs[every, matched]
    others = costs.copy()
    others[every, matched] = np.inf
    return np.asarray((others.min(1) - chosen) / np.maximum(chosen, 1e-12))


def _standardised(distances: Float32Array) -> Float64Array:
    """Return the distances [k, n, n] of pairs as rows [k, n·n] of mean 0 and deviation 1."""
    rows = distances.reshape(len(distances), -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(rows.std(1, keepdims=True), 1e-12))
