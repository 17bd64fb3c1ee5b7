"""Every block's state chosen again beside its neighbours: all turns, both signs and all colour orders at once."""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.puzzle.block_symmetry import FACING_WALK, IS_REVERSED, transform_walks
from coordinator.adversary.puzzle.seams import CONTROL, FLOOR, SOFTNESS
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from crypto.symmetry import TURNS, colour_orders

#: Most passes over both colours of the chessboard. Set once by hand; no measurement is recorded.
_PASSES = 6
#: Least gain, in log-likelihood, for which a state is given up: ties are left as they are.
_MIN_GAIN = 1e-3


def state_costs(
    walks: Float32Array,
    typical: Float32Array,
    grid: Int64Array,
    turn: Int64Array,
    negative: BoolArray,
    order: Int64Array,
) -> Float64Array:
    """Return what each state of a block costs beside its neighbours as they stand, float64 [N, 8, 2, orders].

    Args:
        walks: float32 [n, N, 4, M, c], of the blocks as they are.
        typical: float32 [n, N, 4], from `side_matching.typical_likelihoods`.
        grid: int64 [rows, columns], the block in each cell.
        turn: int64 [N], the turn of every block.
        negative: bool [N], whether it is negated.
        order: int64 [N], its colour order.
    """
    orders = colour_orders(walks.shape[4])
    current = transform_walks(walks, turn, negative, order)
    facing = np.take_along_axis(typical, FACING_WALK[turn][None], 2)  # [n, N, 4] by direction
    # Axes: block, direction, walk, same direction, sign, order.
    by_walk = np.zeros((grid.size, 4, 4, 2, 2, len(orders)))
    _add_neighbour_costs(walks, typical, current, facing, grid, orders, by_walk)
    out = np.zeros((grid.size, TURNS, 2, len(orders)))
    for state in range(TURNS):
        for direction in range(4):
            walk, backward = FACING_WALK[state, direction], int(IS_REVERSED[state, direction])
            out[:, state] += by_walk[:, direction, walk, backward]
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _energy(walk: Float32Array) -> np.float32:
    """Return the sum of the squares of a walk [M, c]."""
    side, channels = walk.shape
    energy = np.float32(0.0)
    for m in range(side):
        for c in range(channels):
            energy += walk[m, c] ** 2
    return energy


# Inlined, it takes a tenth less time: it is called for every walk of every block in every image.
@numba.njit(cache=True, nogil=True, fastmath=True, inline="always")  # type: ignore[untyped-decorator] # numba has no types
def _add_pair_costs(
    walk: Float32Array,
    other: Float32Array,
    other_energy: np.float32,
    typical: np.float32,
    is_control: int,
    orders: Int64Array,
    moments: Float32Array,
    out: Float64Array,
) -> None:
    """Add to [same direction, sign, order] what each costs, for a walk of the block beside one of its neighbour.

    `moments` is scratch space, float32 [c, c]. `typical` is the product of both typical likelihoods.
    """
    side, channels = walk.shape
    size = np.float32(side * channels)
    energy = _energy(walk)
    for back in range(2):
        # Two walks that face each other run in opposite directions.
        moments[:] = 0
        for m in range(side):
            r = side - 1 - m if back == 0 else m
            for c in range(channels):
                for d in range(channels):
                    moments[c, d] += walk[r, c] * other[m, d]
        for h in range(len(orders)):
            product = np.float32(0.0)
            for d in range(channels):
                product += moments[orders[h, d], d]
            for sign in range(2):
                gap = other_energy + energy - 2 * (product if sign == 0 else -product)
                soft = max(gap, np.float32(0.0)) / size + SOFTNESS
                gain = np.log(np.float32(1.0) / (soft * soft * typical) + FLOOR)
                if is_control:
                    gain *= -CONTROL
                out[back, sign, h] -= gain


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _add_neighbour_costs(
    walks: Float32Array,
    typical: Float32Array,
    current: Float32Array,
    facing: Float32Array,
    grid: Int64Array,
    orders: Int64Array,
    out: Float64Array,
) -> None:
    """Add to [block, direction, walk, same direction, sign, order] the costs beside each neighbour."""
    n, channels = len(walks), walks.shape[4]
    height, width = grid.shape
    moments = np.zeros((channels, channels), np.float32)
    for y in range(height):
        for x in range(width):
            p = grid[y, x]
            for direction in range(4):
                v = y + (direction == 2) - (direction == 0)
                u = x + (direction == 1) - (direction == 3)
                if v < 0 or u < 0 or v >= height or u >= width:
                    continue
                q, opposite = grid[v, u], (direction + 2) % 4
                for k in range(n):
                    for is_control in range(2 if n > 1 else 1):
                        o = (k + 1) % n if is_control else k
                        other = current[o, q, opposite]
                        energy = _energy(other)
                        for walk in range(4):
                            scale = typical[k, p, walk] * facing[o, q, opposite]
                            costs = out[p, direction, walk]
                            _add_pair_costs(
                                walks[k, p, walk], other, energy, scale, is_control, orders, moments, costs
                            )


def refine_states(
    walks: Float32Array,
    typical: Float32Array,
    grid: Int64Array,
    turn: Int64Array,
    negative: BoolArray,
    order: Int64Array,
    time_left: TimeLeft = always,
) -> tuple[Int64Array, BoolArray, Int64Array]:
    """Return (turn, negative, order), each block's the best beside its neighbours, until nothing changes.

    Blocks that touch are never changed at once: the two colours of a chessboard take turns. The arguments are
    those of `state_costs`, and `time_left` is asked before each half of a pass.
    """
    turn, negative, order = turn.copy(), negative.copy(), order.copy()
    y, x = np.divmod(np.arange(grid.size), grid.shape[1])
    for _ in range(_PASSES):
        changed = 0
        for colour in (0, 1):
            if not time_left():
                return turn, negative, order
            costs = state_costs(walks, typical, grid, turn, negative, order)
            flat = costs.reshape(grid.size, -1)
            now = costs[np.arange(grid.size), turn, negative.astype(np.int64), order]
            best = flat.argmin(1)
            half = grid.ravel()[(y + x) % 2 == colour]
            better = half[flat[half, best[half]] < now[half] - _MIN_GAIN]
            states = np.unravel_index(best[better], costs.shape[1:])
            turn[better], negative[better], order[better] = states[0], states[1] == 1, states[2]
            changed += len(better)
        if not changed:
            break
    return turn, negative, order
