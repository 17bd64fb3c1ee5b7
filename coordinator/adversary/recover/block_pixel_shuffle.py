"""Key recovery from a pool of ciphertexts under one block-and-pixel shuffle (T1; T0 with one image).

Source: our own, after the jigsaw attacks of Chuman and Kiya (arXiv 2202.00806). It needs no plain image,
only the scheme and sealed images under a shared key, and finds K2 and then K1 of block_pixel_shuffle:

1. the distance of every two of the (M/2)² positions over the pool's varied sub-blocks (distances.py);
2. their layout on the grid by geodesic scaling and quadratic assignment (layout.py): K2 up to 8 turns;
3. the turn with the smoothest seams between a block's four sub-blocks, which stay in place: K2;
4. the seams between blocks over the pool (seams.py), and one assembly of the picture (assemble.py): K1.

Constant blocks carry nothing: blocks that are constant in every image of the pool are interchangeable.
The border of the picture is known by its seams alone, so with few images whose borders are black the
picture may come out shifted by whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Recovered
from coordinator.adversary.puzzle.assembly import Lay, assemble
from coordinator.adversary.puzzle.distances import TEXTURE, position_distances, spread, textured
from coordinator.adversary.puzzle.grid_layout import lay_out, symmetries
from coordinator.adversary.puzzle.seams import block_sides, inner_seams, seam_costs
from crypto.kernels.blocks import block_pixels, quarter_pixels
from crypto.kernels.table import Table

_CHUNK = 32  # images held at a time
_HELD = 100_000_000  # most values of blocks held
_PARTS = 8000  # most sub-blocks whose pixels are compared
_PAIRED = 120_000_000  # most value pairs compared, which lowers the number of sub-blocks for large blocks
_TURN_BLOCKS = 2000  # most blocks that decide the symmetry
_SEAM_WORK = 400_000_000  # most block pairs times images
_SEAM_IMAGES = 2000  # most images whose seams are summed
#: Of more blocks than this (8 tables of 79 MB) the order is not sought.
MOST_BLOCKS = 3136


def recover(pool: Ciphertexts, seen: np.ndarray, time_left: Callable[[], bool]) -> Recovered | None:
    """K1 int64 [N] and K2 int64 [(M/2)²] from int64 [n] rows; None where no block varies.

    `more` says whether to go on.
    """
    block = pool.spec.block
    blocks = varied_blocks(pool, seen)
    if not len(blocks):
        return None
    k2 = find_k2(blocks, block // 2, time_left)
    if k2 is None:
        notes = ["pixel order not identifiable: every sub-block is constant"]
        return placed(pool, seen, np.arange((block // 2) ** 2), time_left, notes=notes)
    return placed(pool, seen, k2, time_left)


def placed(
    pool: Ciphertexts,
    seen: np.ndarray,
    k2: np.ndarray,
    time_left: Callable[[], bool],
    lay: Lay = assemble,
    notes: Sequence[str] = (),
) -> Recovered:
    """K1 by the seams between blocks, where K2 int64 [(M/2)²] is known. `lay` lays blocks by what seams cost."""
    height, width, _ = pool.spec.image_shape
    block, shape = pool.spec.block, pool.spec.grid
    said = list(notes)
    cells = block_pixels(height, width, block)[:, _within(block, np.argsort(k2))]
    count = shape[0] * shape[1]
    k1 = np.arange(count)
    if count > MOST_BLOCKS:
        said.append(f"block order not sought: {count} blocks, at most {MOST_BLOCKS}")
    else:
        rows = _spaced(seen, min(_SEAM_IMAGES, max(16, _SEAM_WORK // count**2)))
        if len(rows) < len(seen):
            said.append(f"block order from {len(rows)} of {len(seen)} images")
        across, down = seam_costs(_sides(pool, rows, cells), count, time_left)
        grid = lay(across, down, shape, time_left)
        k1[grid.ravel()] = np.arange(count)
    if not time_left():
        said.append("truncated: out of time")
    opens = Table(
        pool.spec.image_shape, (block, block), k1, _within(block, k2)[None], unit="pixel"
    ).inverse()
    return Recovered(opens, {"K1": k1, "K2": k2}, tuple(said))


def varied_blocks(pool: Ciphertexts, seen: np.ndarray) -> np.ndarray:
    """uint8 [m, 4, (M/2)², c]: blocks that vary, as sub-blocks, from as many images as the layout can use.

    Images are taken in a fixed random order, so that one source's rows do not fill the sample. Where the
    block side is odd there are no sub-blocks, and whole blocks come back as [m, 1, M², c].
    """
    height, width, channels = pool.spec.image_shape
    block = pool.spec.block
    quarters = quarter_pixels(block) if block % 2 == 0 else np.arange(block**2)[None]
    cells = block_pixels(height, width, block)[:, quarters]  # [N, 4, S]
    kept: list[np.ndarray] = []
    strong = total = 0
    order = np.random.default_rng(0).permutation(seen)
    for first in range(0, len(order), _CHUNK):
        images = pool.images(order[first : first + _CHUNK])
        for image in images.reshape(len(images), height * width, channels):
            blocks = image[cells]
            whole = blocks if block > 1 else blocks.reshape(1, -1, 1, channels)  # one pixel never varies
            varied = spread(whole.reshape(len(whole), -1, channels)) > 0
            kept.append(blocks[np.broadcast_to(varied, len(blocks))])
            strong += int((spread(kept[-1].reshape(-1, *blocks.shape[2:])) >= TEXTURE).sum())
            total += len(kept[-1])
            if strong >= 2 * _PARTS or total >= 4 * _PARTS or total * blocks[0].size >= _HELD:
                return np.concatenate(kept)
    return np.concatenate(kept) if kept else np.zeros((0, *cells.shape[1:], channels), np.uint8)


def find_k2(blocks: np.ndarray, side: int, time_left: Callable[[], bool]) -> np.ndarray | None:
    """uint8 [m, 4, side², c] sealed sub-blocks → K2, int64 [side²]; None where every sub-block is constant.

    Sub-blocks of one pixel, and the whole blocks of an odd side, have no order to find: the identity.
    """
    size = side * side
    if size < 2 or blocks.shape[1] != 4:
        return np.arange(size)
    channels = blocks.shape[3]
    parts = blocks.reshape(-1, size, channels)
    limit = int(np.clip(2 * _PAIRED // (size * (size - 1) * channels), 1000, _PARTS))
    chosen = textured(parts, limit)
    if not len(chosen):
        return None
    return upright(lay_out(position_distances(parts[chosen]), side, side, time_left), blocks, side)


def upright(places: np.ndarray, blocks: np.ndarray, side: int) -> np.ndarray:
    """int64 [side²], a layout of the pixels of a sub-block, → K2: the turn with the smoothest inner seams.

    blocks: uint8 [m, 4, side², c], sealed.
    """
    sample = blocks[_spaced(np.arange(len(blocks)), _TURN_BLOCKS)]
    turns = symmetries(side)[:, places]  # [8, S]
    return turns[int(np.argmin([inner_seams(sample[:, :, np.argsort(turn)], side) for turn in turns]))]


def _within(block: int, quarter: np.ndarray) -> np.ndarray:
    """int64 [M*M]: where each pixel of a block stands in the sealed block, the same order in every quarter."""
    within = np.arange(block * block)
    if block % 2 == 0:
        quarters = quarter_pixels(block)
        within[quarters] = quarters[:, quarter]
    return within


def _sides(pool: Ciphertexts, rows: np.ndarray, cells: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), _CHUNK):
        yield from block_sides(pool.images(rows[first : first + _CHUNK]), cells, pool.spec.block)


def _spaced(values: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the values, evenly spaced."""
    if len(values) <= limit:
        return values
    return values[np.linspace(0, len(values) - 1, limit).astype(np.int64)]
