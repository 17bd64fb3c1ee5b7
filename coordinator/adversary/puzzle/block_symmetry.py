"""The states a block can be in: eight turns, two signs and six colour orders, and what each does to its sides.

Turns are those of crypto/schemes/etc.py (t mod 4 quarter turns, then mirrored where t ≥ 4), orders those of
crypto/schemes/pe.py. A side is read as a walk, clockwise around its block: top from left to right, right side
downwards, bottom from right to left, left side upwards. A turn then only says which walk faces which way, and
whether it runs backwards. Two neighbours meet in opposite directions; where one of them is mirrored they run alike.
"""

from __future__ import annotations

import numpy as np

from crypto.schemes.etc import turned_pixels
from crypto.schemes.pe import ORDERS

#: Where each walk (top, right, bottom, left) stands among `block_sides` (right, left, bottom, top).
_FROM_SIDES = (3, 0, 2, 1)
_BACKWARDS = (2, 3)  # bottom and left sides run against the rows and columns
#: The middle gray: what a block and its negative have in common.
MIDDLE = 127.5


def walks(sides: np.ndarray, channels: int) -> np.ndarray:
    """float32 [n, 4, N, M·c] of `block_sides` → float32 [n, N, 4, M, c], read clockwise, middle gray taken off."""
    n, _, count, size = sides.shape
    out = np.empty((n, count, 4, size // channels, channels), np.float32)
    for walk, side in enumerate(_FROM_SIDES):
        run = sides[:, side].reshape(n, count, -1, channels)
        out[:, :, walk] = run[:, :, ::-1] if walk in _BACKWARDS else run
    out -= np.float32(MIDDLE)
    return out


def upright_walks(
    walked: np.ndarray, turn: np.ndarray, negative: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """float32 [n, N, 4, M, c] walks → the walks [n, N, 4, M, c] of the blocks set upright by these states, [N] each.

    A block is turned, negated where `negative`, and component m of the result is component ORDERS[order, m].
    """
    count, side, channels = walked.shape[1], *walked.shape[3:]
    which = SHOWN[turn][:, :, None, None]  # [N, 4, 1, 1]
    along = np.where(BACKWARD[turn][:, :, None], np.arange(side)[::-1], np.arange(side))[..., None]
    colours = ORDERS[order][:, None, None, :] if channels == 3 else np.zeros((1, 1, 1, 1), np.int64)
    sign = np.where(negative, -1.0, 1.0).astype(np.float32)[:, None, None, None]
    taken: np.ndarray = walked[:, np.arange(count)[:, None, None, None], which, along, colours]
    return taken * sign


def as_sides(walked: np.ndarray) -> np.ndarray:
    """The inverse of `walks`, but for the middle gray: float32 [n, 4, N, M·c]."""
    n, count, _, side, channels = walked.shape
    out = np.empty((n, 4, count, side * channels), np.float32)
    for walk, target in enumerate(_FROM_SIDES):
        run = walked[:, :, walk, ::-1] if walk in _BACKWARDS else walked[:, :, walk]
        out[:, target] = run.reshape(n, count, -1)
    return out


def _turn_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    pixels = turned_pixels(3)
    corner = ([0, 1, 2], [2, 5, 8], [8, 7, 6], [6, 3, 0])  # the four walks around a block of 3
    shown, backward = np.zeros((8, 4), np.int64), np.zeros((8, 4), bool)
    turn_of = np.zeros((4, 2, 4), np.int64)
    for turn in range(8):
        for direction in range(4):
            seen = pixels[turn][corner[direction]].tolist()
            for side in range(4):
                if seen in (corner[side], corner[side][::-1]):
                    back = seen != corner[side]
                    shown[turn, direction], backward[turn, direction] = side, back
                    turn_of[side, int(back), direction] = turn
    names = {tuple(p): k for k, p in enumerate(pixels)}
    then = np.array([[names[tuple(first[second])] for second in pixels] for first in pixels])
    # Where a turn takes the steps down and right: the pixel now at the middle of a face came from `pixels`.
    moves = np.zeros((8, 2, 2), np.int64)
    for turn in range(8):
        came = np.argsort(pixels[turn])
        for axis, cell in enumerate((7, 5)):
            moves[turn, :, axis] = np.array(divmod(int(came[cell]), 3)) - 1
    return shown, backward, turn_of, then, moves


#: SHOWN[t, d]: which walk faces direction d (up, right, down, left) after turn t; BACKWARD: whether mirrored.
#: TURN_OF[s, b, d]: the turn that shows walk s in direction d, backwards where b. THEN[a, b]: a, then b, as one.
#: MOVES[t] @ (row, column): where a turn of the whole picture takes a step.
SHOWN, BACKWARD, TURN_OF, THEN, MOVES = _turn_tables()
#: UNDONE[t]: the turn that undoes t.
UNDONE = np.argmin(THEN, axis=1)

_NAMES = {tuple(o): k for k, o in enumerate(ORDERS.tolist())}
#: MIXED[a, b]: the order whose component m is component ORDERS[b, m] of order a. UNMIXED undoes an order.
MIXED = np.array([[_NAMES[tuple(first[second])] for second in ORDERS] for first in ORDERS])
UNMIXED = np.argmin(MIXED, axis=1)
