"""What it costs to put two blocks side by side, summed over a pool.

Edges are extrapolated linearly to the seam, and their mean squared difference m becomes a likelihood
1/(m+4)². Each image adds the log of its likelihood over the usual one of the two sides (black borders,
which fit everything, then tell nothing), with a floor, since edges of the picture do run along seams.
Half of the same evidence between *different* images is taken off: what two places have in common in
every picture, such as being black, says nothing about whether they touch. Without this control the
cheapest cut of a brain scan runs through the head, for its black borders fit each other perfectly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numba
import numpy as np

from coordinator.adversary.puzzle.distances import saturate

_SOFTNESS = np.float32(4.0)  # squared grey levels, about the error of an extrapolated edge
_FLOOR = np.float32(0.02)  # share of true seams that look like any other pair
_CONTROL = 0.5  # weight of the evidence between different images
_TINY = np.float32(1e-12)


def block_sides(images: np.ndarray, cells: np.ndarray, block: int) -> np.ndarray:
    """uint8 [n, h, w, c], int64 [N, M*M] flat pixels → float32 [n, 4, N, M*c], the edges of every block.

    cells[i] lists the pixels of block i in row-major order. Sides are right, left, bottom, top, each
    extrapolated by half a pixel; blocks of one pixel keep their value.
    """
    n, height, width, channels = images.shape
    flat = images.reshape(n, height * width, channels)
    square = cells.reshape(len(cells), block, block)
    inner = min(1, block - 1)
    outer_inner = (
        (square[:, :, -1], square[:, :, -1 - inner]),
        (square[:, :, 0], square[:, :, inner]),
        (square[:, -1], square[:, -1 - inner]),
        (square[:, 0], square[:, inner]),
    )
    sides = np.empty((n, 4, len(cells), block * channels), np.float32)
    for side, (outer, inner_pixels) in enumerate(outer_inner):
        edge = flat[:, outer].astype(np.float32) * np.float32(1.5)
        edge -= flat[:, inner_pixels] * np.float32(0.5)
        sides[:, side] = edge.reshape(n, len(cells), -1)
    return sides


@numba.njit(cache=True, fastmath=True)
def _fits(first: np.ndarray, second: np.ndarray, softness: np.float32) -> np.ndarray:
    count, size = first.shape
    out = np.zeros((count, count), np.float32)
    for i in range(count):
        row = out[i]
        for f in range(size):
            value = first[i, f]
            for j in range(count):
                difference = value - second[f, j]
                row[j] += difference * difference
        for j in range(count):
            soft = row[j] / np.float32(size) + softness
            row[j] = np.float32(1.0) / (soft * soft)
        row[i] = np.float32(0.0)  # no block stands beside itself
    return out


def likelihoods(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [N, F] twice → float32 [N, N]: 1/(m+4)² of the mean squared difference m of two edges.

    Differences are taken one by one: a product of such small matrices, handed to BLAS, spends its time
    waiting for threads wherever the machine is busy.
    """
    fit: np.ndarray = _fits(first, np.ascontiguousarray(second.T), _SOFTNESS)
    return fit


def _log_ratio(fit: np.ndarray, usual_first: np.ndarray, usual_second: np.ndarray) -> np.ndarray:
    """log(floor + fit / usual), in place."""
    fit /= usual_first[:, None]
    fit /= usual_second
    fit += _FLOOR
    return np.log(fit, out=fit)


def seam_costs(
    images: Iterable[np.ndarray], count: int, time_left: Callable[[], bool] = lambda: True
) -> tuple[np.ndarray, np.ndarray]:
    """(across, down), float64 [N, N] each: the cost of block j right of, and below, block i.

    images: float32 [4, N, F] block sides, one image after another; count: N. Lower is better, 0 says
    nothing for or against. `more` is asked after every image and ends the sum early.
    """
    costs = np.zeros((2, count, count))
    opening: list[tuple[np.ndarray, np.ndarray]] = []  # the first image's second edges, their usual fit
    before: list[tuple[np.ndarray, np.ndarray]] = []  # the image before: its first edges, their usual fit
    seen = 0
    if count < 2:
        return costs[0], costs[1]
    for sides in images:
        now = []
        for direction in (0, 1):
            first, second = sides[2 * direction], sides[2 * direction + 1]
            fit = likelihoods(first, second)
            usual_first = np.sqrt(np.maximum(fit.sum(1) / (count - 1), _TINY))
            usual_second = np.sqrt(np.maximum(fit.sum(0) / (count - 1), _TINY))
            costs[direction] -= _log_ratio(fit, usual_first, usual_second)
            if seen:
                other, usual_other = before[direction]
                control = _log_ratio(likelihoods(other, second), usual_other, usual_second)
                costs[direction] += _CONTROL * control
            else:
                opening.append((second, usual_second))
            now.append((first, usual_first))
        before, seen = now, seen + 1
        if not time_left():
            break
    if seen > 1:  # the last image against the first closes the ring
        for direction in (0, 1):
            (other, usual_other), (second, usual_second) = before[direction], opening[direction]
            control = _log_ratio(likelihoods(other, second), usual_other, usual_second)
            costs[direction] += _CONTROL * control
    for both in costs:
        np.fill_diagonal(both, 0.0)
    return costs[0], costs[1]


def inner_seams(quarters: np.ndarray, side: int) -> float:
    """uint8 [m, 4, side², c] → mean saturating difference across the seams between a block's sub-blocks."""
    m, _, _, channels = quarters.shape
    face = quarters.reshape(m, 2, 2, side, side, channels).astype(np.float32)
    inner = min(1, side - 1)
    beside = (1.5 * face[:, :, 0, :, -1] - 0.5 * face[:, :, 0, :, -1 - inner]) - (
        1.5 * face[:, :, 1, :, 0] - 0.5 * face[:, :, 1, :, inner]
    )
    below = (1.5 * face[:, 0, :, -1] - 0.5 * face[:, 0, :, -1 - inner]) - (
        1.5 * face[:, 1, :, 0] - 0.5 * face[:, 1, :, inner]
    )
    return float(saturate(beside).mean() + saturate(below).mean())
