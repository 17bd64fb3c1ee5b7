"""Pictures from `neuracrypt` ciphertexts, once some images and their ciphertexts are known (T3).

The secret network is never found. What it makes of a patch is close enough to linear, over the images that there are,
for ridge regression from tokens to patches:

1. the order of the tokens is undone, and clusters of them are matched with places: the distances of the known images
   at each place, as networks of one's own see them, correlate with those of their tokens (recover/token_places.py);
2. each place has a kernel: inner products of tokens there, of its neighbours' on average, and of all places' on
   average. Neighbours tell what a token's noise hides, and all of them tell how bright an image is as a whole;
3. the weights come from the known pairs in closed form. The fit is the correlation of patches with what the other
   half of the pairs predicts of them.

Patches are in units of the deviation of their image, about its mean: the network's normalisation takes most of both
away. What is opened has those that the known images have on average.

Source: our own; ridge regression as in the textbooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.contract import Fit, Guess, Knowledge
from coordinator.adversary.opened import open_rows
from coordinator.adversary.recover.pool_reading import image_chunks
from coordinator.adversary.recover.token_images import (
    are_tokens,
    by_patch,
    by_patch_or_gray,
    join_notes,
    note_left_out,
    note_unreadable,
)
from coordinator.adversary.recover.token_places import (
    MOST_PATCHES,
    NETWORKS,
    cluster_tokens,
    distances_at,
    own_vectors,
    standardised,
    to_clusters,
)
from coordinator.adversary.recover.toned_patches import TonedPatches
from coordinator.adversary.time_budget import OutOfTimeError, TimeLeft
from crypto.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Images, Int64Array
from crypto.scheme import load
from crypto.schemes.neuracrypt import NeuraCrypt

#: Fewest pairs, and most: kernels of N places take pairs² numbers each.
_FEWEST, _MOST = 8, 1000
#: Most numbers that all kernels hold.
_MOST_NUMBERS = 60_000_000
#: Penalty of the regression, as a share of a kernel's mean diagonal. Set once; not tuned further.
_RIDGE = 0.1
#: Least fit to be believed.
LEAST_FIT = 0.3
_FIT = "correlation of patches with what the other half of the pairs predicts of them"


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with what `knowledge.known` tells of the network. There is no key.

    The pairs have the shapes and dtypes of the scheme.
    """
    spec = knowledge.pool.spec
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, NeuraCrypt)
    assert knowledge.known is not None
    if spec.blocks > MOST_PATCHES:
        note = f"no key opens {spec.name}; not sought: {spec.blocks} patches, at most {MOST_PATCHES}"
        return open_rows(knowledge, None, note, idle=True)
    most = min(_MOST, int((_MOST_NUMBERS / spec.blocks) ** 0.5))
    plain, sealed = (np.asarray(part)[:most] for part in knowledge.known)
    within = are_tokens(sealed)
    left_out = note_left_out(within)
    plain, sealed = plain[within], sealed[within]
    if len(plain) < _FEWEST:
        note = join_notes(f"no key opens {spec.name}", f"needs {_FEWEST} known pairs", left_out)
        return open_rows(knowledge, None, note, idle=True)
    time_left = knowledge.budget.time_left
    try:
        tokens, centres = cluster_tokens(by_patch(sealed, spec.block), time_left)
        clusters = _clusters_of(tokens, plain, algorithm, time_left)
    except OutOfTimeError:
        note = join_notes(f"no key opens {spec.name}", left_out, "truncated: out of time")
        return open_rows(knowledge, None, note)
    tokens, centres = tokens[:, clusters], centres[clusters]
    patches = TonedPatches.of(plain, spec.block)
    beside = _beside(plain.shape[1] // spec.block, plain.shape[2] // spec.block)
    fit = _fit_by_halves(tokens, patches.values, beside)
    regression = Regression.of(tokens, patches.values, beside)
    opened = [np.zeros((0, *spec.image_shape), np.uint8)]
    for images in image_chunks(knowledge.pool, np.asarray(knowledge.rows, np.int64)):
        here = to_clusters(by_patch_or_gray(images, spec.block), centres)
        opened.append(patches.images(regression.patches(here)))
    note = join_notes(
        f"no key opens {spec.name}: its pictures come from {len(plain)} known pairs",
        left_out,
        note_unreadable(knowledge.pool, np.asarray(knowledge.rows, np.int64)),
        "" if time_left() else "truncated: out of time",
    )
    return Guess(np.concatenate(opened), note=note, fits=(Fit(fit, LEAST_FIT, _FIT),))


def _clusters_of(
    tokens: Float32Array, plain: Images, algorithm: NeuraCrypt, time_left: TimeLeft
) -> Int64Array:
    """Return the cluster of each place, int64 [N], from tokens [n, N, V] by cluster and the images they are of.

    Raises:
        OutOfTimeError: If the time is used up.
    """
    rng = np.random.default_rng(0)
    vectors = [own_vectors(plain, algorithm, rng, time_left) for _ in range(NETWORKS)]
    places = range(tokens.shape[1])
    near = standardised(np.stack([distances_at((tokens,), place) for place in places]))
    own = standardised(np.stack([distances_at(vectors, place) for place in places]))
    found: Int64Array = linear_sum_assignment(-own @ near.T)[1].astype(np.int64)
    return found


def _beside(down: int, across: int) -> BoolArray:
    """Return which places of a grid touch, or are the same: bool [N, N]."""
    row, column = np.divmod(np.arange(down * across), across)
    near: BoolArray = (abs(row[:, None] - row) <= 1) & (abs(column[:, None] - column) <= 1)
    return near


@dataclass(frozen=True)
class Regression:
    """What ridge regression makes of tokens at every place.

    Attributes:
        means: float32 [N, V], of the tokens.
        spreads: float32 [N, 1], of the values of a place's tokens.
        known: float32 [N, m, V], the known tokens in these units.
        weights: float64 [N, m, V], of the known tokens.
        constant: float64 [N, V], the mean patch.
        beside: Which places touch, bool [N, N].
    """

    means: Float32Array
    spreads: Float32Array
    known: Float32Array
    weights: Float64Array
    constant: Float64Array
    beside: BoolArray

    @classmethod
    def of(cls, tokens: Float32Array, patches: Float64Array, beside: BoolArray) -> Regression:
        """Return the regression of patches [m, N, V] on tokens [m, N, V]."""
        means = tokens.mean(0)
        spreads = np.maximum((tokens - means).std((0, 2)), np.float32(1e-12))[:, None]
        known = ((tokens - means) / spreads).transpose(1, 0, 2)
        constant = patches.mean(0)
        targets = (patches - constant).transpose(1, 0, 2)
        weights = np.empty(targets.shape)
        for place, kernel in enumerate(_kernels(known, known, beside).astype(np.float64)):
            penalty = _RIDGE * max(float(np.trace(kernel)) / len(kernel), 1e-12)
            weights[place] = np.linalg.solve(kernel + penalty * np.eye(len(kernel)), targets[place])
        return cls(means, spreads, known, weights, constant, beside)

    def patches(self, tokens: Float32Array) -> Float64Array:
        """Return the patches that tokens [r, N, V] are said to be of, float64 [r, N, V]."""
        here = ((tokens - self.means) / self.spreads).transpose(1, 0, 2)
        guessed = _kernels(here, self.known, self.beside) @ self.weights
        return np.asarray(guessed.transpose(1, 0, 2) + self.constant)


def _fit_by_halves(tokens: Float32Array, patches: Float64Array, beside: BoolArray) -> float:
    """Return how patches correlate with what the other half of the pairs predicts of them, about the mean patches."""
    halves = np.array_split(np.random.default_rng(0).permutation(len(tokens)), 2)
    guessed = np.empty(patches.shape)
    for one, other in (halves, halves[::-1]):
        guessed[one] = Regression.of(tokens[other], patches[other], beside).patches(tokens[one]) - patches[
            other
        ].mean(0)
    apart = patches - patches.mean(0)
    norm = float(np.linalg.norm(guessed) * np.linalg.norm(apart))
    return float((guessed * apart).sum()) / max(norm, 1e-12)


def _kernels(here: AnyArray, known: AnyArray, beside: BoolArray) -> Float32Array:
    """Return the kernel of every place between tokens [N, r, V] and [N, m, V]: float32 [N, r, m]."""
    alone = (here @ known.transpose(0, 2, 1)) / np.float32(known.shape[2])
    shape = alone.shape
    shares = (beside / beside.sum(1, keepdims=True)).astype(np.float32)
    joint = (shares @ alone.reshape(shape[0], -1)).reshape(shape)
    kernels: Float32Array = alone + joint + alone.mean(0)
    return kernels
