"""Moment matching for `neuracrypt`: pictures from ciphertexts alone, with public images of the same kind (T2).

The secret network is never found. What opens its ciphertexts is that any other network makes nearly the same of an
image: wide random networks agree on their kernel, and a token is a random projection of what the network makes of a
patch. So over many images the tokens of a place lie as the vectors do that a network of one's own makes of that
place, turned and in noise:

1. places: token_places.py, from distances in the pool and between public images;
2. principal components of the tokens of each place, and of the own vectors of each place over public images, scaled
   alike. The leading ones are the same up to a turn R of each place;
3. the turns make cross-covariances of the components of two places what they are over public images. Components are
   added one by one, with the signs that agree best, and each step solves the orthogonal Procrustes problem that is
   linear in one place's R, the others fixed. A fifth of the pairs of places takes no part: the fit is read from them;
4. the sign of all is not in second moments: it comes from third ones. Those of weaker components are a second fit;
5. ridge regression over public images says which patch belongs to the components of a place. A layer's normalisation
   takes the brightness and contrast of an image away: what is opened has those that public images have on average.

Source: our own; the design flaw is that of Carlini et al., arXiv 2108.07256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh

from coordinator.adversary.contract import Fit, Guess, Knowledge
from coordinator.adversary.opened import open_rows
from coordinator.adversary.recover.pool_reading import image_chunks, random_order
from coordinator.adversary.recover.token_images import (
    by_patch_or_gray,
    join_notes,
    note_unreadable,
    read_tokens,
)
from coordinator.adversary.recover.token_places import (
    MOST_PATCHES,
    NETWORKS,
    cluster_tokens,
    match_places,
    own_vectors,
    to_clusters,
    width_of,
)
from coordinator.adversary.recover.toned_patches import TonedPatches
from coordinator.adversary.time_budget import OutOfTimeError, TimeLeft, require_time
from crypto.arrays import AnyArray, Float32Array, Float64Array, Images
from crypto.scheme import load
from crypto.schemes.neuracrypt import NeuraCrypt
from crypto.spec import SchemeSpec

#: Most images on either side. Set once; not tuned further.
_IMAGES = 1000
#: Fewest patches, and fewest ciphertexts and public images: with 8 to 20 ciphertexts of made pictures, half of the
#: wrong results reached the least fits of then.
_FEWEST_PATCHES, _FEWEST_IMAGES = 8, 32
#: Most components of a place, and most entries of all cross-covariances. Of CIFAR-10, more than 8 opened no more.
_COMPONENTS, _MOST_ENTRIES = 12, 40_000_000
#: Most numbers of the tokens that are read, and of the vectors of all own networks.
_MOST_NUMBERS = 80_000_000
#: Components count with their share of the strongest one's deviation, to this power. Set once; not tuned further.
_POWER = 0.7
#: Most steps that turn the components, and the largest change of an entry below which the turns are settled.
_STEPS, _SETTLED = 60, 1e-3
#: Share of the pairs of places that the fit is read from.
_KEPT_OUT = 0.2
#: Weight of the penalty of the ridge regression. Set once; not tuned further.
_RIDGE = 0.05
#: Least fits to be believed. Chosen on the 110 attacks of docs/results/36-picture-kinds.json, and not tried on
#: others: of 23 under which less than .3 of the pictures named their images, none reaches both; of 84 under which
#: half did or more, 22 do not.
LEAST_FIT, LEAST_THIRD = 0.4, 0.25
_FIT = "cross-covariances of places that took no part in the matching"
_THIRD = "third moments of all components but the strongest, which the matching does not use"


@dataclass(frozen=True)
class Components:
    """Principal components of the vectors of every place.

    Attributes:
        scores: float64 [n, N, K], of every image, of deviation 1.
        deviations: float64 [N, K].
    """

    scores: Float64Array
    deviations: Float64Array


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the turns that public images suggest. There is no key.

    If the time is used up before there are turns, the guess is the ciphertext's picture.
    """
    spec = knowledge.pool.spec
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, NeuraCrypt)
    public = np.asarray(knowledge.public)
    public = public[
        random_order(np.arange(len(public)))[: _most_images(spec, NETWORKS * width_of(algorithm))]
    ]
    rows = random_order(np.asarray(knowledge.pool_rows, np.int64))[: _most_images(spec, algorithm.values)]
    if spec.blocks > MOST_PATCHES:
        note = f"not sought: {spec.blocks} patches, at most {MOST_PATCHES}"
        return open_rows(knowledge, None, note, idle=True)
    if spec.blocks < _FEWEST_PATCHES or min(len(rows), len(public)) < _FEWEST_IMAGES:
        images = f"{_FEWEST_IMAGES} ciphertexts and as many public images"
        note = f"not sought: needs {_FEWEST_PATCHES} patches, {images} at least"
        return open_rows(knowledge, None, note, idle=True)
    sealed, left_out = read_tokens(knowledge.pool, rows)
    if len(sealed) < _FEWEST_IMAGES:
        note = f"not sought: needs {_FEWEST_IMAGES} ciphertexts at least; {left_out}"
        return open_rows(knowledge, None, note, idle=True)
    try:
        guess = _open_pictures(knowledge, algorithm, sealed, public)
    except OutOfTimeError:
        return open_rows(knowledge, None, join_notes(left_out, "truncated: out of time"))
    return replace(guess, note=join_notes(left_out, guess.note))


def _open_pictures(
    knowledge: Knowledge, algorithm: NeuraCrypt, sealed: Float32Array, public: Images
) -> Guess:
    """Open the rows to guess by tokens float32 [n, N, V] and public images uint8 [m, h, w, c]: steps 1 to 5.

    Raises:
        OutOfTimeError: If the time is used up before step 3.
    """
    spec = knowledge.pool.spec
    rng, time_left = np.random.default_rng(0), knowledge.budget.time_left
    tokens, centres = cluster_tokens(sealed, time_left)
    vectors = [own_vectors(public, algorithm, rng, time_left) for _ in range(NETWORKS)]
    clusters = np.argsort(match_places(tokens, vectors, rng, time_left))
    tokens, centres = tokens[:, clusters], centres[clusters]
    fewest = min(len(tokens), len(public))
    count = min(_COMPONENTS, algorithm.values, fewest // 2, max(2, int(_MOST_ENTRIES**0.5) // spec.blocks))
    reading, own = TokenReading.of(tokens, count, time_left), components(vectors, count, time_left)
    del vectors
    scale = (own.deviations / np.maximum(own.deviations[:, :1], 1e-12)) ** _POWER
    ours, theirs = reading.scores(tokens) * scale, own.scores * scale
    turns, fit = align(ours, theirs, rng, time_left)
    turns, third = _signed(ours, theirs, turns)
    decoder = Decoder.of(theirs, public, spec.block)
    opened = [np.zeros((0, *spec.image_shape), np.uint8)]
    for images in image_chunks(knowledge.pool, np.asarray(knowledge.rows, np.int64)):
        here = to_clusters(by_patch_or_gray(images, spec.block), centres)
        opened.append(decoder.images(turned_scores(reading.scores(here) * scale, turns)))
    fits = (Fit(fit, LEAST_FIT, _FIT), Fit(third, LEAST_THIRD, _THIRD))
    late = "" if time_left() else "truncated: out of time"
    unreadable = note_unreadable(knowledge.pool, np.asarray(knowledge.rows, np.int64))
    return Guess(np.concatenate(opened), note=join_notes(unreadable, late), fits=fits)


def _most_images(spec: SchemeSpec, values: int) -> int:
    """Return how many images are read whose patches have so many values each: what bounds memory."""
    return min(_IMAGES, max(_FEWEST_IMAGES, _MOST_NUMBERS // (spec.blocks * values)))


@dataclass(frozen=True)
class TokenReading:
    """How the components of tokens are read: means [N, V], and axes [N, V, K] by their deviations, float64."""

    means: Float64Array
    axes: Float64Array

    @classmethod
    def of(cls, tokens: Float32Array, count: int, time_left: TimeLeft) -> TokenReading:
        """Return the reading of the `count` strongest components of tokens [n, N, V] of known places.

        Raises:
            OutOfTimeError: If the time is used up.
        """
        means = tokens.mean(0, dtype=np.float64)
        axes = np.empty((*means.shape, count))
        for place in range(len(means)):
            require_time(time_left)
            apart = tokens[:, place] - means[place]
            values, vectors = np.linalg.eigh(apart.T @ apart / len(tokens))
            deviations = np.sqrt(np.maximum(values[::-1][:count], 1e-12))
            axes[place] = vectors[:, ::-1][:, :count] / deviations
        return cls(means, axes)

    def scores(self, tokens: Float32Array) -> Float64Array:
        """Return the components of tokens [n, N, V], float64 [n, N, K]."""
        return np.asarray(((tokens - self.means).transpose(1, 0, 2) @ self.axes).transpose(1, 0, 2))


def components(vectors: Sequence[Float32Array], count: int, time_left: TimeLeft) -> Components:
    """Return the `count` strongest components of vectors, whose parts are float32 [n, N, W].

    Raises:
        OutOfTimeError: If the time is used up.
    """
    images, places, _ = vectors[0].shape
    scores, deviations = np.empty((images, places, count)), np.empty((places, count))
    for place in range(places):
        require_time(time_left)
        products = np.zeros((images, images))
        for part in vectors:
            apart = part[:, place] - part[:, place].mean(0)
            products += apart @ apart.T
        values, axes = eigh(products, subset_by_index=[images - count, images - 1])
        scores[:, place] = axes[:, ::-1] * np.sqrt(images)
        deviations[place] = np.sqrt(np.maximum(values[::-1], 0) / images)
    return Components(scores, deviations)


def align(
    ours: Float64Array, theirs: Float64Array, rng: np.random.Generator, time_left: TimeLeft
) -> tuple[Float64Array, float]:
    """Return the turn of every place, float64 [N, K, K], and the fit: step 3.

    Args:
        ours: Scaled components of the ciphertexts, float64 [r, N, K].
        theirs: The same of public images, float64 [n, N, K].
        rng: Draws which pairs of places the fit is read from.
        time_left: Whether there is time for another step.
    """
    places, count = ours.shape[1:]
    here, there = (_cross_covariances(part) for part in (ours, theirs))
    kept_out = np.triu(rng.random((places, places)) < _KEPT_OUT, 1)
    kept_out |= kept_out.T
    used = ~(kept_out | np.eye(places, dtype=bool))
    fitted = here * used[:, :, None, None], there * used[:, :, None, None]
    turns = np.tile(np.eye(count), (places, 1, 1))
    for k in range(count):
        turns[:, k, k] = _signs_of_component(*fitted, turns, k)
        for _ in range(_STEPS):
            if not time_left():
                break
            part = turns[:, : k + 1, : k + 1]
            turned = _nearest_turns(
                fitted[0][..., : k + 1, : k + 1], fitted[1][..., : k + 1, : k + 1], part
            )
            change = float(np.abs(turned - part).max())
            turns[:, : k + 1, : k + 1] = turned
            if change < _SETTLED:
                break
    return turns, _agreement(here, there, turns, kept_out)


def _cross_covariances(scores: Float64Array) -> Float64Array:
    """Return the covariances of the components of every two places, float64 [N, N, K, K]."""
    images, places, count = scores.shape
    flat = scores.reshape(images, -1)
    covariances = (flat.T @ flat / images).reshape(places, count, places, count)
    return np.ascontiguousarray(covariances.transpose(0, 2, 1, 3))


def _signs_of_component(
    here: Float64Array, there: Float64Array, turns: Float64Array, k: int
) -> Float64Array:
    """Return ±1 [N]: which way component k points at every place, given the turns of those before it."""
    among = here[:, :, k, k] * there[:, :, k, k]
    before = np.einsum("abl,blj->abj", here[:, :, k, :k], turns[:, :k, :k])
    given = (before * there[:, :, k, :k]).sum((1, 2))
    leading = np.linalg.eigh(among)[1][:, -1]
    best, most = np.ones(len(among)), -np.inf
    for start in (given, leading, -leading):
        signs = np.where(start >= 0, 1.0, -1.0)
        for _ in range(_STEPS):
            flipped = np.where(among @ signs + 2 * given >= 0, 1.0, -1.0)
            if np.array_equal(flipped, signs):
                break
            signs = flipped
        value = float(signs @ among @ signs + 2 * given @ signs)
        if value > most:
            best, most = signs, value
    return best


def _nearest_turns(here: Float64Array, there: Float64Array, turns: Float64Array) -> Float64Array:
    """Return the turns [N, k, k] that carry covariances nearest to those of public images, the others as they are."""
    places, k = turns.shape[:2]
    carried = (here @ turns[None]).transpose(0, 2, 1, 3).reshape(places, k, -1)
    target = there.transpose(0, 2, 1, 3).reshape(places, k, -1)
    left, _, right = np.linalg.svd(carried @ target.transpose(0, 2, 1))
    return np.asarray(left @ right)


def _signed(ours: Float64Array, theirs: Float64Array, turns: Float64Array) -> tuple[Float64Array, float]:
    """Return the turns [N, K, K] with the sign of all that third moments say, and the fit of step 4."""
    here, there = ((part**3).mean(0) for part in (turned_scores(ours, turns), theirs))
    sign = 1.0 if _cosine(here, there) >= 0 else -1.0
    return sign * turns, sign * _cosine(here[:, 1:], there[:, 1:])


def _agreement(here: Float64Array, there: Float64Array, turns: Float64Array, pairs: AnyArray) -> float:
    """Return the cosine of turned covariances with those of public images, over some pairs of places."""
    first, second = np.nonzero(pairs)
    carried = turns[first].transpose(0, 2, 1) @ here[first, second] @ turns[second]
    return _cosine(carried, there[first, second])


def _cosine(one: Float64Array, other: Float64Array) -> float:
    """Return the cosine of two arrays of one shape."""
    return float((one * other).sum() / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def turned_scores(scores: Float64Array, turns: Float64Array) -> Float64Array:
    """Return components [n, N, K] turned at every place."""
    return np.asarray((scores.transpose(1, 0, 2) @ turns).transpose(1, 0, 2))


@dataclass(frozen=True)
class Decoder:
    """Which patches belong to components.

    Attributes:
        patches: Those of the public images.
        weights: float64 [N, K, V].
    """

    patches: TonedPatches
    weights: Float64Array

    @classmethod
    def of(cls, scores: Float64Array, public: Images, block: int) -> Decoder:
        """Return the decoder that ridge regression gives from components [n, N, K] of public images."""
        patches = TonedPatches.of(public, block)
        targets = (patches.values - patches.values.mean(0)).transpose(1, 0, 2)
        features = scores.transpose(1, 0, 2)
        penalty = _RIDGE * len(public) * np.eye(scores.shape[2])
        products = features.transpose(0, 2, 1)
        return cls(patches, np.linalg.solve(products @ features + penalty, products @ targets))

    def images(self, scores: Float64Array) -> Images:
        """Return the images that components [n, N, K] belong to, uint8 [n, h, w, c]."""
        guessed = (scores.transpose(1, 0, 2) @ self.weights).transpose(1, 0, 2)
        return self.patches.images(guessed + self.patches.values.mean(0))
