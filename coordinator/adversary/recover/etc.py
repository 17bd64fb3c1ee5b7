"""Key recovery from a pool of EtC ciphertexts under one key (T1; T0 with one image).

Source: our own, after the jigsaw attacks of Chuman and Kiya (arXiv 2202.00806, 2211.02369) with Gallagher's
tree (CVPR 2012). It needs no plain image, only the scheme and sealed images under a shared key: the sides of all
blocks over the pool make one puzzle (puzzle.py), whose answer is K1, turn, negative and order.

Up to the eight symmetries, the sign and the colour order of the whole picture; blocks that are constant in every
image are interchangeable, and with few images whose borders are black the picture may come out shifted by whole
blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Recovered
from coordinator.adversary.puzzle.block_symmetry import THEN, UNDONE, UNMIXED
from coordinator.adversary.puzzle.seams import block_sides
from coordinator.adversary.puzzle.solver import Solved, solve
from coordinator.adversary.values.ycbcr_planes import settle, turn_pictures
from crypto.kernels.blocks import block_pixels
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import load
from crypto.schemes.etc import Etc

_CHUNK = 32  # images held at a time
_VALUES = 30_000_000  # most values of sides that are held
_MOST_IMAGES = 200
#: Of more blocks than this nothing is sought: their pairs take minutes.
MOST_BLOCKS = 3136


def recover(pool: Ciphertexts, seen: np.ndarray, time_left: Callable[[], bool]) -> Recovered | None:
    """K1, turn, negative (and order) from int64 [n] rows; None where no block varies."""
    scheme = load(pool.spec)
    algorithm = scheme.algorithm
    assert isinstance(algorithm, Etc)
    height, width, channels = scheme.sealed_shape
    block = pool.spec.block
    shape = height // block, width // block
    count = shape[0] * shape[1]
    notes: list[str] = []
    if count > MOST_BLOCKS:
        notes = [f"not sought: {count} blocks, at most {MOST_BLOCKS}"]
        return Recovered(Table(scheme.sealed_shape, (block, block)), {}, tuple(notes))
    limit = int(np.clip(_VALUES // (4 * count * block * channels), 8, _MOST_IMAGES))
    rows = seen
    if len(seen) > limit:
        rows = np.sort(np.random.default_rng(0).permutation(seen)[:limit])
        notes.append(f"from {limit} of {len(seen)} images")
    sides = pool_sides(pool, rows, block_pixels(height, width, block), block)
    if not np.ptp(sides.reshape(*sides.shape[:3], block, channels), axis=3).any():
        return None
    form_gray = pool.spec.options["form"] == "gray"
    piece = pool.spec.grid if form_gray else None
    solved = solve(sides, channels, shape, time_left, piece)
    if form_gray:
        solved, told = settle_planes(pool, rows, solved, algorithm)
        if not told:
            notes.append("signs and roles of the chroma planes not identifiable")
    if not time_left():
        notes.append("truncated: out of time")
    parts = key_parts(solved, channels)
    return Recovered(algorithm.table(parts).inverse(), parts, tuple(notes))


def pool_sides(pool: Ciphertexts, rows: np.ndarray, cells: np.ndarray, block: int) -> np.ndarray:
    """float32 [n, 4, N, M·c]: `block_sides` of these rows."""
    parts = [
        block_sides(pool.images(rows[first : first + _CHUNK]), cells, block)
        for first in range(0, len(rows), _CHUNK)
    ]
    return np.concatenate(parts)


def key_parts(solved: Solved, channels: int) -> dict[str, np.ndarray]:
    """What seals, from what sets upright: K1, turn, negative and, in colour, order."""
    k1 = np.empty(solved.grid.size, np.int64)
    k1[solved.grid.ravel()] = np.arange(solved.grid.size)
    parts = {"K1": k1, "turn": UNDONE[solved.turn], "negative": solved.negative}
    return {**parts, "order": UNMIXED[solved.order]} if channels == 3 else parts


def settle_planes(
    pool: Ciphertexts, rows: np.ndarray, solved: Solved, algorithm: Etc
) -> tuple[Solved, bool]:
    """The picture with its thirds in the order Y, Cb, Cr, each turned and signed, and whether signs could be told."""
    opens = algorithm.table(key_parts(solved, 1)).inverse()
    opened = apply(opens, pool.images(rows[:_CHUNK]))
    n, height, wide, _ = opened.shape
    found = settle(opened.reshape(n, height, 3, wide // 3).transpose(0, 2, 1, 3))
    thirds = solved.grid.reshape(solved.grid.shape[0], 3, -1).transpose(1, 0, 2)
    turn, negative, parts = solved.turn.copy(), solved.negative.copy(), []
    for which, state, less in zip(found.which, found.turn, found.negative, strict=True):
        members = thirds[which]
        parts.append(turn_pictures(members[None], state)[0])
        turn[members] = THEN[turn[members], state]
        negative[members] ^= less
    grid = np.concatenate(parts, 1)
    return Solved(grid, turn, negative, solved.order, solved.size), found.told
