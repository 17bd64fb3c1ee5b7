"""The values of laid-out blocks assigned anew to the cells of their blocks, by what surrounds each cell.

A rough layout brings values near their cells. What stands around a cell then says which value belongs in it: the
values around it, in its own block and across the seams, that differ least from it in the pictures of the pool. All
values of a block are assigned at once (linear assignment), block after block. The surroundings are wide at first,
which moves whole strips of a block, and become narrow, which sorts single values.

No layout is an input: the pictures as they were opened are enough. Each colour component is a picture of its own.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.adversary.values.value_distances import LOG_DIFFERENCES, mean_distances
from crypto.arrays import BoolArray, Float32Array, Int64Array, UInt8Array
from crypto.kernels.blocks import from_blocks, to_blocks

#: Standard deviation of the surroundings in pixels, how far they reach, and most images, pass by pass. Of eight
#: schedules on 100 brain scans of 224×224 those that began narrower opened blurrier pictures, those that began wider
#: no sharper ones. Wide surroundings in more than 40 images opened nothing sharper.
_PASSES = (
    (8.0, 8, 40),
    (5.0, 6, 40),
    (3.0, 6, 40),
    (2.0, 4, 40),
    (1.5, 3, 100),
    (1.0, 2, 100),
    (0.8, 2, 100),
    (0.6, 2, 100),
)
#: Surroundings that are wider than this share of a block would mix it with all of its neighbours.
#: Set once by hand; no measurement is recorded.
_WIDEST = 0.5


def assign_by_surroundings(picture: UInt8Array, block: int, time_left: TimeLeft = always) -> Int64Array:
    """Return the cell that each cell's values belong in, int64 [N, block²], for one component of the pictures.

    Args:
        picture: uint8 [h, w, n], one component of n opened pictures, whose blocks are in their places.
        block: The block side in pixels.
        time_left: Asked before every block. When it returns False, what was found so far is returned.

    Returns:
        For each block in reading order, the cell where the values of each of its cells belong: a permutation.
    """
    height, width, images = picture.shape
    grid = (height // block, width // block)
    moved = np.tile(np.arange(block * block), (grid[0] * grid[1], 1))
    for spread, reach, most in _PASSES:
        if spread > _WIDEST * block > 0.5:
            continue
        sample = evenly_spaced(np.arange(images), most)
        seen = _laid_out(picture[:, :, sample], moved, block)
        for at in range(len(moved)):
            if not time_left():
                return moved
            corner = (block * (at // grid[1]), block * (at % grid[1]))
            own = tuple(slice(start, start + block) for start in corner)
            values = seen[own].reshape(block * block, -1)
            if np.ptp(values, axis=1).any():
                cells = _assign(seen, corner, block, (spread, reach))
                seen[own] = values[np.argsort(cells)].reshape(block, block, -1)
                moved[at] = cells[moved[at]]
    return moved


def _laid_out(picture: UInt8Array, moved: Int64Array, block: int) -> UInt8Array:
    """Return uint8 [h, w, n] with the values of every block in the cells that they belong in, int64 [N, block²]."""
    height, width, _ = picture.shape
    blocks = to_blocks(picture[None], block)[0]  # [N, block², n]
    sorted_blocks = np.take_along_axis(blocks, np.argsort(moved, axis=1)[..., None], 1)
    out: UInt8Array = from_blocks(sorted_blocks[None], height, width)[0]
    return out


def _assign(
    picture: UInt8Array, corner: tuple[int, int], block: int, surroundings: tuple[float, int]
) -> Int64Array:
    """Return the cell that the values of each cell of one block belong in, int64 [block²].

    Args:
        picture: uint8 [h, w, n].
        corner: Row and column of the block's first pixel.
        block: The block side in pixels.
        surroundings: Standard deviation and reach of what surrounds a cell, in pixels.
    """
    spread, reach = surroundings
    (top, left), (height, width) = corner, picture.shape[:2]
    rows = range(max(0, top - reach), min(height, top + block + reach))
    columns = range(max(0, left - reach), min(width, left + block + reach))
    around = np.ascontiguousarray(picture[rows.start : rows.stop, columns.start : columns.stop])
    around = around.reshape(len(rows) * len(columns), -1)
    weights, is_own = _weights(
        rows.start - top, len(rows), columns.start - left, len(columns), block, spread
    )
    distances = mean_distances(around[is_own], around, LOG_DIFFERENCES).astype(np.float32)
    # A value is no neighbour of its own: where it stands now must not hold it there.
    others = weights.sum(1) - weights[:, is_own].T
    costs = distances @ weights.T / np.maximum(others, np.finfo(np.float32).tiny)
    cells: Int64Array = linear_sum_assignment(costs)[1].astype(np.int64)
    return cells


@functools.lru_cache(maxsize=16)  # blocks inside the picture, and those at each of its sides and corners
def _weights(
    top: int, height: int, left: int, width: int, block: int, spread: float
) -> tuple[Float32Array, BoolArray]:
    """Return how much each place counts around each cell of a block, and which places are the block's own.

    Args:
        top: The first row of places, counted from the block's first.
        height: Rows of places.
        left: The first column of places, counted from the block's first.
        width: Columns of places.
        block: The block side in pixels.
        spread: Standard deviation of what counts, in pixels.

    Returns:
        Weights float32 [block², places], 0 for the cell itself, and bool [places].
    """
    cell_row, cell_column = np.divmod(np.arange(block * block), block)
    row = np.repeat(np.arange(top, top + height), width)
    column = np.tile(np.arange(left, left + width), height)
    squared = (cell_row[:, None] - row) ** 2 + (cell_column[:, None] - column) ** 2
    weights: Float32Array = np.exp(-squared / (2.0 * spread * spread)).astype(np.float32)
    weights[squared == 0] = 0.0
    is_own: BoolArray = (row >= 0) & (row < block) & (column >= 0) & (column < block)
    return weights, is_own
