"""Key recovery from a pool of block-pixel ciphertexts under one key (T1).

Source: our own. Every block place has a permutation and a negative-positive mask of its own, so each is a puzzle of
its own, of V values by n images. It needs no plain image, only the scheme and sealed images under a shared key:

1. values of a block against each other (block_values.py): the mask of each block, up to its sign; the dark one;
2. each block laid out alone by its distances (colour_values.py, fit_block.py), roughly, up to the 8 symmetries;
3. the rough blocks as a puzzle of turned blocks (puzzle.py): a first order of the blocks;
4. which blocks touch, told without any layout (adjacency.py): K1, and the signs of the blocks;
5. every block turned, and its values laid out anew, beside its neighbours (fit_block.py): K2.

Up to the eight symmetries, the sign and the colour order of the whole picture. Values that are alike, in smooth or
black blocks, change places: few rows of K2 are exact, and what opens is the picture a little blurred. Fewer than
FEWEST images tell nothing about single values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Recovered
from coordinator.adversary.puzzle.adjacency import block_distances, order_blocks
from coordinator.adversary.puzzle.block_refinement import improve
from coordinator.adversary.puzzle.block_symmetry import walks
from coordinator.adversary.puzzle.distances import flat_blocks
from coordinator.adversary.puzzle.seams import block_sides
from coordinator.adversary.puzzle.side_matching import usual_fits
from coordinator.adversary.puzzle.solver import Solved, solve
from coordinator.adversary.values.block_layout import beside, leaning, nearest, refit, upright
from coordinator.adversary.values.colour_block_layout import lay_values
from coordinator.adversary.values.value_distances import relative_signs, tree_signs, value_distances
from crypto.kernels.blocks import block_pixels, from_blocks, to_blocks
from crypto.scheme import load
from crypto.schemes.block_pixel import BlockPixel
from crypto.schemes.etc import turned_pixels
from crypto.schemes.pe import ORDERS

FEWEST = 4
#: Of more blocks, or blocks of more values, nothing is sought: both take minutes.
MOST_BLOCKS, MOST_VALUES = 1024, 1024
_IMAGES, _FEW = 200, 40  # most images used, and most of them for the puzzle and for whole blocks
_PASSES = 3
_STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


@dataclass(frozen=True)
class Blocks:
    """What is known of N sealed blocks. S = M² cells, c components, V = S·c values, n images.

    values: uint8 [N, V, n], signs undone. flip: bool [N, V], which are negated. member, cell: int64 [N, c, S],
    the values of each component and the cell of each. apart: float32 [N, c, S, S], distances within a component.
    """

    values: np.ndarray
    flip: np.ndarray
    member: np.ndarray
    cell: np.ndarray
    apart: np.ndarray

    @property
    def side(self) -> int:
        return round(self.cell.shape[2] ** 0.5)

    def component(self, block: int, m: int) -> np.ndarray:
        """uint8 [S, n]."""
        own: np.ndarray = self.values[block, self.member[block, m]]
        return own

    def faces(self) -> np.ndarray:
        """uint8 [N, S, c, n]: the blocks as laid out."""
        count, channels, size = self.cell.shape
        out = np.empty((count, size, channels, self.values.shape[2]), np.uint8)
        place = np.arange(count)[:, None, None]
        out[place, self.cell, np.arange(channels)[:, None]] = self.values[place, self.member]
        return out


def recover(pool: Ciphertexts, seen: np.ndarray, time_left: Callable[[], bool]) -> Recovered | None:
    """K1, K2 and mask from int64 [n] rows; None where no value varies, or n is below FEWEST."""
    spec = pool.spec
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, BlockPixel)
    if len(seen) < FEWEST or spec.blocks > MOST_BLOCKS or spec.block**2 * spec.image_shape[2] > MOST_VALUES:
        return None
    rows = np.sort(np.random.default_rng(0).permutation(seen)[:_IMAGES])
    notes = [f"from {len(rows)} of {len(seen)} images"] if len(rows) < len(seen) else []
    sealed = to_blocks(pool.images(rows), spec.block)  # [n, N, S, c]
    values = np.ascontiguousarray(sealed.reshape(*sealed.shape[:2], -1).transpose(1, 2, 0))
    folded = np.minimum(sealed, 255 - sealed).reshape(*sealed.shape[:2], -1)  # as no mask changes it
    if not np.ptp(values, axis=2).any() or (spec.block > 1 and flat_blocks(folded, spec.image_shape[2])):
        return None
    blocks = lay_out(values, spec.image_shape[2], time_left)
    solved = puzzled(blocks, spec.grid, time_left)
    blocks = restated(blocks, solved.turn, solved.order)
    distances = block_distances(blocks.values, spec.block * spec.image_shape[2], time_left)
    grid = order_blocks(distances, solved.grid, time_left)
    blocks = settled(blocks, grid, time_left)
    if not time_left():
        notes.append("truncated: out of time")
    parts = key_parts(blocks, grid)
    return Recovered(algorithm.table(parts).inverse(), parts, tuple(notes))


def lay_out(values: np.ndarray, channels: int, time_left: Callable[[], bool]) -> Blocks:
    """uint8 [N, V, n] sealed values → every block by itself, its dark sign taken, as long as there is time."""
    count, total, _ = values.shape
    size = total // channels
    values, flip = values.copy(), np.zeros((count, total), bool)
    member = np.tile(np.arange(total).reshape(channels, size), (count, 1, 1))
    cell = np.tile(np.arange(size), (count, channels, 1))
    apart = np.zeros((count, channels, size, size), np.float32)
    for i in range(count):
        if not time_left():
            break
        equal, opposite = value_distances(values[i])
        flip[i] = relative_signs(equal, opposite)
        if np.where(flip[i, :, None], 255 - values[i], values[i]).mean() > 127.5:
            flip[i] ^= True
        values[i] ^= np.where(flip[i, :, None], np.uint8(255), np.uint8(0))
        distances = np.where(flip[i][:, None] == flip[i], equal, opposite).astype(np.float64)
        distances /= max(float(np.median(distances)), 1e-9)
        member[i], cell[i] = lay_values(distances, round(size**0.5))
        apart[i] = distances[member[i][:, :, None], member[i][:, None, :]]
    return Blocks(values, flip, member, cell, apart)


def _sides(blocks: Blocks, shape: tuple[int, int]) -> np.ndarray:
    """float32 [n, 4, N, M·c] of a few images: the sides of the blocks as laid out."""
    side, n = blocks.side, blocks.values.shape[2]
    few = np.linspace(0, n - 1, min(n, _FEW)).astype(np.int64)
    faces = blocks.faces()[..., few].transpose(3, 0, 1, 2)
    height, width = shape[0] * side, shape[1] * side
    return block_sides(from_blocks(faces, height, width), block_pixels(height, width, side), side)


def puzzled(blocks: Blocks, shape: tuple[int, int], time_left: Callable[[], bool]) -> Solved:
    """A first order, turns and colour orders, by the rough blocks' sides."""
    return solve(_sides(blocks, shape), blocks.cell.shape[1], shape, time_left)


def restated(blocks: Blocks, turn: np.ndarray, order: np.ndarray) -> Blocks:
    """Every block turned and its components reordered, int64 [N] each, as `Solved` says."""
    channels = blocks.cell.shape[1]
    moved = np.argsort(turned_pixels(blocks.side), axis=1)  # [8, S]: where each cell goes
    orders = ORDERS[order] if channels == 3 else np.zeros((len(order), 1), np.int64)
    place = np.arange(len(order))[:, None]
    cell = moved[turn[:, None, None], blocks.cell[place, orders]]
    return replace(
        blocks, cell=cell, member=blocks.member[place, orders], apart=blocks.apart[place, orders]
    )


def settled(blocks: Blocks, grid: np.ndarray, time_left: Callable[[], bool]) -> Blocks:
    """Signs, colour orders, turns and cells of all blocks, each beside its neighbours in the grid."""
    count, channels, size = blocks.cell.shape
    zero = np.zeros(count, np.int64)
    if channels == 3:
        walked = walks(_sides(blocks, (grid.shape[0], grid.shape[1])), channels)
        _, _, order = improve(walked, usual_fits(walked), grid, zero, zero > 0, zero)
        blocks = restated(blocks, zero, order)
    near = np.full((2, count, 4, channels, size), np.nan, np.float32)
    n = blocks.values.shape[2]
    few = np.linspace(0, n - 1, min(n, _FEW)).astype(np.int64)
    coupling = np.zeros((count, count))
    around = _around(grid)
    for i, direction in zip(*np.nonzero(around >= 0), strict=True):
        if not time_left():
            return blocks
        j = around[i, direction]
        for m in range(channels):
            own, other = blocks.component(i, m)[:, few], blocks.component(j, m)[:, few]
            near[:, i, direction, m] = nearest(own, other)
        touching = np.partition(near[:, i, direction], blocks.side - 1, axis=-1)[..., : blocks.side].mean(
            (1, 2)
        )
        coupling[i, j] += touching[1] - touching[0]
        coupling[j, i] += touching[1] - touching[0]
    negative = tree_signs(coupling) < 0
    values = blocks.values ^ np.where(negative, 255, 0).astype(np.uint8)[:, None, None]
    if values.mean() > 127.5:
        values, negative = 255 - values, ~negative
    blocks = replace(blocks, values=values, flip=blocks.flip ^ negative[:, None])
    differs = negative[:, None] != negative[around]  # [N, 4]
    lean = np.where(differs[..., None, None], near[1], near[0])  # [N, 4, c, S]
    return _fitted(blocks, around, lean, time_left)


def _fitted(blocks: Blocks, around: np.ndarray, lean: np.ndarray, time_left: Callable[[], bool]) -> Blocks:
    """Turns by what leans where, then cells, over and over in the order of the places."""
    channels, side = blocks.cell.shape[1], blocks.side
    cell = blocks.cell.copy()
    blocks = replace(blocks, cell=cell)
    pulls = [[leaning(lean[i, :, m], side) for m in range(channels)] for i in range(len(cell))]
    for i, pull in enumerate(pulls):
        cell[i] = upright(cell[i], pull, side)
    faces = blocks.faces()
    for turn in range(_PASSES):
        for i in range(len(cell)):
            if not time_left():
                return blocks
            for m in range(channels):
                own = blocks.component(i, m)
                sides = [faces[j, :, m].reshape(side, side, -1) if j >= 0 else None for j in around[i]]
                narrow = beside(own, sides, side)
                wide = pulls[i][m] if turn == 0 else None
                cell[i, m] = refit(blocks.apart[i, m].astype(np.float64), narrow, wide, cell[i, m], side)
                faces[i, cell[i, m], m] = own
    return blocks


def _around(grid: np.ndarray) -> np.ndarray:
    """int64 [N, 4]: the block above, right of, below and left of every block, -1 at the border."""
    framed = np.pad(grid, 1, constant_values=-1)
    out = np.empty((grid.size, 4), np.int64)
    for direction, (down, across) in enumerate(_STEPS):
        height, width = grid.shape
        out[grid, direction] = framed[1 + down : 1 + down + height, 1 + across : 1 + across + width]
    return out


def key_parts(blocks: Blocks, grid: np.ndarray) -> dict[str, np.ndarray]:
    """K1, K2 and mask as the scheme has them."""
    count, channels, _ = blocks.cell.shape
    k1 = np.empty(count, np.int64)
    k1[grid.ravel()] = np.arange(count)
    k2 = np.empty(blocks.flip.shape, np.int64)
    place = np.arange(count)[:, None, None]
    k2[place, blocks.member] = blocks.cell * channels + np.arange(channels)[:, None]
    return {"K1": k1, "K2": k2, "mask": blocks.flip}
