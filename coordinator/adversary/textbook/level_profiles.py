"""The gray scale of substituted levels, read without knowing which pixels are neighbours.

Whatever moves the pixels, a level stays in its image: a dark image has many of all dark levels, a bright one few. So
near levels are frequent in the same images, and, if all images are moved alike, at the same places. That is
correspondence analysis, as archaeologists order graves by what is in them (Hill 1974): the counts of every level by
image and by place, against what chance would give. Of their directions those remain that exceed what chance counts
have (Marchenko, Pastur 1967). Levels with like profiles make a graph, and the gray scale is the way through it.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.textbook.substitution import LEVELS, order_levels, spread_levels
from crypto.arrays import Float64Array, Images, Int64Array, UInt8Array

#: Levels that occur more seldom are left out.
_LEAST_COUNT = 20
#: Most places whose counts are read: a bound on memory.
_PLACES = 4096
#: So many times as much as by chance must a direction vary. Set once by hand; no measurement is recorded.
_OVER_CHANCE = 1.2
#: The levels of the most like profiles that each level is joined to.
_NEAREST = 8


def order_by_profiles(planes: UInt8Array) -> UInt8Array:
    """Return the plain level of each sealed one, uint8 [256], up to the negative.

    Levels that are rare are left in mid-gray, and all of them if their counts are no more than chance.

    Args:
        planes: uint8 [n, h, w], gray pictures, all moved alike.
    """
    values = planes.reshape(len(planes), -1)
    by_image = _counts(values)
    used = np.flatnonzero(by_image.sum(1) >= _LEAST_COUNT)
    profiles = np.concatenate([_profiles(by_image[used]), _profiles(_counts(_draw(values).T)[used])], 1)
    is_chance = len(used) <= _NEAREST or not profiles.shape[1]
    return spread_levels(used, used[:0] if is_chance else order_levels(_graph(profiles)))


def over_chance(images: Images) -> float:
    """Return how much the frequency of levels varies over images, as a multiple of what chance allows.

    Noise has about 1; so have pictures with grain under a keystream, and chained ones. Smooth ones may have more.

    Args:
        images: uint8 [n, h, w, c]. Of colours with tables of their own, that which varies most counts.
    """
    strongest = []
    for c in range(images.shape[3]):
        counts = _counts(images[..., c].reshape(len(images), -1))
        used = counts[counts.sum(1) >= _LEAST_COUNT]
        strengths, chance, _ = _directions(used)
        strongest.append(float(strengths[-1] / chance) if len(used) else 0.0)
    return max(strongest)


def _draw(values: UInt8Array) -> UInt8Array:
    """Return the values of a draw of places."""
    places = np.random.default_rng(0).permutation(values.shape[1])[:_PLACES]
    return values[:, np.sort(places)]


def _counts(rows: UInt8Array) -> Int64Array:
    """Return how often each level is in each row of uint8 [r, m]: int64 [256, r]."""
    index = np.arange(len(rows))[:, None] * LEVELS + rows
    counts = np.bincount(index.ravel(), minlength=len(rows) * LEVELS).reshape(-1, LEVELS)
    return np.ascontiguousarray(counts.T)


def _profiles(counts: Int64Array) -> Float64Array:
    """Return where each level is more frequent than by chance, float64 [L, k], in k directions that are no chance.

    Args:
        counts: int64 [L, d], how often each level is in each image, or at each place.
    """
    strengths, chance, directions = _directions(counts)
    kept = strengths > _OVER_CHANCE * chance
    lengths = np.sqrt(strengths[kept] - chance)
    profiles: Float64Array = directions[:, kept] * lengths / np.sqrt(np.maximum(counts.sum(1), 1))[:, None]
    return profiles


def _directions(counts: Int64Array) -> tuple[Float64Array, float, Float64Array]:
    """Return how much counts int64 [L, d] vary in each direction, the most by chance, and the directions.

    Returns:
        float64 [L], rising; the most by chance; float64 [L, L], a direction in each column.
    """
    expected = np.outer(counts.sum(1), counts.sum(0)) / max(counts.sum(), 1)
    residuals = (counts - expected) / np.sqrt(np.maximum(expected, 1e-9))
    strengths, directions = np.linalg.eigh(residuals @ residuals.T)
    return strengths, float((np.sqrt(counts.shape[0]) + np.sqrt(counts.shape[1])) ** 2), directions


def _graph(profiles: Float64Array) -> Float64Array:
    """Return how alike the profiles of levels are, of those that are most alike: float64 [L, L], with no diagonal."""
    unit = profiles / np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-12)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :_NEAREST]
    graph = np.zeros_like(alike)
    rows = np.arange(len(alike))[:, None]
    # A level that is like none is joined weakly, so that the graph is whole.
    graph[rows, nearest] = np.maximum(alike[rows, nearest], 1e-3)
    joined: Float64Array = graph + graph.T
    return joined
