"""How well the sides of two blocks fit whose turns, signs and colour orders are unknown.

Over the whole pool first: two matrices of second moments (both walks alike, or one of them backwards) give every
pair of sides, in both mirror states, the best sign and colour order in closed form, with no search over the 96
states: |a - s·Pb|² = |a|² + |b|² - 2·s·<a, Pb>. The few best partners of each side are then weighed image by
image, as in seams.py: log-likelihood ratios with a floor, less half of the same evidence between different images.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from coordinator.adversary.puzzle.block_symmetry import UNMIXED
from coordinator.adversary.time_budget import always
from crypto.schemes.pe import ORDERS

SOFTNESS = np.float32(4.0)  # as in seams.py
FLOOR = np.float32(0.02)
CONTROL = np.float32(0.5)
_TINY = np.float32(1e-12)
_PARTNERS = 10  # of each side, weighed image by image
_USUAL = 48  # other sides that say what is usual for a side in an image
_STRIP = 20_000_000  # most moments held at once, which are sought strip by strip
_WEIGHED = 4_000_000  # most values of sides compared before it is asked whether to go on

#: Columns of a pair: block and walk of one side, then of the other, backwards (0 or 1), sign, colour order.
PAIR = ("i", "a", "j", "b", "backwards", "sign", "order")


def best_pairs(walked: np.ndarray, time_left: Callable[[], bool] = always) -> np.ndarray:
    """float32 [n, N, 4, M, c] → int64 [e, 7] of PAIR, i < j: for each side the few others that fit best.

    Component m of side i meets component ORDERS[order, m] of side j; sign is 1 or -1; backwards says that the two
    walks run alike, as of two neighbours one of which is mirrored, not in opposite directions. Where time runs out,
    the sides that were not reached have no pairs but those of others with them.
    """
    n, count, _, side, channels = walked.shape
    size, few = 4 * count, min(_PARTNERS, 8 * (count - 1))
    rows = np.ascontiguousarray(walked.transpose(0, 3, 1, 2, 4)).reshape(n, side, size * channels)
    back = np.ascontiguousarray(rows[:, ::-1]).reshape(n * side, -1)
    ahead = rows.reshape(n * side, -1)
    energy = np.einsum("sk,sk->k", ahead, ahead).reshape(size, channels).sum(1)
    orders = ORDERS if channels == 3 else np.zeros((1, 1), np.int64)
    keys: list[np.ndarray] = [np.empty((0, 3), np.int64)]
    step = max(1, _STRIP // (size * channels**2))
    for first in range(0, size, step):
        strip = np.arange(first, min(first + step, size))
        costs = np.empty((len(strip), 2 * size), np.float32)
        states = np.empty((len(strip), 2 * size), np.int8)
        own = np.ascontiguousarray(ahead[:, strip[0] * channels : (strip[-1] + 1) * channels].T)
        for alike, other in enumerate((back, ahead)):
            if not time_left():
                break
            mine = slice(alike * size, (alike + 1) * size)
            samples = np.float32(n * side * channels)
            _closed_form(own @ other, energy, orders, samples, first, costs[:, mine], states[:, mine])
        if not time_left():
            break
        near = np.argpartition(costs, few - 1, axis=1)[:, :few]
        state = np.take_along_axis(states, near, 1).astype(np.int64)
        keys.append(np.stack([np.broadcast_to(strip[:, None], near.shape), near, state], 2).reshape(-1, 3))
    one, near, state = np.concatenate(keys).T
    alike, other = np.divmod(near, size)
    # Seen from the other side an order is its inverse.
    order = np.where(one < other, state % 8, UNMIXED[state % 8])
    low, high = np.minimum(one, other), np.maximum(one, other)
    sign = np.where(state >= 8, -1, 1)
    found = np.stack([low // 4, low % 4, high // 4, high % 4, alike, sign, order], 1)
    return found[np.unique((low * size + high) * 2 + alike, return_index=True)[1]]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _closed_form(
    moments: np.ndarray,
    energy: np.ndarray,
    orders: np.ndarray,
    samples: np.float32,
    first: int,
    cost: np.ndarray,
    state: np.ndarray,
) -> None:
    """[S·c, 4N·c] moments of sides from `first` on → [S, 4N] mean squared differences in the best state, and which.

    A state is the order, plus 8 where the signs differ.
    """
    channels = orders.shape[1]
    for s in range(len(cost)):
        p = first + s
        for q in range(len(energy)):
            best, found = np.float32(-1.0), 0
            for k in range(len(orders)):
                value = np.float32(0.0)
                for m in range(channels):
                    value += moments[s * channels + m, q * channels + orders[k, m]]
                if abs(value) > best:
                    best = abs(value)
                    found = k if value >= 0 else k + 8
            cost[s, q] = (energy[p] + energy[q] - 2 * best) / samples
            state[s, q] = found
        for q in range(p // 4 * 4, p // 4 * 4 + 4):  # no block stands beside itself
            cost[s, q] = np.inf


def usual_fits(walked: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32 [n, N, 4, M, c] → float32 [n, N, 4]: root of a side's mean likelihood beside others of its image."""
    n, count, _, side, channels = walked.shape
    rng = np.random.default_rng(seed)
    shape = (count * 4, min(_USUAL, 4 * count))
    others = rng.integers(0, 4 * (count - 1), shape)
    others += 4 * (others >= np.arange(count * 4)[:, None] // 4 * 4)  # of any block but its own
    signs = rng.integers(0, 2, shape).astype(np.float32) * 2 - 1
    flat = np.ascontiguousarray(walked.reshape(n, count * 4, side * channels))
    return _usual(flat, others, signs).reshape(n, count, 4)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _usual(flat: np.ndarray, others: np.ndarray, signs: np.ndarray) -> np.ndarray:
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
            out[k, p] = np.sqrt(max(total / np.float32(others.shape[1]), _TINY))
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)
def _gap(one: np.ndarray, other: np.ndarray, back: int, sign: int, order: np.ndarray) -> np.float32:
    """Mean squared difference of two walks [M, c] in one relation."""
    side, channels = one.shape
    total = np.float32(0.0)
    for m in range(side):
        r = side - 1 - m if back == 0 else m
        for c in range(channels):
            difference = one[m, c] - sign * other[r, order[c]]
            total += difference * difference
    return total / np.float32(side * channels)


def weigh(
    walked: np.ndarray, usual: np.ndarray, pairs: np.ndarray, time_left: Callable[[], bool] = always
) -> np.ndarray:
    """float64 [e]: what each of int64 [e, 7] pairs costs, summed over the images; 0 says nothing."""
    orders = ORDERS if walked.shape[4] == 3 else np.zeros((6, 1), np.int64)
    costs = np.zeros(len(pairs))
    step = max(1, _WEIGHED // (len(walked) * walked.shape[3] * walked.shape[4]))
    for first in range(0, len(pairs), step):
        if not time_left():
            break
        costs[first : first + step] = _weigh(walked, usual, pairs[first : first + step], orders)
    return costs


@numba.njit(cache=True, nogil=True, fastmath=True)
def _weigh(walked: np.ndarray, usual: np.ndarray, pairs: np.ndarray, orders: np.ndarray) -> np.ndarray:
    n = len(walked)
    out = np.zeros(len(pairs))
    for e in range(len(pairs)):
        i, a, j, b, back, sign, order = pairs[e]
        for k in range(n):
            soft = _gap(walked[k, i, a], walked[k, j, b], back, sign, orders[order]) + SOFTNESS
            out[e] -= np.log(np.float32(1.0) / (soft * soft * usual[k, i, a] * usual[k, j, b]) + FLOOR)
            if n > 1:
                o = (k + 1) % n
                soft = _gap(walked[k, i, a], walked[o, j, b], back, sign, orders[order]) + SOFTNESS
                fit = np.float32(1.0) / (soft * soft * usual[k, i, a] * usual[o, j, b])
                out[e] += CONTROL * np.log(fit + FLOOR)
    return out


def pair_margins(pairs: np.ndarray, costs: np.ndarray, count: int) -> np.ndarray:
    """float64 [e]: each pair's cost less that of the best other pair of either side; negative where it wins.

    A side with no other pair is set against 0, what a pair costs that tells nothing.
    """
    best, second = np.zeros(4 * count), np.zeros(4 * count)
    holder = np.full(4 * count, -1)
    ends = pairs[:, [0, 2]] * 4 + pairs[:, [1, 3]]
    for e in np.argsort(costs, kind="stable").tolist():
        if costs[e] >= 0:
            break
        for end in ends[e].tolist():
            if holder[end] < 0:
                holder[end], best[end] = e, costs[e]
            elif second[end] == 0:
                second[end] = costs[e]
    own = holder[ends] == np.arange(len(pairs))[:, None]
    rival = np.where(own, second[ends], best[ends]).min(1)
    return costs - rival
