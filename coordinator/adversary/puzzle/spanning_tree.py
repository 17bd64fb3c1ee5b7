"""The surest pairs of sides are joined first, into clusters of blocks with place, turn, sign and colour order.

Source: the constrained tree of A. Gallagher (CVPR 2012), which refuses a join that overlaps or leaves the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from coordinator.adversary.puzzle.block_symmetry import FACING_WALK, IS_REVERSED, TURN_FACING, TURN_STEPS
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import BoolArray, Int64Array
from crypto.symmetry import ORDER_INVERSES, ORDER_PRODUCTS, TURN_INVERSES, TURN_PRODUCTS

#: Pairs joined between two looks at the clock. A budget that was asked between whole steps only was 5.8 s over
#: with 3,136 blocks; asked within the steps, it is less than 2 s over.
PAIRS_AT_ONCE = 4096


class _Tables(NamedTuple):
    """The tables that a join looks up: those of block_symmetry.py and crypto/symmetry.py, and the four directions."""

    facing: Int64Array
    is_reversed: BoolArray
    turn_facing: Int64Array
    turn_products: Int64Array
    turn_inverses: Int64Array
    turn_steps: Int64Array
    order_products: Int64Array
    order_inverses: Int64Array
    directions: Int64Array


_TABLES = _Tables(
    FACING_WALK,
    IS_REVERSED,
    TURN_FACING,
    TURN_PRODUCTS,
    TURN_INVERSES,
    TURN_STEPS,
    ORDER_PRODUCTS,
    ORDER_INVERSES,
    np.array([[-1, 0], [0, 1], [1, 0], [0, -1]]),  # up, right, down, left
)


@dataclass(frozen=True)
class Clusters:
    """Blocks joined to clusters.

    Turn, sign and order are what sets a block upright, as its cluster sees it.

    Attributes:
        label: int64 [N], the cluster of each block, named by one of its blocks.
        position: int64 [N, 2], row and column within the cluster.
        turn: int64 [N].
        sign: int64 [N], 1 or -1.
        order: int64 [N], a row of COLOUR_ORDERS.
    """

    label: Int64Array
    position: Int64Array
    turn: Int64Array
    sign: Int64Array
    order: Int64Array


def single_blocks(count: int) -> Clusters:
    """Return clusters of one block each, every block as it is."""
    zeros = np.zeros(count, np.int64)
    return Clusters(np.arange(count), np.zeros((count, 2), np.int64), zeros, zeros + 1, zeros)


def join_pairs(
    pairs: Int64Array, clusters: Clusters, shape: tuple[int, int], time_left: TimeLeft = always
) -> Clusters:
    """Return the clusters after joining pairs in their order; each cluster fits the frame, or the frame turned.

    Args:
        pairs: int64 [e, 7] of `side_matching.PAIR_COLUMNS`, the surest first.
        clusters: What to start from. They are left as they are.
        shape: Rows and columns of the frame.
        time_left: Asked between chunks of pairs.
    """
    columns = tuple(values.copy() for values in vars(clusters).values())
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        if not time_left():
            break
        _join(pairs[first : first + PAIRS_AT_ONCE], *columns, *shape, _TABLES)
    return Clusters(*columns)


def join_states(pairs: Int64Array, clusters: Clusters, time_left: TimeLeft = always) -> Clusters:
    """Return the clusters joined by states alone, without a frame; their positions mean nothing afterwards."""
    return join_pairs(pairs, clusters, (0, 0), time_left)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _fits_frame(
    label: Int64Array, position: Int64Array, moved: Int64Array, a: int, b: int, height: int, width: int
) -> bool:
    """Return whether clusters a and b, the latter moved, do not overlap and fit the frame, upright or lying."""
    low, high = np.full(2, 1 << 30), np.full(2, -(1 << 30))
    for k in range(len(label)):
        if label[k] != a and label[k] != b:
            continue
        for axis in range(2):
            at = position[k, axis] if label[k] == a else moved[k, axis]
            low[axis] = min(low[axis], at)
            high[axis] = max(high[axis], at)
    tall, wide = high[0] - low[0] + 1, high[1] - low[1] + 1
    if not ((tall <= height and wide <= width) or (tall <= width and wide <= height)):
        return False
    occupied = np.zeros((tall, wide), np.bool_)
    for k in range(len(label)):
        if label[k] == a:
            occupied[position[k, 0] - low[0], position[k, 1] - low[1]] = True
    overlaps = False
    for k in range(len(label)):
        if label[k] == b:
            overlaps |= occupied[moved[k, 0] - low[0], moved[k, 1] - low[1]]
    return not overlaps


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _join(
    pairs: Int64Array,
    label: Int64Array,
    position: Int64Array,
    turn: Int64Array,
    sign: Int64Array,
    order: Int64Array,
    height: int,
    width: int,
    tables: _Tables,
) -> None:
    """Join pairs in place. A frame of height 0 is none."""
    count = len(label)
    moved = np.zeros((count, 2), np.int64)
    for e in range(len(pairs)):
        i, side_i, j, side_j, same_direction, flip, pair_order = pairs[e]
        a, b = label[i], label[j]
        if a == b:
            continue
        direction = 0  # where the side of i faces
        while tables.facing[turn[i], direction] != side_i:
            direction += 1
        backward = int(tables.is_reversed[turn[i], direction]) ^ same_direction
        turn_j = tables.turn_facing[side_j, backward, (direction + 2) % 4]
        change = tables.turn_products[tables.turn_inverses[turn[j]], turn_j]
        move, step = tables.turn_steps[change], tables.directions[direction]
        for k in range(count):
            if label[k] == b:
                dy, dx = position[k, 0] - position[j, 0], position[k, 1] - position[j, 1]
                moved[k, 0] = position[i, 0] + step[0] + move[0, 0] * dy + move[0, 1] * dx
                moved[k, 1] = position[i, 1] + step[1] + move[1, 0] * dy + move[1, 1] * dx
        if height > 0 and not _fits_frame(label, position, moved, a, b, height, width):
            continue
        # Component m of i, upright, is order[i][m]; that of j must be its partner, which is `pair_order` of it.
        order_j = tables.order_products[pair_order, order[i]]
        recolour = tables.order_products[tables.order_inverses[order[j]], order_j]
        relative_sign = sign[i] * flip * sign[j]
        for k in range(count):
            if label[k] == b:
                label[k] = a
                position[k] = moved[k]
                turn[k] = tables.turn_products[turn[k], change]
                sign[k] *= relative_sign
                order[k] = tables.order_products[order[k], recolour]
