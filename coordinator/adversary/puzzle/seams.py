"""What it costs to put two blocks side by side, summed over a pool.

The sides of two blocks are extrapolated linearly to the seam, and their mean squared difference m becomes a
likelihood 1/(m+4)². Each image adds the log of this likelihood over the typical one of the two sides. Black
borders fit everything, so they tell nothing by this measure. A floor keeps one bad seam from deciding alone,
since edges of the picture do run along seams.

Half of the same evidence between *different* images is taken off. What two places have in common in every
picture, such as being black, says nothing about whether they touch. Without this control the cheapest cut of a
brain scan runs through the head, because its black borders fit each other perfectly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np

from coordinator.adversary.puzzle.distances import saturate
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float32Array, Float64Array, Images, Int64Array, UInt8Array

#: Added to a mean squared difference, in squared gray levels: about the squared error of an extrapolated side.
SOFTNESS = np.float32(4.0)
#: Added to a likelihood ratio: the share of true seams that look like those of any other pair.
#: Set once by hand; no measurement is recorded.
FLOOR = np.float32(0.02)
#: Weight of the evidence between different images. Without it black borders decide where a head scan is cut;
#: half of it settles the frame of brain MRI slices (coordinator/adversary/README.md). No other weight is on record.
CONTROL = np.float32(0.5)
#: Least mean likelihood of a side: keeps the ratio finite where nothing fits.
TINY = np.float32(1e-12)


def block_sides(images: Images, cells: Int64Array, block: int) -> Float32Array:
    """Return the sides of every block, float32 [n, 4, N, M·c], in the order right, left, bottom, top.

    Each side is extrapolated outwards by half a pixel. Blocks of one pixel keep their value.

    Args:
        images: uint8 [n, h, w, c].
        cells: int64 [N, M·M]: the flat pixels of every block, row-major.
        block: The block side M in pixels.
    """
    n, height, width, channels = images.shape
    flat = images.reshape(n, height * width, channels)
    square = cells.reshape(len(cells), block, block)
    inner = min(1, block - 1)
    lines = (
        (square[:, :, -1], square[:, :, -1 - inner]),
        (square[:, :, 0], square[:, :, inner]),
        (square[:, -1], square[:, -1 - inner]),
        (square[:, 0], square[:, inner]),
    )
    sides = np.empty((n, 4, len(cells), block * channels), np.float32)
    for side, (outer_line, inner_line) in enumerate(lines):
        extrapolated = flat[:, outer_line].astype(np.float32) * np.float32(1.5)
        extrapolated -= flat[:, inner_line] * np.float32(0.5)
        sides[:, side] = extrapolated.reshape(n, len(cells), -1)
    return sides


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _likelihoods(first: Float32Array, second: Float32Array, softness: np.float32) -> Float32Array:
    """Return 1/(m+softness)² of sides [N, F] and [F, N], float32 [N, N], 0 on the diagonal."""
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
        row[i] = np.float32(0.0)  # a block is not its own neighbour
    return out


def likelihoods(first: Float32Array, second: Float32Array) -> Float32Array:
    """Return 1/(m+4)² of the mean squared difference m of two sides, float32 [N, N], for sides float32 [N, F].

    Differences are taken one by one. A product of such small matrices, handed to BLAS, spends its time waiting for
    threads on a busy machine: it was ten times slower.
    """
    result: Float32Array = _likelihoods(first, np.ascontiguousarray(second.T), SOFTNESS)
    return result


def _log_ratio(
    likelihood: Float32Array, typical_first: Float32Array, typical_second: Float32Array
) -> Float32Array:
    """Return log(floor + likelihood / typical), computed in place."""
    likelihood /= typical_first[:, None]
    likelihood /= typical_second
    likelihood += FLOOR
    return np.log(likelihood, out=likelihood)


@dataclass(frozen=True)
class _Sides:
    """The sides of all blocks of one image that meet in one direction.

    Attributes:
        first: float32 [N, F], the right sides or the bottoms.
        second: float32 [N, F], the left sides or the tops.
        typical_first: float32 [N], root of the mean likelihood of each first side.
        typical_second: float32 [N], the same of each second side.
    """

    first: Float32Array
    second: Float32Array
    typical_first: Float32Array
    typical_second: Float32Array


def _measure(first: Float32Array, second: Float32Array) -> tuple[_Sides, Float32Array]:
    """Return the sides with their typical likelihoods, and the evidence float32 [N, N] that two of them touch."""
    likelihood = likelihoods(first, second)
    others = len(first) - 1
    typical_first = np.sqrt(np.maximum(likelihood.sum(1) / others, TINY))
    typical_second = np.sqrt(np.maximum(likelihood.sum(0) / others, TINY))
    evidence = _log_ratio(likelihood, typical_first, typical_second)
    return _Sides(first, second, typical_first, typical_second), evidence


def _control(image: _Sides, other: _Sides) -> Float32Array:
    """Return the weighted evidence between the sides of two different images, float32 [N, N]."""
    likelihood = likelihoods(image.first, other.second)
    return CONTROL * _log_ratio(likelihood, image.typical_first, other.typical_second)


def seam_costs(
    images: Iterable[Float32Array], count: int, time_left: TimeLeft = always
) -> tuple[Float64Array, Float64Array]:
    """Return (across, down), float64 [N, N] each: the cost of block j right of, and below, block i.

    Lower is better, and 0 says nothing for or against. Each image is controlled by the next one, the last by
    the first.

    Args:
        images: float32 [4, N, F], the block sides of one image after another.
        count: N.
        time_left: Asked after every image. The sum ends early if it returns False.
    """
    costs = np.zeros((2, count, count))
    if count < 2:
        return costs[0], costs[1]
    opening: list[_Sides] = []
    previous: list[_Sides] = []
    image_count = 0
    for sides in images:
        current = []
        for direction in (0, 1):
            measured, evidence = _measure(sides[2 * direction], sides[2 * direction + 1])
            costs[direction] -= evidence
            if previous:
                costs[direction] += _control(previous[direction], measured)
            current.append(measured)
        opening, previous = opening or current, current
        image_count += 1
        if not time_left():
            break
    if image_count > 1:
        for direction in (0, 1):
            costs[direction] += _control(previous[direction], opening[direction])
    for table in costs:
        np.fill_diagonal(table, 0.0)
    return costs[0], costs[1]


def inner_seam_cost(quarters: UInt8Array, side: int) -> float:
    """Return the mean saturating difference across the seams between a block's sub-blocks.

    Args:
        quarters: uint8 [m, 4, side², c], the sub-blocks of m blocks, row-major.
        side: The side of a sub-block in pixels.
    """
    m, _, _, channels = quarters.shape
    face = quarters.reshape(m, 2, 2, side, side, channels).astype(np.float32)
    inner = min(1, side - 1)
    across = (1.5 * face[:, :, 0, :, -1] - 0.5 * face[:, :, 0, :, -1 - inner]) - (
        1.5 * face[:, :, 1, :, 0] - 0.5 * face[:, :, 1, :, inner]
    )
    down = (1.5 * face[:, 0, :, -1] - 0.5 * face[:, 0, :, -1 - inner]) - (
        1.5 * face[:, 1, :, 0] - 0.5 * face[:, 1, :, inner]
    )
    return float(saturate(across).mean() + saturate(down).mean())
