"""The states of a block (eight turns, two signs, six colour orders) and what each does to the block's sides.

Turns and colour orders are numbered as in crypto/symmetry.py. A side is read as a walk, clockwise around its
block: the top from left to right, the right side downwards, the bottom from right to left, the left side
upwards. A turn then only says which walk faces which way, and whether it runs backwards. Two neighbours meet in
opposite directions; if one of them is mirrored, their walks run in the same direction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crypto.arrays import BoolArray, Float32Array, Int64Array
from crypto.symmetry import TURNS, colour_orders, turned_pixels

#: Where each walk (top, right, bottom, left) stands among `block_sides` (right, left, bottom, top).
_SIDE_OF_WALK = (3, 0, 2, 1)
_BACKWARD_WALKS = (2, 3)  # bottom and left sides run against the rows and columns
#: The middle gray: what a block and its negative have in common.
MIDDLE_GRAY = 127.5


def sides_to_walks(sides: Float32Array, channels: int) -> Float32Array:
    """Return the sides of blocks as walks, float32 [n, N, 4, M, c], less the middle gray.

    Args:
        sides: float32 [n, 4, N, M·c], as from `seams.block_sides`.
        channels: c.
    """
    n, _, count, size = sides.shape
    out = np.empty((n, count, 4, size // channels, channels), np.float32)
    for walk, side in enumerate(_SIDE_OF_WALK):
        run = sides[:, side].reshape(n, count, -1, channels)
        out[:, :, walk] = run[:, :, ::-1] if walk in _BACKWARD_WALKS else run
    out -= np.float32(MIDDLE_GRAY)
    return out


def walks_to_sides(walks: Float32Array) -> Float32Array:
    """Return the sides float32 [n, 4, N, M·c] of walks: the inverse of `sides_to_walks`, but for the middle gray."""
    n, count, _, side, channels = walks.shape
    out = np.empty((n, 4, count, side * channels), np.float32)
    for walk, target in enumerate(_SIDE_OF_WALK):
        run = walks[:, :, walk, ::-1] if walk in _BACKWARD_WALKS else walks[:, :, walk]
        out[:, target] = run.reshape(n, count, -1)
    return out


def transform_walks(
    walks: Float32Array, turn: Int64Array, negative: BoolArray, order: Int64Array
) -> Float32Array:
    """Return the walks that blocks have in other states, float32 [n, N, 4, M, c].

    A block is turned, negated where `negative`, and component m of the result is component
    COLOUR_ORDERS[order, m] of the block.

    Args:
        walks: float32 [n, N, 4, M, c], of the blocks as they are.
        turn: int64 [N].
        negative: bool [N].
        order: int64 [N]; ignored for gray images.
    """
    count, side, channels = walks.shape[1], *walks.shape[3:]
    walk = FACING_WALK[turn][:, :, None, None]  # [N, 4, 1, 1]
    along = np.where(IS_REVERSED[turn][:, :, None], np.arange(side)[::-1], np.arange(side))[..., None]
    orders = colour_orders(channels)
    colours = orders[order if channels == 3 else np.zeros(1, np.int64)][:, None, None, :]
    sign = np.where(negative, -1.0, 1.0).astype(np.float32)[:, None, None, None]
    chosen: Float32Array = walks[:, np.arange(count)[:, None, None, None], walk, along, colours]
    return chosen * sign


class _TurnTables(NamedTuple):
    """What the eight turns do to walks and to steps on the grid."""

    facing: Int64Array
    reversed: BoolArray
    turn_facing: Int64Array
    steps: Int64Array


def _turn_tables() -> _TurnTables:
    """Return the tables of the turns, read off a block of 3×3 pixels."""
    pixels = turned_pixels(3)
    corners = ([0, 1, 2], [2, 5, 8], [8, 7, 6], [6, 3, 0])  # the four walks around a block of 3
    facing, is_reversed = np.zeros((TURNS, 4), np.int64), np.zeros((TURNS, 4), bool)
    turn_facing = np.zeros((4, 2, 4), np.int64)
    for turn in range(TURNS):
        for direction in range(4):
            walk = pixels[turn][corners[direction]].tolist()
            for side in range(4):
                if walk in (corners[side], corners[side][::-1]):
                    backward = walk != corners[side]
                    facing[turn, direction], is_reversed[turn, direction] = side, backward
                    turn_facing[side, int(backward), direction] = turn
    # Where a turn takes the steps down and right: the pixel now at the middle of a face came from `pixels`.
    steps = np.zeros((TURNS, 2, 2), np.int64)
    for turn in range(TURNS):
        target = np.argsort(pixels[turn])
        for axis, cell in enumerate((7, 5)):
            steps[turn, :, axis] = np.array(divmod(int(target[cell]), 3)) - 1
    return _TurnTables(facing, is_reversed, turn_facing, steps)


_TABLES = _turn_tables()
#: FACING_WALK[t, d]: which walk faces direction d (up, right, down, left) after turn t.
FACING_WALK = _TABLES.facing
#: IS_REVERSED[t, d]: whether that walk then runs backwards, because the turn mirrors the block.
IS_REVERSED = _TABLES.reversed
#: TURN_FACING[w, b, d]: the turn that brings walk w to direction d, backwards if b is 1.
TURN_FACING = _TABLES.turn_facing
#: TURN_STEPS[t] @ (row, column): where a turn of the whole picture takes a step.
TURN_STEPS = _TABLES.steps
