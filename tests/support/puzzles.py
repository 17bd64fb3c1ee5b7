"""Blocks in random states, their sides and walks, and costs of seams with a planted picture."""

from __future__ import annotations

import numpy as np

from coordinator.adversary.puzzle.block_symmetry import sides_to_walks
from coordinator.adversary.puzzle.seams import block_sides
from crypto.arrays import BoolArray, Float32Array, Float64Array, Images, Int64Array, UInt8Array
from crypto.kernels.blocks import block_pixels, from_blocks, to_blocks
from crypto.symmetry import COLOUR_ORDERS, turned_pixels


def set_states(blocks: UInt8Array, turn: Int64Array, negative: BoolArray, order: Int64Array) -> UInt8Array:
    """Return blocks uint8 [n, N, M², c] brought into these states, one by one."""
    out = np.empty_like(blocks)
    pixels = turned_pixels(round(blocks.shape[2] ** 0.5))
    for i in range(blocks.shape[1]):
        piece = blocks[:, i][:, pixels[turn[i]]]
        piece = 255 - piece if negative[i] else piece
        out[:, i] = piece[..., COLOUR_ORDERS[order[i]]] if blocks.shape[3] == 3 else piece
    return out


def random_states(count: int, channels: int, seed: int) -> tuple[Int64Array, BoolArray, Int64Array]:
    """Return random (turn, negative, order) of N blocks."""
    rng = np.random.default_rng(seed)
    order = rng.integers(0, 6, count) if channels == 3 else np.zeros(count, np.int64)
    return rng.integers(0, 8, count), rng.random(count) < 0.5, order


def sides_of(images: Images, block: int) -> Float32Array:
    """Return the sides of all blocks of images, as `block_sides` does."""
    _, height, width, _ = images.shape
    return block_sides(images, block_pixels(height, width, block), block)


def walks_of(images: Images, block: int) -> Float32Array:
    """Return the walks around all blocks of images."""
    return sides_to_walks(sides_of(images, block), images.shape[3])


def disorder(plain: Images, block: int, seed: int) -> Images:
    """Return images whose blocks are moved and put into random states, the same ones in every image."""
    blocks = to_blocks(plain, block)
    count = blocks.shape[1]
    moved = blocks[:, np.random.default_rng(seed).permutation(count)]
    states = random_states(count, plain.shape[3], seed)
    return from_blocks(set_states(moved, *states), *plain.shape[1:3])


def side_difference(
    one: Float32Array, other: Float32Array, same_direction: int, sign: int, order: Int64Array
) -> float:
    """Return the mean squared difference of two sides [n, M, c] in one relation."""
    other = other if same_direction else other[:, ::-1]
    return float(((one - sign * other[..., order]) ** 2).mean())


def random_costs(count: int, seed: int) -> tuple[Float64Array, Float64Array]:
    """Return seam costs (across, down) that are noise, float64 [N, N] each."""
    across, down = np.random.default_rng(seed).normal(size=(2, count, count))
    return across, down


def planted_costs(
    shape: tuple[int, int], noise: float, seed: int
) -> tuple[Int64Array, Float64Array, Float64Array]:
    """Return a true grid of blocks, and costs under which its seams are mostly, not always, the best."""
    rng = np.random.default_rng(seed)
    count = shape[0] * shape[1]
    truth = rng.permutation(count).reshape(shape)
    across, down = noise * rng.normal(size=(2, count, count))
    across[truth[:, :-1], truth[:, 1:]] -= 3.0
    down[truth[:-1], truth[1:]] -= 3.0
    return truth, across, down


def summed_cost(grid: Int64Array, across: Float64Array, down: Float64Array) -> float:
    """Return the cost of all seams of a grid, summed seam by seam."""
    height, width = grid.shape
    total = 0.0
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                total += across[grid[y, x], grid[y, x + 1]]
            if y + 1 < height:
                total += down[grid[y, x], grid[y + 1, x]]
    return total
