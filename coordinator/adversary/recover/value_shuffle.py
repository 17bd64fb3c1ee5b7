"""Key recovery from a pool of ciphertexts under one shuffle of blocks and their values (T1; T0 with one image).

Source: our own, as for block_pixel_shuffle. It needs no plain image and recovers K2 and then K1:

1. the distance of every two of the M²c positions over the pool's varied blocks (puzzle/distances.py);
2. colours: in the graph of nearest neighbours each component is an island (values/colour_classes.py);
3. the layout of each colour on the M×M grid (puzzle/grid_layout.py), the colours aligned by the distance of equal
   places and improved together by swaps, and turned once more so that their seams agree (puzzle/plane_alignment.py):
   K2 up to eight turns and the order of colours;
4. the seams between blocks over the pool (puzzle/seams.py) and one assembly of the picture (puzzle/assembly.py): K1.

A turned layout turns the whole picture with it. Where the scheme leaves entries in place (fixed_blocks,
fixed_values), the turn, order and shift that leave most in place are chosen. Otherwise they stay open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

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
    has_only_flat_blocks,
    position_distances,
    textured_rows,
    value_ranges,
)
from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.puzzle.plane_alignment import align_planes
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from coordinator.adversary.puzzle.swap_search import total_cost
from coordinator.adversary.recover.fixed_entries import most_in_place
from coordinator.adversary.recover.not_sought import NOT_SOUGHT
from coordinator.adversary.recover.pool_reading import image_chunks, random_order
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.colour_classes import lay_out_colours
from coordinator.adversary.values.layout_fit import improve_by_fit
from crypto.arrays import Float32Array, Int64Array, Rows, UInt8Array
from crypto.kernels.blocks import block_pixels, to_blocks
from crypto.kernels.executors import apply
from crypto.kernels.table import Table

#: Most values of sampled blocks in memory, one byte each: 100 MB.
MOST_HELD_VALUES = 100_000_000
#: Most blocks whose values are compared. Set once; not tuned further.
_LAYOUT_BLOCKS = 4000
#: However large the blocks are, this many are compared. Set once; not tuned further.
_LEAST_LAYOUT_BLOCKS = 200
#: Most value pairs compared. It lowers the number of blocks for large ones, so that their cost does not grow with the
#: square of the block. Set once; not tuned further.
_COMPARED_PAIRS = 240_000_000
#: Most block pairs times images whose seams are summed, within the two limits below. Set once; not tuned further.
_SEAM_WORK = 100_000_000
#: Least and most images whose seams are summed. Set once; not tuned further.
_SEAM_IMAGES = (16, 64)
#: With more blocks than this, the block order is not sought, as for block_pixel_shuffle.
MOST_BLOCKS = 3136
#: With more values than this, a block's layout is not sought: the table of distances takes 75 MB.
MOST_VALUES = 3072


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover K1 int64 [N] and K2 int64 [M²c].

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None if no block varies.
    """
    spec = pool.spec
    block, channels = spec.block, spec.image_shape[2]
    blocks = sample_varied_blocks(pool, pool_rows)
    if not len(blocks) or (block > 1 and has_only_flat_blocks(blocks[..., 0], channels)):
        return None
    notes: list[str] = []
    fits: tuple[Fit, ...] = ()
    place, colour = np.divmod(np.arange(block**2 * channels), channels)
    if len(place) > MOST_VALUES:
        notes.append(f"value order not sought: {len(place)} values, at most {MOST_VALUES}")
        fits = (NOT_SOUGHT,)
    else:
        place, colour = _lay_out_values(blocks, block, channels, time_left)
        has_planes_to_turn = channels > 1 and block > 1 and 1 < spec.blocks <= MOST_BLOCKS
        if has_planes_to_turn and time_left():
            # Before it is judged: the fit of a right layout whose planes lie turned is poor.
            place = _turn_planes(pool, pool_rows, place, colour, time_left)
        first = place * channels + colour
        place, colour = improve_by_fit(blocks[..., 0], place, colour, block, channels, time_left)
        if has_planes_to_turn and time_left() and not np.array_equal(first, place * channels + colour):
            place = _turn_planes(pool, pool_rows, place, colour, time_left)
    recovered = recover_block_order(pool, pool_rows, place, colour, time_left, notes=notes)
    return replace(recovered, fits=(*fits, *recovered.fits))


def recover_block_order(
    pool: Ciphertexts,
    pool_rows: Rows,
    place: Int64Array,
    colour: Int64Array,
    time_left: TimeLeft,
    lay: Assembler = assemble,
    notes: Sequence[str] = (),
) -> Recovered:
    """Recover K1 by the seams between blocks, for known places and colours of a block's values.

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        place: int64 [V], the pixel of a block that each sealed value belongs to.
        colour: int64 [V], the colour of each sealed value.
        time_left: Asked between steps.
        lay: Arranges the blocks in a grid by the costs of their seams.
        notes: Notes on earlier steps, which the result carries too.
    """
    spec = pool.spec
    block, channels, all_notes = spec.block, spec.image_shape[2], list(notes)
    k1 = np.arange(spec.blocks)
    fits: tuple[Fit, ...] = ()
    if spec.blocks > MOST_BLOCKS:
        all_notes.append(f"block order not sought: {spec.blocks} blocks, at most {MOST_BLOCKS}")
        fits = (NOT_SOUGHT,)
    else:
        limit = int(np.clip(_SEAM_WORK // spec.blocks**2, *_SEAM_IMAGES))
        rows = evenly_spaced(pool_rows, limit)
        if len(rows) < len(pool_rows):
            all_notes.append(f"block order from {len(rows)} of {len(pool_rows)} images")
        place, k1, fit = _order_blocks(pool, rows, place, colour, time_left, lay)
        if spec.blocks > 1:
            fits = (Fit(fit, LEAST_SEAM_FIT, SEAM_FIT),)
    fixed = int(spec.options["fixed_blocks"]), int(spec.options["fixed_values"])
    k1, place, colour = most_in_place(k1, place, colour, spec.grid, channels, fixed)
    if not time_left():
        all_notes.append("truncated: out of time")
    k2 = place * channels + colour
    table = Table(spec.image_shape, (block, block), k1, k2[None]).inverse()
    return Recovered(table, {"K1": k1, "K2": k2}, tuple(all_notes), fits)


def sample_varied_blocks(pool: Ciphertexts, pool_rows: Rows) -> UInt8Array:
    """Return uint8 [m, M²c, 1]: blocks that vary, from as many images as the layout can use.

    Images are taken in a fixed random order.
    """
    block = pool.spec.block
    sample: list[UInt8Array] = []
    total = 0
    for images in image_chunks(pool, random_order(pool_rows)):
        blocks = to_blocks(images, block)
        flat = blocks.reshape(-1, block * block * blocks.shape[3], 1)
        sample.append(flat[value_ranges(flat) > 0] if flat.shape[1] > 1 else flat)  # one value never varies
        total += len(sample[-1])
        if total >= 2 * _LAYOUT_BLOCKS or total * flat.shape[1] >= MOST_HELD_VALUES:
            break
    return np.concatenate(sample)


def _lay_out_values(
    blocks: UInt8Array, block: int, channels: int, time_left: TimeLeft
) -> tuple[Int64Array, Int64Array]:
    """Return (place, colour), int64 [V] each: which value of the plain block each value of uint8 [m, V, 1] is."""
    size = blocks.shape[1]
    affordable = 2 * _COMPARED_PAIRS // max(1, size * (size - 1))
    limit = int(np.clip(affordable, _LEAST_LAYOUT_BLOCKS, _LAYOUT_BLOCKS))
    distances = position_distances(blocks[textured_rows(blocks, limit)])
    return lay_out_colours(distances, block, channels, time_left)


def _turn_planes(
    pool: Ciphertexts, pool_rows: Rows, place: Int64Array, colour: Int64Array, time_left: TimeLeft
) -> Int64Array:
    """Return the places with the colour planes turned so that their seams agree, int64 [V]."""
    spec = pool.spec
    channels = spec.image_shape[2]
    rows = evenly_spaced(pool_rows, int(np.clip(_SEAM_WORK // spec.blocks**2, *_SEAM_IMAGES)))
    planes = []
    for k in range(channels):
        # The values of a side come pixel by pixel: those of one colour are every `channels`-th.
        sides = (
            np.ascontiguousarray(image[..., k::channels]) for image in _sides(pool, rows, place, colour)
        )
        planes.append(np.stack(seam_costs(sides, spec.blocks, time_left)))
    turns = align_planes(np.stack(planes))
    aligned: Int64Array = grid_symmetries(spec.block)[turns[colour], place]
    return aligned


def _order_blocks(
    pool: Ciphertexts,
    rows: Rows,
    place: Int64Array,
    colour: Int64Array,
    time_left: TimeLeft,
    lay: Assembler,
) -> tuple[Int64Array, Int64Array, float]:
    """Return (place, K1, fit): the block order, and the layout in the turn that suits the shape of the picture."""
    spec = pool.spec
    layouts = [place]
    if spec.grid[0] != spec.grid[1]:
        layouts.append(grid_symmetries(spec.block)[1][place])
    orders: list[tuple[float, Int64Array, Int64Array, float]] = []
    for places in layouts:
        across, down = seam_costs(_sides(pool, rows, places, colour), spec.blocks, time_left)
        grid = lay(across, down, spec.grid, time_left)
        orders.append(
            (total_cost(grid, across, down), places, places_of(grid), seam_fit(grid, across, down))
        )
    _, place, k1, fit = min(orders, key=lambda order: order[0])
    return place, k1, fit


def _sides(pool: Ciphertexts, rows: Rows, place: Int64Array, colour: Int64Array) -> Iterator[Float32Array]:
    """Yield float32 [4, N, F] for every image: the sides of its blocks, their values put in place."""
    height, width, channels = pool.spec.image_shape
    block = pool.spec.block
    inner = (place * channels + colour)[None]
    table = Table(pool.spec.image_shape, (block, block), None, inner).inverse()
    cells = block_pixels(height, width, block)
    for images in image_chunks(pool, rows):
        yield from block_sides(apply(table, images), cells, block)
