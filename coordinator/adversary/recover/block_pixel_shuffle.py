"""Key recovery from a pool of ciphertexts under one block-and-pixel shuffle (T1; T0 with one image).

Source: our own, after the jigsaw attacks of Chuman and Kiya (arXiv 2202.00806). It needs no plain image, only the
scheme and sealed images under a shared key. It recovers K2 and then K1 of block_pixel_shuffle:

1. the distance of every two of the (M/2)² positions over the pool's varied sub-blocks (puzzle/distances.py);
2. their layout on the grid by geodesic scaling and quadratic assignment (puzzle/grid_layout.py): K2 up to 8 turns;
3. the turn with the smoothest seams between a block's four sub-blocks, which stay in place: K2;
4. the seams between blocks over the pool (puzzle/seams.py) and one assembly of the picture (puzzle/assembly.py): K1.

Blocks that are constant in every image of the pool carry nothing and are interchangeable. Only the seams show where
the border of the picture is. With few images whose borders are black, the picture may therefore come out shifted by
whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.puzzle.assembly import (
    LEAST_SEAM_FIT,
    SEAM_FIT,
    Assembler,
    assemble,
    places_of,
    seam_fit,
)
from coordinator.adversary.puzzle.distances import (
    MIN_TEXTURE,
    position_distances,
    textured_rows,
    value_ranges,
)
from coordinator.adversary.puzzle.grid_layout import grid_symmetries, lay_out
from coordinator.adversary.puzzle.seams import block_sides, inner_seam_cost, seam_costs
from coordinator.adversary.recover.not_sought import NOT_SOUGHT
from coordinator.adversary.recover.pool_reading import image_chunks, random_order
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Float32Array, Int64Array, Rows, UInt8Array
from crypto.kernels.blocks import block_pixels, quarter_pixels
from crypto.kernels.table import Table

#: Most values of sampled blocks in memory, one byte each: 100 MB.
MOST_HELD_VALUES = 100_000_000
#: Most sub-blocks whose pixels are compared. Set once on brain MRI; not tuned further.
MOST_SUBBLOCKS = 8000
#: Most value pairs compared. It lowers the number of sub-blocks for large blocks, so that their cost does not grow
#: with the square of the block. Set once on brain MRI; not tuned further.
_COMPARED_PAIRS = 120_000_000
#: However large the blocks are, this many sub-blocks are compared. Set once; not tuned further.
_LEAST_SUBBLOCKS = 1000
#: Most blocks that decide the turn of the layout. Set once on brain MRI; not tuned further.
_TURN_BLOCKS = 2000
#: Most block pairs times images whose seams are summed: 400 million are 10,000 images of 196 blocks.
#: Set once; not tuned further.
_SEAM_WORK = 400_000_000
#: However many blocks there are, the seams of this many images are summed. Set once; not tuned further.
_LEAST_SEAM_IMAGES = 16
#: Most images whose seams are summed. 2,000 of 10,000 MRI images gave the same key in 2.5 s that all gave in 64 s.
_SEAM_IMAGES = 2000
#: With more blocks than this, the block order is not sought: a table of 3,136² float64 costs takes 79 MB, and 8 are
#: in memory. These are the blocks of 4 at 224×224, which take most of a minute.
MOST_BLOCKS = 3136


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover K1 int64 [N] and K2 int64 [(M/2)²].

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None if no block varies.
    """
    block = pool.spec.block
    blocks = sample_varied_blocks(pool, pool_rows)
    if not len(blocks):
        return None
    k2 = find_k2(blocks, block // 2, time_left)
    if k2 is None:
        notes = ["pixel order not identifiable: every sub-block is constant"]
        return recover_block_order(pool, pool_rows, np.arange((block // 2) ** 2), time_left, notes=notes)
    return recover_block_order(pool, pool_rows, k2, time_left)


def recover_block_order(
    pool: Ciphertexts,
    pool_rows: Rows,
    k2: Int64Array,
    time_left: TimeLeft,
    lay: Assembler = assemble,
    notes: Sequence[str] = (),
) -> Recovered:
    """Recover K1 by the seams between blocks, for a known K2.

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        k2: int64 [(M/2)²], the pixel order.
        time_left: Asked between steps.
        lay: Arranges the blocks in a grid by the costs of their seams.
        notes: Notes on earlier steps, which the result carries too.
    """
    height, width, _ = pool.spec.image_shape
    block, shape = pool.spec.block, pool.spec.grid
    all_notes = list(notes)
    cells = block_pixels(height, width, block)[:, _order_within_block(block, np.argsort(k2))]
    count = shape[0] * shape[1]
    k1 = np.arange(count)
    fits: tuple[Fit, ...] = ()
    if count > MOST_BLOCKS:
        all_notes.append(f"block order not sought: {count} blocks, at most {MOST_BLOCKS}")
        fits = (NOT_SOUGHT,)
    else:
        limit = min(_SEAM_IMAGES, max(_LEAST_SEAM_IMAGES, _SEAM_WORK // count**2))
        rows = evenly_spaced(pool_rows, limit)
        if len(rows) < len(pool_rows):
            all_notes.append(f"block order from {len(rows)} of {len(pool_rows)} images")
        across, down = seam_costs(_sides(pool, rows, cells), count, time_left)
        grid = lay(across, down, shape, time_left)
        k1 = places_of(grid)
        if count > 1:
            fits = (Fit(seam_fit(grid, across, down), LEAST_SEAM_FIT, SEAM_FIT),)
    if not time_left():
        all_notes.append("truncated: out of time")
    inner = _order_within_block(block, k2)[None]
    table = Table(pool.spec.image_shape, (block, block), k1, inner, unit="pixel").inverse()
    return Recovered(table, {"K1": k1, "K2": k2}, tuple(all_notes), fits)


def sample_varied_blocks(pool: Ciphertexts, pool_rows: Rows) -> UInt8Array:
    """Return blocks that vary, as sub-blocks, from as many images as the layout can use.

    Images are taken in a fixed random order.

    Returns:
        uint8 [m, 4, (M/2)², c]. A block of odd side has no sub-blocks: [m, 1, M², c].
    """
    height, width, channels = pool.spec.image_shape
    block = pool.spec.block
    quarters = quarter_pixels(block) if block % 2 == 0 else np.arange(block**2)[None]
    cells = block_pixels(height, width, block)[:, quarters]  # [N, 4, S]
    sample: list[UInt8Array] = []
    textured_count = total = 0
    for images in image_chunks(pool, random_order(pool_rows)):
        for image in images.reshape(len(images), height * width, channels):
            blocks = image[cells]
            # One pixel never varies, so blocks of one pixel are taken as one block.
            units = blocks if block > 1 else blocks.reshape(1, -1, 1, channels)
            varied = value_ranges(units.reshape(len(units), -1, channels)) > 0
            sample.append(blocks[np.broadcast_to(varied, len(blocks))])
            textured_count += int(
                (value_ranges(sample[-1].reshape(-1, *blocks.shape[2:])) >= MIN_TEXTURE).sum()
            )
            total += len(sample[-1])
            if (
                textured_count >= 2 * MOST_SUBBLOCKS
                or total >= 4 * MOST_SUBBLOCKS
                or total * blocks[0].size >= MOST_HELD_VALUES
            ):
                return np.concatenate(sample)
    return np.concatenate(sample) if sample else np.zeros((0, *cells.shape[1:], channels), np.uint8)


def find_k2(blocks: UInt8Array, side: int, time_left: TimeLeft) -> Int64Array | None:
    """Recover the pixel order from sealed sub-blocks.

    Sub-blocks of one pixel, and blocks of odd side, have no order to recover: the identity is returned.

    Args:
        blocks: uint8 [m, 4, side², c], sealed sub-blocks.
        side: The side of a sub-block in pixels.
        time_left: Asked between steps.

    Returns:
        K2, int64 [side²], or None if every sub-block is constant.
    """
    size = side * side
    if size < 2 or blocks.shape[1] != 4:
        return np.arange(size)
    channels = blocks.shape[3]
    subblocks = blocks.reshape(-1, size, channels)
    affordable = 2 * _COMPARED_PAIRS // (size * (size - 1) * channels)
    chosen = textured_rows(subblocks, int(np.clip(affordable, _LEAST_SUBBLOCKS, MOST_SUBBLOCKS)))
    if not len(chosen):
        return None
    return choose_turn(lay_out(position_distances(subblocks[chosen]), side, side, time_left), blocks, side)


def choose_turn(places: Int64Array, blocks: UInt8Array, side: int) -> Int64Array:
    """Return the turn of a layout that gives the smoothest seams between the sub-blocks of a block: K2.

    Args:
        places: int64 [side²], a layout of the pixels of a sub-block.
        blocks: uint8 [m, 4, side², c], sealed sub-blocks.
        side: The side of a sub-block in pixels.
    """
    sample = blocks[evenly_spaced(np.arange(len(blocks)), _TURN_BLOCKS)]
    turns = grid_symmetries(side)[:, places]  # [8, S]
    best: Int64Array = turns[
        int(np.argmin([inner_seam_cost(sample[:, :, np.argsort(turn)], side) for turn in turns]))
    ]
    return best


def _order_within_block(block: int, quarter: Int64Array) -> Int64Array:
    """Return int64 [M²]: a pixel order of one quarter, applied to every quarter of a block."""
    within = np.arange(block * block)
    if block % 2 == 0:
        quarters = quarter_pixels(block)
        within[quarters] = quarters[:, quarter]
    return within


def _sides(pool: Ciphertexts, rows: Rows, cells: Int64Array) -> Iterator[Float32Array]:
    for images in image_chunks(pool, rows):
        yield from block_sides(images, cells, pool.spec.block)
