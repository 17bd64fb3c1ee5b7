"""Every block's state tried anew beside its neighbours: all turns, both signs, all colour orders at once."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from coordinator.adversary.puzzle.block_symmetry import BACKWARD, SHOWN, upright_walks
from coordinator.adversary.puzzle.side_matching import CONTROL, FLOOR, SOFTNESS
from coordinator.adversary.time_budget import always
from crypto.schemes.pe import ORDERS

_PASSES = 6
#: Least gain, in log-likelihood, for which a state is given up: ties are left as they are.
_GAIN = 1e-3


def state_costs(
    walked: np.ndarray,
    usual: np.ndarray,
    grid: np.ndarray,
    turn: np.ndarray,
    negative: np.ndarray,
    order: np.ndarray,
) -> np.ndarray:
    """float64 [N, 8, 2, orders]: what each state of a block costs beside its neighbours as they stand.

    walked: float32 [n, N, 4, M, c] walks; usual: float32 [n, N, 4] (fits.py); turn, negative, order: [N].
    """
    orders = ORDERS if walked.shape[4] == 3 else np.zeros((1, 1), np.int64)
    upright = upright_walks(walked, turn, negative, order)
    facing = np.take_along_axis(usual, SHOWN[turn][None], 2)  # [n, N, 4] by direction
    by_walk = np.zeros(
        (grid.size, 4, 4, 2, 2, len(orders))
    )  # block, direction, walk, backwards, sign, order
    _sum(walked, usual, upright, facing, grid, orders, by_walk)
    out = np.zeros((grid.size, 8, 2, len(orders)))
    for state in range(8):
        for direction in range(4):
            shown, back = SHOWN[state, direction], int(BACKWARD[state, direction])
            out[:, state] += by_walk[:, direction, shown, back]
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sum(
    walked: np.ndarray,
    usual: np.ndarray,
    upright: np.ndarray,
    facing: np.ndarray,
    grid: np.ndarray,
    orders: np.ndarray,
    out: np.ndarray,
) -> None:
    n, _, _, side, channels = walked.shape
    height, width = grid.shape
    size = np.float32(side * channels)
    moments = np.zeros((channels, channels), np.float32)
    for y in range(height):
        for x in range(width):
            p = grid[y, x]
            for direction in range(4):
                v = y + (direction == 2) - (direction == 0)
                u = x + (direction == 1) - (direction == 3)
                if v < 0 or u < 0 or v >= height or u >= width:
                    continue
                q, away = grid[v, u], (direction + 2) % 4
                for k in range(n):
                    for control in range(2 if n > 1 else 1):
                        o = (k + 1) % n if control else k
                        theirs = upright[o, q, away]
                        energy = np.float32(0.0)
                        for m in range(side):
                            for c in range(channels):
                                energy += theirs[m, c] ** 2
                        for walk in range(4):
                            own = walked[k, p, walk]
                            level = np.float32(0.0)
                            for m in range(side):
                                for c in range(channels):
                                    level += own[m, c] ** 2
                            scale = usual[k, p, walk] * facing[o, q, away]
                            for back in range(2):
                                # Two walks that face each other run in opposite directions.
                                moments[:] = 0
                                for m in range(side):
                                    r = side - 1 - m if back == 0 else m
                                    for c in range(channels):
                                        for d in range(channels):
                                            moments[c, d] += own[r, c] * theirs[m, d]
                                for h in range(len(orders)):
                                    met = np.float32(0.0)
                                    for d in range(channels):
                                        met += moments[orders[h, d], d]
                                    for sign in range(2):
                                        gap = energy + level - 2 * (met if sign == 0 else -met)
                                        soft = max(gap, np.float32(0.0)) / size + SOFTNESS
                                        gain = np.log(np.float32(1.0) / (soft * soft * scale) + FLOOR)
                                        if control:
                                            gain *= -CONTROL
                                        out[p, direction, walk, back, sign, h] -= gain


def improve(
    walked: np.ndarray,
    usual: np.ndarray,
    grid: np.ndarray,
    turn: np.ndarray,
    negative: np.ndarray,
    order: np.ndarray,
    time_left: Callable[[], bool] = always,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(turn, negative, order), each block's the best beside its neighbours, until nothing changes or time is out.

    Blocks that touch are never changed at once: as on a chessboard, white and black take turns.
    """
    turn, negative, order = turn.copy(), negative.copy(), order.copy()
    y, x = np.divmod(np.arange(grid.size), grid.shape[1])
    for _ in range(_PASSES):
        changed = 0
        for colour in (0, 1):
            if not time_left():
                return turn, negative, order
            costs = state_costs(walked, usual, grid, turn, negative, order)
            flat = costs.reshape(grid.size, -1)
            now = costs[np.arange(grid.size), turn, negative.astype(np.int64), order]
            best = flat.argmin(1)
            mine = grid.ravel()[(y + x) % 2 == colour]
            better = mine[flat[mine, best[mine]] < now[mine] - _GAIN]
            found = np.unravel_index(best[better], costs.shape[1:])
            turn[better], negative[better], order[better] = found[0], found[1] == 1, found[2]
            changed += len(better)
        if not changed:
            break
    return turn, negative, order
