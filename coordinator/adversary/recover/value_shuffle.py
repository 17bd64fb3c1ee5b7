"""Key recovery from a pool of ciphertexts under one shuffle of blocks and their values (T1; T0 with one image).

Source: our own, as for block_pixel_shuffle. It needs no plain image and finds K2 and then K1:

1. the distance of every two of the M²c positions over the pool's varied blocks (distances.py);
2. colours: in the graph of nearest neighbours each component is an island (colours.py);
3. the layout of each colour on the M×M grid (layout.py), the colours aligned by the distance of equal places and
   swapped down together: K2 up to eight turns and the order of colours;
4. the seams between blocks over the pool (seams.py) and one assembly of the picture (assemble.py): K1.

A turned layout turns the whole picture with it. Where the scheme leaves entries in place (fixed_blocks,
fixed_values), the turn, order and shift that leave most in place are taken; otherwise they stay open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Recovered
from coordinator.adversary.puzzle.assembly import Lay, assemble
from coordinator.adversary.puzzle.distances import flat_blocks, position_distances, spread, textured
from coordinator.adversary.puzzle.grid_layout import symmetries
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from coordinator.adversary.puzzle.swap_search import total_cost
from coordinator.adversary.values.colour_classes import colour_layout
from crypto.kernels.blocks import block_pixels, to_blocks
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.schemes.pe import ORDERS

_CHUNK = 32  # images held at a time
_HELD = 100_000_000  # most values of blocks held
_BLOCKS = 4000  # most blocks whose values are compared
_PAIRED = 240_000_000  # most value pairs compared, which lowers the number of blocks for large ones
_SEAM_WORK = 100_000_000  # most block pairs times images
#: Of more blocks than this the order is not sought, as for block_pixel_shuffle.
MOST_BLOCKS = 3136
#: Of more values than this (a table of 75 MB) a block's layout is not sought.
MOST_VALUES = 3072


def recover(pool: Ciphertexts, seen: np.ndarray, time_left: Callable[[], bool]) -> Recovered | None:
    """K1 int64 [N] and K2 int64 [M²c] from int64 [n] rows; None where no block varies."""
    spec = pool.spec
    block, channels = spec.block, spec.image_shape[2]
    blocks = varied_blocks(pool, seen)
    if not len(blocks) or (block > 1 and flat_blocks(blocks[..., 0], channels)):
        return None
    notes: list[str] = []
    place, colour = np.divmod(np.arange(block**2 * channels), channels)
    if len(place) > MOST_VALUES:
        notes.append(f"value order not sought: {len(place)} values, at most {MOST_VALUES}")
    else:
        place, colour = find_values(blocks, block, channels, time_left)
    return placed(pool, seen, place, colour, time_left, notes=notes)


def placed(
    pool: Ciphertexts,
    seen: np.ndarray,
    place: np.ndarray,
    colour: np.ndarray,
    time_left: Callable[[], bool],
    lay: Lay = assemble,
    notes: Sequence[str] = (),
) -> Recovered:
    """K1 by the seams between blocks, where (place, colour) int64 [V] of the values are known.

    `lay` lays blocks by what seams cost.
    """
    spec = pool.spec
    block, channels, said = spec.block, spec.image_shape[2], list(notes)
    k1 = np.arange(spec.blocks)
    if spec.blocks > MOST_BLOCKS:
        said.append(f"block order not sought: {spec.blocks} blocks, at most {MOST_BLOCKS}")
    else:
        rows = seen[
            np.linspace(0, len(seen) - 1, min(len(seen), most_images(spec.blocks))).astype(np.int64)
        ]
        if len(rows) < len(seen):
            said.append(f"block order from {len(rows)} of {len(seen)} images")
        place, k1 = find_blocks(pool, rows, place, colour, time_left, lay)
    fixed = int(spec.options["fixed_blocks"]), int(spec.options["fixed_values"])
    k1, place, colour = most_in_place(k1, place, colour, spec.grid, channels, fixed)
    if not time_left():
        said.append("truncated: out of time")
    k2 = place * channels + colour
    opens = Table(spec.image_shape, (block, block), k1, k2[None]).inverse()
    return Recovered(opens, {"K1": k1, "K2": k2}, tuple(said))


def most_images(count: int) -> int:
    """How many images' seams are summed for N blocks."""
    return int(np.clip(_SEAM_WORK // count**2, 16, 64))


def varied_blocks(pool: Ciphertexts, seen: np.ndarray) -> np.ndarray:
    """uint8 [m, M²c, 1]: blocks that vary, from as many images as the layout can use, in a fixed random order."""
    block, kept, total = pool.spec.block, [], 0
    order = np.random.default_rng(0).permutation(seen)
    for first in range(0, len(order), _CHUNK):
        blocks = to_blocks(pool.images(order[first : first + _CHUNK]), block)
        flat = blocks.reshape(-1, block * block * blocks.shape[3], 1)
        kept.append(flat[spread(flat) > 0] if flat.shape[1] > 1 else flat)  # one value never varies
        total += len(kept[-1])
        if total >= 2 * _BLOCKS or total * flat.shape[1] >= _HELD:
            break
    return np.concatenate(kept)


def find_values(
    blocks: np.ndarray, block: int, channels: int, time_left: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [m, V, 1] sealed blocks → (place, colour) int64 [V]: which value of the plain block each one is."""
    size = blocks.shape[1]
    limit = int(np.clip(2 * _PAIRED // max(1, size * (size - 1)), 200, _BLOCKS))
    distances = position_distances(blocks[textured(blocks, limit)])
    return colour_layout(distances, block, channels, time_left)


def find_blocks(
    pool: Ciphertexts,
    rows: np.ndarray,
    place: np.ndarray,
    colour: np.ndarray,
    time_left: Callable[[], bool],
    lay: Lay = assemble,
) -> tuple[np.ndarray, np.ndarray]:
    """(place, K1): the order of the blocks whose values stand at (place, colour), turned where the picture lies."""
    spec = pool.spec
    upright = [place]
    if spec.grid[0] != spec.grid[1]:
        upright.append(symmetries(spec.block)[1][place])
    found: list[tuple[float, np.ndarray, np.ndarray]] = []
    for places in upright:
        across, down = seam_costs(_sides(pool, rows, places, colour), spec.blocks, time_left)
        grid = lay(across, down, spec.grid, time_left)
        k1 = np.empty(spec.blocks, np.int64)
        k1[grid.ravel()] = np.arange(spec.blocks)
        found.append((total_cost(grid, across, down), places, k1))
    _, place, k1 = min(found, key=lambda one: one[0])
    return place, k1


def _sides(
    pool: Ciphertexts, rows: np.ndarray, place: np.ndarray, colour: np.ndarray
) -> Iterator[np.ndarray]:
    height, width, channels = pool.spec.image_shape
    block = pool.spec.block
    inner = (place * channels + colour)[None]
    opens = Table(pool.spec.image_shape, (block, block), None, inner).inverse()
    cells = block_pixels(height, width, block)
    for first in range(0, len(rows), _CHUNK):
        yield from block_sides(apply(opens, pool.images(rows[first : first + _CHUNK])), cells, block)


def most_in_place(
    k1: np.ndarray,
    place: np.ndarray,
    colour: np.ndarray,
    shape: tuple[int, int],
    channels: int,
    fixed: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K1, place, colour) of the turn, colour order and shift of the picture that leave most entries in place.

    fixed: how many blocks and values the scheme leaves in place; what it does not count says nothing.
    """
    if not any(fixed):
        return k1, place, colour
    side = round((len(place) // channels) ** 0.5)
    rows, columns = shape
    best, found = -1, (k1, place, colour)
    cells = np.arange(rows * columns).reshape(shape)
    turns = symmetries(side)
    orders = ORDERS if channels == 3 else np.zeros((1, 1), np.int64)
    for kind, turn in enumerate(turns):
        face = cells if kind < 4 else cells.T
        turned = np.rot90(face, kind % 4)  # as in `symmetries`
        if turned.shape != shape:
            continue
        for order in orders:
            values = int((turn[place] * channels + order[colour] == np.arange(len(place))).sum())
            for down in range(rows if fixed[0] else 1):
                for right in range(columns if fixed[0] else 1):
                    moved = np.roll(turned, (down, right), (0, 1)).ravel()[k1]
                    blocks = int((moved == np.arange(len(k1))).sum())
                    score = blocks * bool(fixed[0]) + values * bool(fixed[1])
                    if score > best:
                        best, found = score, (moved, turn[place], order[colour])
    return found
