"""The blocks of block_pixel, each refined beside its neighbours: signs, colour orders, turns and cells.

This is step 5 of block_pixel.py. `Blocks` is what the steps before it have found out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt

import numpy as np

from coordinator.adversary.puzzle.block_refinement import refine_states
from coordinator.adversary.puzzle.block_symmetry import sides_to_walks
from coordinator.adversary.puzzle.seams import block_sides
from coordinator.adversary.puzzle.side_matching import typical_likelihoods
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.block_layout import (
    nearest_distances,
    neighbour_costs,
    orient_layout,
    refine_layout,
    side_costs,
)
from coordinator.adversary.values.value_distances import tree_signs
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array, Rows, UInt8Array
from crypto.kernels.blocks import block_pixels, from_blocks
from crypto.symmetry import COLOUR_ORDERS, turned_pixels

#: Most images used for the puzzle and for comparing whole blocks. Set once; not tuned further.
_PUZZLE_IMAGES = 40
#: How often the cells of all blocks are refined. Set once; not tuned further.
_PASSES = 3
_STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


@dataclass(frozen=True)
class Blocks:
    """What is known of N sealed blocks. S = M² cells, c components, V = S·c values, n images.

    Attributes:
        values: uint8 [N, V, n], signs undone.
        flip: bool [N, V], the values that are negated.
        member: int64 [N, c, S], the values of each component.
        cell: int64 [N, c, S], the cell of each of them.
        apart: float32 [N, c, S, S], distances within a component.
    """

    values: UInt8Array
    flip: BoolArray
    member: Int64Array
    cell: Int64Array
    apart: Float32Array

    @property
    def side(self) -> int:
        """The side of a block in pixels."""
        return isqrt(self.cell.shape[2])

    @property
    def sample(self) -> Rows:
        """Some of the images, for comparing whole blocks."""
        return evenly_spaced(np.arange(self.values.shape[2]), _PUZZLE_IMAGES)

    def component(self, block: int, m: int) -> UInt8Array:
        """Return the values of one component of a block, uint8 [S, n]."""
        component: UInt8Array = self.values[block, self.member[block, m]]
        return component

    def faces(self) -> UInt8Array:
        """Return the blocks as laid out, uint8 [N, S, c, n]."""
        count, channels, size = self.cell.shape
        out = np.empty((count, size, channels, self.values.shape[2]), np.uint8)
        place = np.arange(count)[:, None, None]
        out[place, self.cell, np.arange(channels)[:, None]] = self.values[place, self.member]
        return out


def block_side_values(blocks: Blocks, shape: tuple[int, int]) -> Float32Array:
    """Return float32 [n, 4, N, M·c] for some images: the sides of the blocks as laid out."""
    side = blocks.side
    faces = blocks.faces()[..., blocks.sample].transpose(3, 0, 1, 2)
    height, width = shape[0] * side, shape[1] * side
    return block_sides(from_blocks(faces, height, width), block_pixels(height, width, side), side)


def turn_and_reorder(blocks: Blocks, turn: Int64Array, order: Int64Array) -> Blocks:
    """Return the blocks with every block turned and its components reordered, int64 [N] each, as in `Solution`."""
    channels = blocks.cell.shape[1]
    moved = np.argsort(turned_pixels(blocks.side), axis=1)  # [8, S]: where each cell goes
    orders = COLOUR_ORDERS[order] if channels == 3 else np.zeros((len(order), 1), np.int64)
    place = np.arange(len(order))[:, None]
    cell = moved[turn[:, None, None], blocks.cell[place, orders]]
    return replace(
        blocks, cell=cell, member=blocks.member[place, orders], apart=blocks.apart[place, orders]
    )


def refine_beside_neighbours(blocks: Blocks, grid: Int64Array, time_left: TimeLeft) -> Blocks:
    """Return the blocks with the sign, colour order, turn and cells that suit their neighbours in the grid."""
    count, channels, _ = blocks.cell.shape
    zero = np.zeros(count, np.int64)
    if channels == 3 and count > 1:  # a single block has nothing beside it that its colours could suit
        walked = sides_to_walks(block_side_values(blocks, (grid.shape[0], grid.shape[1])), channels)
        _, _, order = refine_states(walked, typical_likelihoods(walked), grid, zero, zero > 0, zero)
        blocks = turn_and_reorder(blocks, zero, order)
    neighbours = _neighbours(grid)
    near = _distances_to_neighbours(blocks, neighbours, time_left)
    if near is None:
        return blocks
    negative = tree_signs(_sign_coupling(near, neighbours, blocks.side)) < 0
    values = blocks.values ^ np.where(negative, 255, 0).astype(np.uint8)[:, None, None]
    if values.mean() > 127.5:
        values, negative = 255 - values, ~negative
    blocks = replace(blocks, values=values, flip=blocks.flip ^ negative[:, None])
    differs = negative[:, None] != negative[neighbours]  # [N, 4]
    near_in_sign = np.where(differs[..., None, None], near[1], near[0])  # [N, 4, c, S]
    return _refine_cells(blocks, neighbours, near_in_sign, time_left)


def _distances_to_neighbours(
    blocks: Blocks, neighbours: Int64Array, time_left: TimeLeft
) -> Float32Array | None:
    """Return float32 [2, N, 4, c, S]: each value's least distance to each neighbour, as it is and negated.

    NaN at the border of the picture. None if the time ran out.
    """
    count, channels, size = blocks.cell.shape
    near = np.full((2, count, 4, channels, size), np.nan, np.float32)
    sample = blocks.sample
    for i, direction in zip(*np.nonzero(neighbours >= 0), strict=True):
        if not time_left():
            return None
        j = neighbours[i, direction]
        for m in range(channels):
            near[:, i, direction, m] = nearest_distances(
                blocks.component(i, m)[:, sample], blocks.component(j, m)[:, sample]
            )
    return near


def _sign_coupling(near: Float32Array, neighbours: Int64Array, side: int) -> Float64Array:
    """Return float64 [N, N]: how much more two neighbouring blocks agree as they are than with one negated."""
    coupling = np.zeros((len(neighbours), len(neighbours)))
    for i, direction in zip(*np.nonzero(neighbours >= 0), strict=True):
        j = neighbours[i, direction]
        # A side's worth of the nearest values are those that touch the neighbour.
        touching = np.partition(near[:, i, direction], side - 1, axis=-1)[..., :side].mean((1, 2))
        coupling[i, j] += touching[1] - touching[0]
        coupling[j, i] += touching[1] - touching[0]
    return coupling


def _refine_cells(
    blocks: Blocks, neighbours: Int64Array, near: Float32Array, time_left: TimeLeft
) -> Blocks:
    """Turn every block by its distances to its neighbours, then refine all cells, block after block, in passes."""
    channels, side = blocks.cell.shape[1], blocks.side
    cell = blocks.cell.copy()
    blocks = replace(blocks, cell=cell)
    pulls = [[side_costs(near[i, :, m], side) for m in range(channels)] for i in range(len(cell))]
    for i, pull in enumerate(pulls):
        cell[i] = orient_layout(cell[i], pull, side)
    faces = blocks.faces()
    for turn in range(_PASSES):
        for i in range(len(cell)):
            if not time_left():
                return blocks
            for m in range(channels):
                values = blocks.component(i, m)
                sides = [faces[j, :, m].reshape(side, side, -1) if j >= 0 else None for j in neighbours[i]]
                narrow = neighbour_costs(values, sides, side)
                wide = pulls[i][m] if turn == 0 else None
                cell[i, m] = refine_layout(
                    blocks.apart[i, m].astype(np.float64), narrow, wide, cell[i, m], side
                )
                faces[i, cell[i, m], m] = values
    return blocks


def _neighbours(grid: Int64Array) -> Int64Array:
    """Return int64 [N, 4]: the block above, right of, below and left of every block, -1 at the border."""
    framed = np.pad(grid, 1, constant_values=-1)
    out = np.empty((grid.size, 4), np.int64)
    for direction, (down, across) in enumerate(_STEPS):
        height, width = grid.shape
        out[grid, direction] = framed[1 + down : 1 + down + height, 1 + across : 1 + across + width]
    return out
