"""How well the sides of two blocks fit whose turns, signs and colour orders are unknown.

The whole pool is compared first. Two matrices of second moments (both walks in the same direction, or one of
them backwards) give every pair of sides, in both mirror states, the best sign and colour order in closed form:
|a - s·Pb|² = |a|² + |b|² - 2·s·<a, Pb>. No search over the 96 states is needed. The few best partners of each
side are then compared image by image, as in seams.py: log-likelihood ratios with a floor, less half of the same
evidence between different images.
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.puzzle.seams import CONTROL, FLOOR, SOFTNESS, TINY
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float32Array, Float64Array, Int64Array
from crypto.symmetry import COLOUR_ORDERS, ORDER_INVERSES, colour_orders

#: Partners of each side that are compared image by image. Set once by hand; no measurement is recorded.
PARTNERS = 10
#: Other sides that say what likelihood is typical for a side in an image. Set once by hand; no measurement is
#: recorded.
_TYPICAL_SIDES = 48
#: Most moments in memory at once, 80 MB: the table of all sides is computed strip by strip.
MOST_MOMENTS = 20_000_000
#: Most values of sides compared between two looks at the clock. A budget that was asked between whole steps
#: only was 5.8 s over with 3,136 blocks; asked within the steps, it is less than 2 s over.
MOST_COMPARED = 4_000_000
#: Added to the number of a colour order in a state if the signs of the two sides differ.
_OPPOSITE = 8

#: Columns of a pair: block and walk of one side, then of the other, same direction (0 or 1), sign, colour order.
PAIR_COLUMNS = ("i", "a", "j", "b", "backwards", "sign", "order")


def best_pairs(walks: Float32Array, time_left: TimeLeft = always) -> Int64Array:
    """Return for each side the few others that fit it best, int64 [e, 7] of PAIR_COLUMNS with i < j.

    Component m of side i meets component COLOUR_ORDERS[order, m] of side j. The sign is 1 or -1. `backwards`
    says that the two walks run in the same direction, as those of two neighbours do if one of them is mirrored.
    If time runs out, the sides that were not reached have no pairs but those of others with them.

    Args:
        walks: float32 [n, N, 4, M, c].
        time_left: Asked between strips of sides.
    """
    n, count, _, side, channels = walks.shape
    size, partners = 4 * count, min(PARTNERS, 8 * (count - 1))
    rows = np.ascontiguousarray(walks.transpose(0, 3, 1, 2, 4)).reshape(n, side, size * channels)
    reverse = np.ascontiguousarray(rows[:, ::-1]).reshape(n * side, -1)
    forward = rows.reshape(n * side, -1)
    energy = np.einsum("sk,sk->k", forward, forward).reshape(size, channels).sum(1)
    orders = colour_orders(channels)
    candidates: list[Int64Array] = [np.empty((0, 3), np.int64)]
    step = max(1, MOST_MOMENTS // (size * channels**2))
    for first in range(0, size, step):
        strip = np.arange(first, min(first + step, size))
        costs = np.empty((len(strip), 2 * size), np.float32)
        states = np.empty((len(strip), 2 * size), np.int8)
        columns = np.ascontiguousarray(forward[:, strip[0] * channels : (strip[-1] + 1) * channels].T)
        for direction, other in enumerate((reverse, forward)):
            if not time_left():
                break
            half = slice(direction * size, (direction + 1) * size)
            samples = np.float32(n * side * channels)
            _closed_form(columns @ other, energy, orders, samples, first, costs[:, half], states[:, half])
        if not time_left():
            break
        near = np.argpartition(costs, partners - 1, axis=1)[:, :partners]
        state = np.take_along_axis(states, near, 1).astype(np.int64)
        sides = np.broadcast_to(strip[:, None], near.shape)
        candidates.append(np.stack([sides, near, state], 2).reshape(-1, 3))
    return _unique_pairs(np.concatenate(candidates), size)


def _unique_pairs(candidates: Int64Array, size: int) -> Int64Array:
    """Return int64 [e, 7] pairs, each once and the lower block first.

    Args:
        candidates: int64 [m, 3]: a side, the other side (plus `size` if both run in the same direction), the state.
        size: The number of sides.
    """
    one, near, state = candidates.T
    same_direction, other = np.divmod(near, size)
    # As seen from the other side, an order is its inverse.
    order = np.where(one < other, state % _OPPOSITE, ORDER_INVERSES[state % _OPPOSITE])
    low, high = np.minimum(one, other), np.maximum(one, other)
    sign = np.where(state >= _OPPOSITE, -1, 1)
    pairs = np.stack([low // 4, low % 4, high // 4, high % 4, same_direction, sign, order], 1)
    return pairs[np.unique((low * size + high) * 2 + same_direction, return_index=True)[1]]


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _closed_form(
    moments: Float32Array,
    energy: Float32Array,
    orders: Int64Array,
    samples: np.float32,
    first: int,
    cost: Float32Array,
    state: Int64Array,
) -> None:
    """Write the mean squared difference in the best state, and which state that is, [S, 4N], of a strip of sides.

    The strip has moments [S·c, 4N·c] and starts at side `first`. A state is the order, plus 8 if the signs differ.
    """
    channels = orders.shape[1]
    for s in range(len(cost)):
        p = first + s
        for q in range(len(energy)):
            best, best_state = np.float32(-1.0), 0
            for k in range(len(orders)):
                value = np.float32(0.0)
                for m in range(channels):
                    value += moments[s * channels + m, q * channels + orders[k, m]]
                if abs(value) > best:
                    best = abs(value)
                    best_state = k if value >= 0 else k + _OPPOSITE
            cost[s, q] = (energy[p] + energy[q] - 2 * best) / samples
            state[s, q] = best_state
        for q in range(p // 4 * 4, p // 4 * 4 + 4):  # a block is not its own neighbour
            cost[s, q] = np.inf


def typical_likelihoods(walks: Float32Array, seed: int = 0) -> Float32Array:
    """Return the root of a side's mean likelihood beside others of its image, float32 [n, N, 4].

    Args:
        walks: float32 [n, N, 4, M, c].
        seed: Of the draw of other sides and of their signs.
    """
    n, count, _, side, channels = walks.shape
    rng = np.random.default_rng(seed)
    shape = (count * 4, min(_TYPICAL_SIDES, 4 * count))
    others = rng.integers(0, 4 * (count - 1), shape)
    others += 4 * (others >= np.arange(count * 4)[:, None] // 4 * 4)  # of any block but its own
    signs = rng.integers(0, 2, shape).astype(np.float32) * 2 - 1
    flat = np.ascontiguousarray(walks.reshape(n, count * 4, side * channels))
    typical: Float32Array = _typical(flat, others, signs).reshape(n, count, 4)
    return typical


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _typical(flat: Float32Array, others: Int64Array, signs: Float32Array) -> Float32Array:
    """Return the root of the mean likelihood of sides [n, 4N, F] beside the drawn others, float32 [n, 4N]."""
    n, count, size = flat.shape
    out = np.empty((n, count), np.float32)
    for k in range(n):
        for p in range(count):
            total = np.float32(0.0)
            for o in range(others.shape[1]):
                q, sign, gap = others[p, o], signs[p, o], np.float32(0.0)
                for m in range(size):
                    difference = flat[k, p, m] - sign * flat[k, q, m]
                    gap += difference * difference
                soft = gap / np.float32(size) + SOFTNESS
                total += np.float32(1.0) / (soft * soft)
            out[k, p] = np.sqrt(max(total / np.float32(others.shape[1]), TINY))
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _gap(
    one: Float32Array, other: Float32Array, same_direction: int, sign: int, order: Int64Array
) -> np.float32:
    """Return the mean squared difference of two walks [M, c] in one relation."""
    side, channels = one.shape
    total = np.float32(0.0)
    for m in range(side):
        r = side - 1 - m if same_direction == 0 else m
        for c in range(channels):
            difference = one[m, c] - sign * other[r, order[c]]
            total += difference * difference
    return total / np.float32(side * channels)


def pair_costs(
    walks: Float32Array, typical: Float32Array, pairs: Int64Array, time_left: TimeLeft = always
) -> Float64Array:
    """Return what each pair costs, float64 [e], summed over the images; 0 says nothing for or against.

    Args:
        walks: float32 [n, N, 4, M, c].
        typical: float32 [n, N, 4], from `typical_likelihoods`.
        pairs: int64 [e, 7] of PAIR_COLUMNS.
        time_left: Asked between chunks of pairs; pairs that were not reached cost 0.
    """
    orders = COLOUR_ORDERS if walks.shape[4] == 3 else np.zeros((6, 1), np.int64)
    costs = np.zeros(len(pairs))
    step = max(1, MOST_COMPARED // (len(walks) * walks.shape[3] * walks.shape[4]))
    for first in range(0, len(pairs), step):
        if not time_left():
            break
        costs[first : first + step] = _pair_costs(walks, typical, pairs[first : first + step], orders)
    return costs


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _pair_costs(
    walks: Float32Array, typical: Float32Array, pairs: Int64Array, orders: Int64Array
) -> Float64Array:
    """Return the costs of pairs [e, 7], float64 [e]: each image against itself, controlled by the next image."""
    n = len(walks)
    out = np.zeros(len(pairs))
    for e in range(len(pairs)):
        i, a, j, b, back, sign, order = pairs[e]
        for k in range(n):
            soft = _gap(walks[k, i, a], walks[k, j, b], back, sign, orders[order]) + SOFTNESS
            out[e] -= np.log(np.float32(1.0) / (soft * soft * typical[k, i, a] * typical[k, j, b]) + FLOOR)
            if n > 1:
                o = (k + 1) % n
                soft = _gap(walks[k, i, a], walks[o, j, b], back, sign, orders[order]) + SOFTNESS
                ratio = np.float32(1.0) / (soft * soft * typical[k, i, a] * typical[o, j, b])
                out[e] += CONTROL * np.log(ratio + FLOOR)
    return out


def pair_margins(pairs: Int64Array, costs: Float64Array, count: int) -> Float64Array:
    """Return each pair's cost less that of the best other pair of either side, float64 [e]; negative if it wins.

    A side with no other pair is compared with 0, the cost of a pair that tells nothing.

    Args:
        pairs: int64 [e, 7] of PAIR_COLUMNS.
        costs: float64 [e].
        count: The number of blocks N.
    """
    best, second = np.zeros(4 * count), np.zeros(4 * count)
    best_pair = np.full(4 * count, -1)
    ends = pairs[:, [0, 2]] * 4 + pairs[:, [1, 3]]
    for e in np.argsort(costs, kind="stable").tolist():
        if costs[e] >= 0:
            break
        for end in ends[e].tolist():
            if best_pair[end] < 0:
                best_pair[end], best[end] = e, costs[e]
            elif second[end] == 0:
                second[end] = costs[e]
    is_best = best_pair[ends] == np.arange(len(pairs))[:, None]
    rival = np.where(is_best, second[ends], best[ends]).min(1)
    margins: Float64Array = costs - rival
    return margins
