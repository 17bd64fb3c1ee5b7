"""The surest pairs of sides join first: clusters of blocks that carry place, turn, sign and colour order.

Source: the constrained tree of A. Gallagher (CVPR 2012), which refuses a join that overlaps or leaves the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

from coordinator.adversary.puzzle.block_symmetry import (
    BACKWARD,
    MIXED,
    MOVES,
    SHOWN,
    THEN,
    TURN_OF,
    UNDONE,
    UNMIXED,
)
from coordinator.adversary.time_budget import always

_STEPS = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # up, right, down, left
_PAIRS = 4096  # joined before it is asked whether to go on
_GROUPS = (SHOWN, BACKWARD, TURN_OF, THEN, UNDONE, MOVES, MIXED, UNMIXED, _STEPS)


@dataclass(frozen=True)
class Clusters:
    """Blocks tied together; int64 [N] each, but for place, [N, 2] of row and column within the cluster.

    What sets a block upright: its turn, sign (1 or -1) and order, as its cluster sees it. A cluster is named by
    one of its blocks.
    """

    name: np.ndarray
    place: np.ndarray
    turn: np.ndarray
    sign: np.ndarray
    order: np.ndarray


def alone(count: int) -> Clusters:
    """Every block by itself, as it is."""
    zeros = np.zeros(count, np.int64)
    return Clusters(np.arange(count), np.zeros((count, 2), np.int64), zeros, zeros + 1, zeros)


def join(
    pairs: np.ndarray, clusters: Clusters, shape: tuple[int, int], time_left: Callable[[], bool] = always
) -> Clusters:
    """int64 [e, 7] pairs (fits.py), the surest first → the clusters they make; each fits the frame, or it turned."""
    held = tuple(values.copy() for values in vars(clusters).values())
    for first in range(0, len(pairs), _PAIRS):
        if not time_left():
            break
        _join(pairs[first : first + _PAIRS], *held, *shape, _GROUPS)
    return Clusters(*held)


def tie(pairs: np.ndarray, clusters: Clusters, time_left: Callable[[], bool] = always) -> Clusters:
    """The clusters tied together by states alone, whatever their places: those are no longer meant."""
    return join(pairs, clusters, (0, 0), time_left)


@numba.njit(cache=True, nogil=True)
def _fits_frame(
    name: np.ndarray, place: np.ndarray, moved: np.ndarray, a: int, b: int, height: int, width: int
) -> bool:
    """Whether clusters a and b, the latter moved, do not overlap and fit the frame, upright or lying."""
    low, high = np.full(2, 1 << 30), np.full(2, -(1 << 30))
    for k in range(len(name)):
        if name[k] != a and name[k] != b:
            continue
        for axis in range(2):
            at = place[k, axis] if name[k] == a else moved[k, axis]
            low[axis] = min(low[axis], at)
            high[axis] = max(high[axis], at)
    tall, wide = high[0] - low[0] + 1, high[1] - low[1] + 1
    if not ((tall <= height and wide <= width) or (tall <= width and wide <= height)):
        return False
    taken = np.zeros((tall, wide), np.bool_)
    for k in range(len(name)):
        if name[k] == a:
            taken[place[k, 0] - low[0], place[k, 1] - low[1]] = True
    overlaps = False
    for k in range(len(name)):
        if name[k] == b:
            overlaps |= taken[moved[k, 0] - low[0], moved[k, 1] - low[1]]
    return not overlaps


@numba.njit(cache=True, nogil=True)
def _join(
    pairs: np.ndarray,
    name: np.ndarray,
    place: np.ndarray,
    turn: np.ndarray,
    sign: np.ndarray,
    order: np.ndarray,
    height: int,
    width: int,
    groups: tuple[np.ndarray, ...],
) -> None:
    """Joins in place. A frame of height 0 is none."""
    shown, backward, turn_of, then, undone, moves, mixed, unmixed, steps = groups
    count = len(name)
    moved = np.zeros((count, 2), np.int64)
    for e in range(len(pairs)):
        i, side_i, j, side_j, alike, flip, met = pairs[e]
        a, b = name[i], name[j]
        if a == b:
            continue
        direction = 0  # where the side of i faces
        while shown[turn[i], direction] != side_i:
            direction += 1
        back = int(backward[turn[i], direction]) ^ alike
        wanted = turn_of[side_j, back, (direction + 2) % 4]
        change = then[undone[turn[j]], wanted]
        move = moves[change]
        for k in range(count):
            if name[k] == b:
                dy, dx = place[k, 0] - place[j, 0], place[k, 1] - place[j, 1]
                moved[k, 0] = place[i, 0] + steps[direction, 0] + move[0, 0] * dy + move[0, 1] * dx
                moved[k, 1] = place[i, 1] + steps[direction, 1] + move[1, 0] * dy + move[1, 1] * dx
        if height > 0 and not _fits_frame(name, place, moved, a, b, height, width):
            continue
        # Component m of i, upright, is order[i][m]; j's must be that one's partner: `met` of it.
        recolour = mixed[unmixed[order[j]], mixed[met, order[i]]]
        same = sign[i] * flip * sign[j]
        for k in range(count):
            if name[k] == b:
                name[k] = a
                place[k] = moved[k]
                turn[k] = then[turn[k], change]
                sign[k] *= same
                order[k] = mixed[order[k], recolour]
