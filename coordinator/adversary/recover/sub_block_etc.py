"""Key recovery from a pool of sub-block EtC ciphertexts under one key (T1; T0 with one image).

Source: our own, on the puzzle solver of `etc` (etc.py). All main blocks share the key of their sub-blocks, so that
every main block of every image is one more picture of the same small puzzle:

1. the sub-blocks of a main block, over all main blocks that vary, are solved as the blocks of `etc` are over a pool
   of images: K1, turn, negative and order, up to one state of the whole;
2. with main blocks set upright, their sides make a jigsaw of blocks that were only moved (puzzle/seams.py): K5. A
   picture that is not square is tried as it stands and on its side.

JPEG between sealing and the attack changes no step: sides are compared by likelihoods, not for equality.

The key is recovered up to the eight symmetries, the sign and the colour order of the whole picture, and shifts by
whole main blocks where nothing shows the border. With one sub-block to a main block, step 1 has nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.puzzle.assembly import LEAST_SEAM_FIT, SEAM_FIT, assemble, places_of, seam_fit
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from coordinator.adversary.puzzle.solver import Solution, solve
from coordinator.adversary.puzzle.swap_search import total_cost
from coordinator.adversary.recover.etc import MOST_BLOCKS, key_parts
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import image_chunks, random_order
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import AnyArray, Float32Array, Images, Int64Array, Rows, UInt8Array
from crypto.kernels.blocks import block_pixels, to_blocks
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import load
from crypto.schemes.sub_block_etc import SubBlockEtc
from crypto.symmetry import TURN_PRODUCTS, turned

#: Main blocks whose sub-blocks are compared. Set once; not tuned further.
_MAIN_BLOCKS = 2000
#: Gray levels that the values of a main block must span to be compared. Set once; not tuned further.
_LEAST_SPAN = 24
#: Most images whose seams are summed, and most block pairs times images. Set once; not tuned further.
_SEAM_IMAGES, _SEAM_WORK = 400, 100_000_000


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover K1, turn, negative, K5 and, in colour, order.

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None if no main block varies.
    """
    algorithm = load(pool.spec).algorithm
    assert isinstance(algorithm, SubBlockEtc)
    spec, count = pool.spec, pool.spec.blocks
    if count > MOST_BLOCKS:
        note = f"not sought: {count} main blocks, at most {MOST_BLOCKS}"
        return unmoved(spec.image_shape, spec.block, note)
    sample = _varied_main_blocks(pool, pool_rows)
    if not len(sample):
        return None
    channels, side = spec.image_shape[2], spec.block // algorithm.side
    cells = block_pixels(spec.block, spec.block, algorithm.side)
    solution = solve(block_sides(sample, cells, algorithm.side), channels, (side, side), time_left)
    fits = [Fit(solution.fit, LEAST_SEAM_FIT, f"{SEAM_FIT}, of sub-blocks")] if side > 1 else []
    inner = _inner_parts(solution, channels)
    best: tuple[float, Int64Array, Mapping[str, AnyArray], float] | None = None
    for parts in _as_it_stands_and_lying(inner, solution, channels, spec.grid):
        upright = algorithm.table({**parts, "K5": np.arange(count)}).inverse()
        across, down = seam_costs(_sides(pool, pool_rows, upright), count, time_left)
        grid = assemble(across, down, spec.grid, time_left)
        cost = total_cost(grid, across, down)
        if best is None or cost < best[0]:
            best = cost, grid, parts, seam_fit(grid, across, down)
    assert best is not None
    _, grid, upright_parts, fit = best
    parts = {**upright_parts, "K5": places_of(grid)}
    fits += [Fit(fit, LEAST_SEAM_FIT, f"{SEAM_FIT}, of main blocks")] if count > 1 else []
    notes = () if time_left() else ("truncated: out of time",)
    return Recovered(algorithm.table(parts).inverse(), parts, notes, tuple(fits))


def _varied_main_blocks(pool: Ciphertexts, pool_rows: Rows) -> UInt8Array:
    """Return main blocks that vary, as small images uint8 [n, M, M, c], from images in a fixed random order.

    Where no block spans enough gray levels, all that vary at all are taken.
    """
    block, channels = pool.spec.block, pool.spec.image_shape[2]
    sample: list[UInt8Array] = []
    flat: list[UInt8Array] = []
    for images in image_chunks(pool, random_order(pool_rows)):
        blocks = to_blocks(images, block).reshape(-1, block, block, channels)
        # Inverted sub-blocks span the range of gray levels by themselves: what counts is within a sub-block.
        span = np.ptp(_sub_blocks(blocks, pool), axis=(2, 3)).max((1, 2))
        sample.append(blocks[span >= _LEAST_SPAN])
        flat.append(blocks[(span > 0) & (span < _LEAST_SPAN)])
        if sum(map(len, sample)) >= _MAIN_BLOCKS:
            break
    chosen = np.concatenate(sample)
    if not len(chosen):
        chosen = np.concatenate(flat)
    return chosen[evenly_spaced(np.arange(len(chosen)), _MAIN_BLOCKS)]


def _sub_blocks(blocks: UInt8Array, pool: Ciphertexts) -> UInt8Array:
    """Return the sub-blocks of main blocks uint8 [n, M, M, c]: uint8 [n, S, m, m, c], spanning axes 2 and 3."""
    side = int(pool.spec.options["sub_block"])
    n, channels = len(blocks), blocks.shape[3]
    return to_blocks(blocks, side).reshape(n, -1, side, side, channels)


def _inner_parts(solution: Solution, channels: int) -> dict[str, AnyArray]:
    """Return the parts of the sub-blocks' key: K1, turn, negative and, in colour, order."""
    return dict(key_parts(solution, channels))


def _as_it_stands_and_lying(
    parts: dict[str, AnyArray], solution: Solution, channels: int, grid: tuple[int, int]
) -> Iterator[dict[str, AnyArray]]:
    """Yield the sub-blocks' key; for a picture that is not square, also that of main blocks on their side."""
    yield parts
    if grid[0] != grid[1]:
        lying = Solution(
            turned(solution.grid[None], 1)[0],
            TURN_PRODUCTS[solution.turn, 1],
            solution.negative,
            solution.order,
            solution.largest_cluster,
            solution.fit,
        )
        yield _inner_parts(lying, channels)


def _sides(pool: Ciphertexts, pool_rows: Rows, upright: Table) -> Iterator[Float32Array]:
    """Yield the sides of the main blocks of each image, set upright, float32 [4, N, M·c]."""
    block, (height, width, _) = pool.spec.block, pool.spec.image_shape
    cells = block_pixels(height, width, block)
    limit = min(_SEAM_IMAGES, max(16, _SEAM_WORK // len(cells) ** 2))
    for images in image_chunks(pool, evenly_spaced(pool_rows, limit)):
        opened: Images = apply(upright, images)
        yield from block_sides(opened, cells, block)
