"""The places of a block's values, from how similar values are within one block and across to the next.

Everything here is quadratic assignment (puzzle/qap.py): the places under which the measured similarity agrees
best with that of typical pictures. What crosses to the block right and below tells the symmetries of a block
apart.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.grid_layout import grid_symmetries, perturb
from coordinator.adversary.puzzle.qap import assignment_similarity, swap_ascent
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float64Array, Int64Array
from crypto.symmetry import colour_orders

#: Multiply-adds of a search for places: a bound on time. A start is taken to cost 60·V³.
_WORK, _START_WORK = 3_000_000_000, 60
#: Most starts, and most perturbed restarts. Set once by hand; no measurement is recorded.
_STARTS, _RESTARTS = 25, 12
#: Starts that must end at the best similarity for the search to stop. Set once by hand; no measurement is recorded.
_AGREEING_STARTS = 6
#: Correlation of two pixels r apart, exp(-DECAY·r^POWER), and of two colours of a pixel, in typical pictures: green
#: with red or blue, and red with blue. Set once by hand; no measurement is recorded.
_DECAY, _POWER = 0.055, 0.9
_NEAR_COLOURS, _FAR_COLOURS = 0.94, 0.84
#: Most sweeps of swaps. Set once by hand; no measurement is recorded.
_SWEEPS = 60
#: With more values than this, places come from leading eigenvectors alone: swaps would take too long.
MOST_VALUES = 1024
#: Squared pixels that a colour counts for: red is as far from green as a pixel from its neighbour.
_COLOUR_STEP = 1.0
#: Angles tried for each choice of the axis that belongs to the colours: a quarter turn has five steps of π/10.
_ANGLES = 5
#: Relative change of a similarity that is not rounding.
_LEAST_CHANGE = 1e-9


def typical_correlations(
    block: int,
    channels: int,
    decay: float = _DECAY,
    near: float = _NEAR_COLOURS,
    far: float = _FAR_COLOURS,
) -> Float64Array:
    """Return correlations of the values of typical pictures, float64 [3, V, V].

    The three relations are those of `nearness_kernel`.

    Args:
        block: The block side in pixels.
        channels: Colour components of a pixel.
        decay: How fast the correlation of two pixels falls with their distance, exp(-decay·r^0.9).
        near: Correlation of green with red and with blue in one pixel.
        far: Correlation of red with blue in one pixel.
    """
    squared, colour = _squared_distances(block, channels)
    # With one plane left out (values/constant_planes.py) the two that are left are taken for near ones.
    colours = np.array([[1.0, near, far], [near, 1.0, near], [far, near, 1.0]])
    between_colours = colours[colour[:, None], colour]
    correlations: Float64Array = np.exp(-decay * squared ** (_POWER / 2)) * between_colours
    return correlations


def _squared_distances(block: int, channels: int) -> tuple[Float64Array, Int64Array]:
    """Return (float64 [3, V, V] squared pixels, int64 [V] channels) of a block's values, by (row, column, channel).

    The three relations are: within one block, from a block to the next one right, and to the one below.
    """
    values = np.arange(block * block * channels)
    row, column, colour = values // (block * channels), values // channels % block, values % channels
    squared = [
        (row + down - row[:, None]) ** 2 + (column + right - column[:, None]) ** 2
        for down, right in ((0, 0), (0, block), (block, 0))
    ]
    return np.stack(squared).astype(np.float64), colour


def nearness_kernel(block: int, channels: int) -> Float64Array:
    """Return exp(-r²/2) of two values r apart, float64 [3, V, V].

    The three relations are: within one block, from a block to the next one right, and to the one below. A step
    from one channel to the next counts as one pixel.
    """
    squared, colour = _squared_distances(block, channels)
    kernel: Float64Array = np.exp(-(squared + _COLOUR_STEP * np.abs(colour[:, None] - colour)) / 2.0)
    np.fill_diagonal(kernel[0], 0.0)
    return kernel


def block_symmetries(block: int, channels: int) -> Int64Array:
    """Return the turns and mirrors of a block's values under every order of the colours, int64 [8, 16 or 48, V]."""
    orders = np.array([[0, 1], [1, 0]]) if channels == 2 else colour_orders(channels)
    return np.stack(
        [
            (pixels[:, None] * channels + order).ravel()
            for order in orders
            for pixels in grid_symmetries(block)
        ]
    )


def place_values(
    measured: Float64Array,
    typical: Float64Array,
    block: int,
    channels: int,
    time_left: TimeLeft = always,
    starts: int = _STARTS,
    seed: int = 0,
) -> Int64Array:
    """Return the plain value that each position is, int64 [V], at the best similarity of all starts.

    After the common one, the leading eigenvectors of a block of typical pictures run across it, down it and
    through its colours. Starts take the measured eigenvectors for these, in any order and under any rotation.

    Args:
        measured: float64 [lags, V, V], correlations of the positions.
        typical: float64 [lags, V, V], those of typical pictures.
        block: The block side in pixels.
        channels: Colour components of a pixel.
        time_left: Asked between starts.
        starts: Most starts.
        seed: Of the random rotations.
    """
    symmetries = block_symmetries(block, channels)
    size = measured.shape[1]
    values = np.arange(size)
    axes = [values // (block * channels), values // channels % block, values % channels]
    lattice = _standardise(np.stack(axes[: 3 if channels > 1 else 2], 1).astype(np.float64))
    points = _standardise(_leading_coordinates(measured[0], lattice.shape[1]))
    rng = np.random.default_rng(seed)
    best, best_similarity, agreeing = values, -np.inf, 0
    for start in range(_affordable(size, starts)):
        rotated = points @ _rotation(start, lattice.shape[1], rng)
        squared = ((rotated[:, None] - lattice) ** 2).sum(-1)
        nearest = linear_sum_assignment(squared)[1]
        places, similarity = _climb(measured, typical, symmetries, nearest, time_left)
        if similarity > best_similarity + _LEAST_CHANGE * abs(similarity):
            best, best_similarity, agreeing = places, similarity, 1
        else:
            agreeing += similarity > best_similarity - _LEAST_CHANGE * abs(similarity)
        if agreeing >= _AGREEING_STARTS or not time_left():
            break
    return best


def _affordable(size: int, most: int) -> int:
    """Return how many searches over V values the bound on work allows, from 1 to `most`."""
    return int(np.clip(_WORK // (_START_WORK * size**3), 1, most))


def _leading_coordinates(correlations: Float64Array, count: int) -> Float64Array:
    """Return the eigenvectors that follow the leading one, divided by it, float64 [V, count]."""
    vectors = np.linalg.eigh(correlations)[1][:, ::-1]
    common = vectors[:, :1] if np.abs(vectors[:, 0]).min() > 1e-6 else np.ones((len(correlations), 1))
    missing = max(0, 1 + count - len(correlations))
    coordinates: Float64Array = np.pad(vectors[:, 1 : 1 + count], ((0, 0), (0, missing))) / common
    return coordinates


def _standardise(points: Float64Array) -> Float64Array:
    """Return points [V, d] with mean 0 and standard deviation 1 along each axis."""
    centred = points - points.mean(0)
    standardised: Float64Array = centred / np.maximum(centred.std(0), 1e-9)
    return standardised


def _rotation(start: int, count: int, rng: np.random.Generator) -> Float64Array:
    """Return the rotation of a start, float64 [count, count].

    The first starts give each axis in turn to the colours and rotate the others by steps. Later ones are random.
    """
    if start < _ANGLES * (2 * count - 3):
        angle = np.pi / (2.0 * _ANGLES) * (start % _ANGLES)
        rotation = np.eye(count)
        rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return np.roll(np.eye(count), start // _ANGLES, 0) @ rotation
    orthogonal: Float64Array = np.linalg.qr(rng.normal(size=(count, count)))[0]
    return orthogonal


def improve_places(
    nearness: Float64Array, block: int, channels: int, time_left: TimeLeft = always
) -> Int64Array:
    """Return places improved from each value's own, int64 [V].

    Args:
        nearness: float64 [3, V, V], measured in the relations of `nearness_kernel`.
        block: The block side in pixels.
        channels: Colour components of a pixel.
        time_left: Asked between restarts.
    """
    kernel, symmetries = nearness_kernel(block, channels), block_symmetries(block, channels)
    size = nearness.shape[1]
    rng = np.random.default_rng(0)
    best, best_similarity = _climb(nearness, kernel, symmetries, np.arange(size), time_left)
    for _ in range(_affordable(size, _RESTARTS)):
        if not time_left():
            break
        places, similarity = _climb(nearness, kernel, symmetries, perturb(best, rng), time_left)
        if similarity > best_similarity + _LEAST_CHANGE * abs(similarity):
            best, best_similarity = places, similarity
    return best


def _climb(
    measured: Float64Array,
    kernel: Float64Array,
    symmetries: Int64Array,
    places: Int64Array,
    time_left: TimeLeft,
) -> tuple[Int64Array, float]:
    """Return (places, similarity) after swaps of two and turns of the whole block, until neither helps.

    A layout that is right but for a mirror is many swaps from the truth.
    """
    turned, similarity = places.astype(np.int64), -np.inf
    sweeps = _SWEEPS if len(places) <= MOST_VALUES else 0
    while (now := assignment_similarity(measured, kernel, turned)) > similarity + _LEAST_CHANGE * abs(now):
        places = swap_ascent(measured, kernel, turned, sweeps, time_left)
        similarity = assignment_similarity(measured, kernel, places)
        states = (symmetry[places] for symmetry in symmetries)
        turned = max(states, key=lambda state: assignment_similarity(measured, kernel, state))
        if not time_left():
            break
    return places, similarity
