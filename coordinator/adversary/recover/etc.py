"""Key recovery from a pool of EtC ciphertexts under one key (T1; T0 with one image).

Source: our own, after the jigsaw attacks of Chuman and Kiya (arXiv 2202.00806, 2211.02369) with Gallagher's tree
(CVPR 2012). It needs no plain image, only the scheme and sealed images under a shared key. The sides of all blocks
over the pool make one jigsaw puzzle (puzzle/solver.py), whose solution is K1, turn, negative and order.

The key is recovered up to the eight symmetries, the sign and the colour order of the whole picture. Blocks that are
constant in every image are interchangeable. With few images whose borders are black, the picture may come out shifted
by whole blocks.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.puzzle.assembly import LEAST_SEAM_FIT, SEAM_FIT, places_of
from coordinator.adversary.puzzle.seams import block_sides
from coordinator.adversary.puzzle.solver import Solution, solve
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import CHUNK, image_chunks, random_rows
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.ycbcr_planes import identify_planes
from crypto.arrays import BoolArray, Float32Array, Int64Array, Rows
from crypto.kernels.blocks import block_pixels
from crypto.kernels.executors import apply
from crypto.scheme import load
from crypto.schemes.etc import Etc
from crypto.symmetry import ORDER_INVERSES, TURN_INVERSES, TURN_PRODUCTS, turned

#: Most values of sides in memory: 120 MB of float32. It lowers the number of images for many blocks.
_HELD_VALUES = 30_000_000
#: Least and most images whose sides are compared. Set once; not tuned further.
_IMAGES = (8, 200)
#: With more blocks than this, nothing is sought: their pairs take minutes.
MOST_BLOCKS = 3136


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover K1, turn, negative and, in colour, order.

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None if no block varies.
    """
    scheme = load(pool.spec)
    algorithm = scheme.algorithm
    assert isinstance(algorithm, Etc)
    height, width, channels = scheme.sealed_shape
    block = pool.spec.block
    shape = height // block, width // block
    count = shape[0] * shape[1]
    if count > MOST_BLOCKS:
        note = f"not sought: {count} blocks, at most {MOST_BLOCKS}"
        return unmoved(scheme.sealed_shape, block, note)
    notes: list[str] = []
    limit = int(np.clip(_HELD_VALUES // (4 * count * block * channels), *_IMAGES))
    rows = pool_rows
    if len(pool_rows) > limit:
        rows = random_rows(pool_rows, limit)
        notes.append(f"from {limit} of {len(pool_rows)} images")
    sides = pool_sides(pool, rows, block_pixels(height, width, block), block)
    if not np.ptp(sides.reshape(*sides.shape[:3], block, channels), axis=3).any():
        return None
    is_gray_form = pool.spec.options["form"] == "gray"
    frame = pool.spec.grid if is_gray_form else None
    solution = solve(sides, channels, shape, time_left, frame)
    if is_gray_form:
        solution, is_determined = arrange_planes(pool, rows, solution, algorithm)
        if not is_determined:
            notes.append("signs and roles of the chroma planes not identifiable")
    if not time_left():
        notes.append("truncated: out of time")
    parts = key_parts(solution, channels)
    fits = (Fit(solution.fit, LEAST_SEAM_FIT, SEAM_FIT),) if count > 1 else ()
    return Recovered(algorithm.table(parts).inverse(), parts, tuple(notes), fits)


def pool_sides(pool: Ciphertexts, rows: Rows, cells: Int64Array, block: int) -> Float32Array:
    """Return the sides of the blocks of these rows, float32 [n, 4, N, M·c], as `block_sides` gives them."""
    return np.concatenate([block_sides(images, cells, block) for images in image_chunks(pool, rows)])


def key_parts(solution: Solution, channels: int) -> dict[str, Int64Array | BoolArray]:
    """Return the key that seals, from the states that set blocks upright.

    The parts are K1, turn, negative and, in colour, order.
    """
    parts: dict[str, Int64Array | BoolArray] = {
        "K1": places_of(solution.grid),
        "turn": TURN_INVERSES[solution.turn],
        "negative": solution.negative,
    }
    if channels == 3:
        parts["order"] = ORDER_INVERSES[solution.order]
    return parts


def arrange_planes(
    pool: Ciphertexts, rows: Rows, solution: Solution, algorithm: Etc
) -> tuple[Solution, bool]:
    """Arrange the thirds of a picture of the gray form as Y, Cb and Cr, each in its turn and sign.

    Returns:
        The arranged solution, and whether the pool determines the signs and roles of the planes.
    """
    table = algorithm.table(key_parts(solution, 1)).inverse()
    opened = apply(table, pool.images(rows[:CHUNK]))
    n, height, width, _ = opened.shape
    planes = identify_planes(opened.reshape(n, height, 3, width // 3).transpose(0, 2, 1, 3))
    thirds = solution.grid.reshape(solution.grid.shape[0], 3, -1).transpose(1, 0, 2)
    turn, negative, parts = solution.turn.copy(), solution.negative.copy(), []
    for source, state, is_negative in zip(planes.sources, planes.turn, planes.negative, strict=True):
        members = thirds[source]
        parts.append(turned(members[None], state)[0])
        turn[members] = TURN_PRODUCTS[turn[members], state]
        negative[members] ^= is_negative
    grid = np.concatenate(parts, 1)
    arranged = Solution(grid, turn, negative, solution.order, solution.largest_cluster, solution.fit)
    return arranged, planes.is_determined
