"""Key recovery from a pool of block-pixel ciphertexts under one key (T1).

Source: our own. Every block place has a permutation and a negative-positive mask of its own, so each is a puzzle of
its own, of V values by n images. It needs no plain image, only the scheme and sealed images under a shared key:

1. the values of each block are compared with each other (values/value_distances.py): the mask of each block, up to
   its sign; the darker sign is taken;
2. each block is laid out alone by its distances (values/colour_block_layout.py, values/block_layout.py), roughly and
   up to the 8 symmetries;
3. the rough blocks are solved as a puzzle of turned blocks (puzzle/solver.py): a first order of the blocks;
4. values across blocks show which blocks touch, without any layout (puzzle/adjacency.py): K1;
5. every block is compared with its neighbours, turned, and its values are laid out anew (values/block_layout.py): the
   signs of the blocks, and K2;
6. insides and order of the blocks are refined in rounds, each by the other (block_pixel_rounds.py).

Small blocks are laid out by correlations instead (block_pixel_layouts.py), from more images. Where what that found
fits poorly, both ways are gone, and the key that opens pictures whose neighbouring pixels agree more is returned.

The result holds up to the eight symmetries, the sign and the colour order of the whole picture. Values that are
alike, in smooth or black blocks, change places. Few rows of K2 are therefore exact, and the opened picture is a
little blurred. Fewer than LEAST_IMAGES images tell nothing about single values.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.puzzle.adjacency import adjacency_fit, block_distances, order_blocks
from coordinator.adversary.puzzle.assembly import places_of
from coordinator.adversary.puzzle.distances import has_only_flat_blocks
from coordinator.adversary.puzzle.solver import Solution, solve
from coordinator.adversary.recover.block_pixel_layouts import (
    LEAST_SMALL_IMAGES,
    MOST_SMALL_VALUES,
    recover_small_blocks,
)
from coordinator.adversary.recover.block_pixel_refinement import (
    Blocks,
    block_side_values,
    refine_beside_neighbours,
    turn_and_reorder,
)
from coordinator.adversary.recover.block_pixel_rounds import refine_in_rounds
from coordinator.adversary.recover.neighbour_agreement import neighbour_agreement
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import random_rows
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.colour_block_layout import (
    lay_out_values,
    opposed_components,
    split_components,
)
from coordinator.adversary.values.value_distances import relative_signs, value_distances
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array, Rows, UInt8Array
from crypto.kernels.blocks import to_blocks
from crypto.kernels.executors import apply
from crypto.scheme import load
from crypto.schemes.block_pixel import BlockPixel
from crypto.spec import SchemeSpec

#: Fewer images than this tell nothing about single values. Set once; not tuned further.
LEAST_IMAGES = 4
#: With more blocks than this, or more values in a block, nothing is sought: either takes minutes.
MOST_BLOCKS, MOST_VALUES = 1024, 1024
#: Most images used. From 100 the block order is whole on MRI at 224×224 (README.md). Set once; not tuned further.
_IMAGES = 200
#: Share of touching blocks that must be among the nearest of each other for the block order to be believed.
_LEAST_FIT = 0.8
#: Images by which two keys are compared. Set once; not tuned further.
_JUDGED_IMAGES = 50
_FIT = "the share of touching blocks that are among the four nearest of each other by their values"


def is_too_large(spec: SchemeSpec) -> bool:
    """Return whether nothing is sought, because the blocks are too many or have too many values."""
    return spec.blocks > MOST_BLOCKS or spec.block**2 * spec.image_shape[2] > MOST_VALUES


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover K1, K2 and mask.

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None if no value varies or n is below LEAST_IMAGES.
    """
    spec = pool.spec
    size = spec.block**2 * spec.image_shape[2]
    if len(pool_rows) < LEAST_IMAGES:
        return None
    if is_too_large(spec):
        note = f"not sought: {spec.blocks} blocks of {size} values, at most {MOST_BLOCKS} of {MOST_VALUES}"
        return unmoved(spec.image_shape, spec.block, note)
    rows = random_rows(pool_rows, _IMAGES)
    notes = [f"from {len(rows)} of {len(pool_rows)} images"] if len(rows) < len(pool_rows) else []
    read = MemoryPool(spec, pool.images(rows))
    sealed = to_blocks(read.sealed, spec.block)  # [n, N, S, c]
    values = np.ascontiguousarray(sealed.reshape(*sealed.shape[:2], -1).transpose(1, 2, 0))
    folded = np.minimum(sealed, 255 - sealed).reshape(*sealed.shape[:2], -1)  # no mask changes this
    if not np.ptp(values, axis=2).any() or (
        spec.block > 1 and has_only_flat_blocks(folded, spec.image_shape[2])
    ):
        return None
    small = None
    if spec.block > 1 and size <= MOST_SMALL_VALUES and len(pool_rows) >= LEAST_SMALL_IMAGES:
        small = recover_small_blocks(pool, pool_rows, read, time_left)
        if small is not None and not any(fit.is_poor for fit in small.fits):
            return small
    by_distances = _recover_by_distances(read, values, tuple(notes), time_left)
    if small is None:
        return by_distances
    opened = read.sealed[:_JUDGED_IMAGES]
    return max(small, by_distances, key=lambda key: neighbour_agreement(apply(key.table, opened)))


def _recover_by_distances(
    pool: MemoryPool, values: UInt8Array, notes: tuple[str, ...], time_left: TimeLeft
) -> Recovered:
    """Recover the key by steps 1 to 6, from images and their values uint8 [N, V, n]."""
    spec = pool.spec
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, BlockPixel)
    fits: tuple[Fit, ...] = ()
    blocks = lay_out_each(values, spec.image_shape[2], time_left)
    solved = solve_puzzle(blocks, spec.grid, time_left)
    blocks = turn_and_reorder(blocks, solved.turn, solved.order)
    distances = block_distances(blocks.values, spec.block * spec.image_shape[2], time_left)
    grid = order_blocks(distances, solved.grid, time_left)
    blocks = refine_beside_neighbours(blocks, grid, time_left)
    parts = refine_in_rounds(pool, key_parts(blocks, grid), time_left).parts
    if grid.size > 1:
        laid_out = np.argsort(parts["K1"]).reshape(grid.shape)
        fits = (Fit(adjacency_fit(distances, laid_out), _LEAST_FIT, _FIT),)
    late = () if time_left() else ("truncated: out of time",)
    return Recovered(algorithm.table(parts).inverse(), parts, (*notes, *late), fits)


def lay_out_each(values: UInt8Array, channels: int, time_left: TimeLeft) -> Blocks:
    """Lay out every block alone, in its darker sign, as long as there is time.

    Args:
        values: uint8 [N, V, n], sealed values.
        channels: Colours of a pixel.
        time_left: Asked before every block.
    """
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
        components = _components(values[i], flip[i], (equal, opposite), size) if channels > 1 else None
        if np.where(flip[i, :, None], 255 - values[i], values[i]).mean() > 127.5:
            flip[i] ^= True
        values[i] ^= np.where(flip[i, :, None], np.uint8(255), np.uint8(0))
        distances = _in_sign(flip[i], equal, opposite)
        member[i], cell[i] = lay_out_values(distances, round(size**0.5), components)
        apart[i] = distances[member[i][:, :, None], member[i][:, None, :]]
    return Blocks(values, flip, member, cell, apart)


def _components(
    values: UInt8Array, flip: BoolArray, distances: tuple[Float32Array, Float32Array], size: int
) -> Int64Array | None:
    """Return the values of each component of a block, int64 [c, size], and set their signs right, in place.

    None if the components are too similar to be told apart. Then their signs agree.

    Args:
        values: uint8 [V, n], as sealed.
        flip: bool [V], the values that are negated, in signs that agree within a component.
        distances: (equal, opposite), from `value_distances`.
        size: Values of a component.
    """
    components = split_components(_in_sign(flip, *distances), size)
    if components is not None:
        signed = np.where(flip[components][..., None], 255 - values[components], values[components])
        flip[components] ^= opposed_components(signed)[:, None]
    return components


def _in_sign(flip: BoolArray, equal: Float32Array, opposite: Float32Array) -> Float64Array:
    """Return the distances of values of which some are negated, float64 [V, V], in parts of their median."""
    distances = np.where(flip[:, None] == flip, equal, opposite).astype(np.float64)
    distances /= max(float(np.median(distances)), 1e-9)
    return distances


def solve_puzzle(blocks: Blocks, shape: tuple[int, int], time_left: TimeLeft) -> Solution:
    """Return a first order of the blocks, their turns and colour orders, by the sides of the rough blocks."""
    return solve(block_side_values(blocks, shape), blocks.cell.shape[1], shape, time_left)


def key_parts(blocks: Blocks, grid: Int64Array) -> dict[str, Int64Array | BoolArray]:
    """Return K1, K2 and mask as the scheme has them."""
    count, channels, _ = blocks.cell.shape
    k1 = places_of(grid)
    k2 = np.empty(blocks.flip.shape, np.int64)
    place = np.arange(count)[:, None, None]
    k2[place, blocks.member] = blocks.cell * channels + np.arange(channels)[:, None]
    return {"K1": k1, "K2": k2, "mask": blocks.flip}
