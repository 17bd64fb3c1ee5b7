"""Which nibble of a block is which: the order and the signs of nibbles, from their second moments over a pool.

High nibbles carry the picture: they hang together, within a block and with the next ones, as neighbouring pixels
of any picture do, which gives their places. Low ones look like noise, but each is what remains between its value,
as the block's other values foretell it, and its high nibble. Whole values are then alike where they are
neighbours, within a block and across to the next: this corrects the places.

Nibbles are taken as signed: value - 7.5, float32, so that a reversal 15 - v is a change of sign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.distances import HALF_DIFFERENCE
from coordinator.adversary.time_budget import always
from coordinator.adversary.values.value_layout import (
    improve_places,
    place_values,
    usual_correlations,
)

_PRIOR = 200.0  # blocks that the usual covariance counts for
_ROUNDS = 6
_STARTS_ALONE = 120
#: Least mean correlation of high nibbles; that of pictures is 0.6 to 0.95, that of noise shrinks with the pool.
_TOGETHER = 0.3
_COMPARED = 5_000_000  # values compared in one table of distances


@dataclass(frozen=True)
class Nibbles:
    """The nibbles of a block. Slots are positions of nibbles in the sealed block, low half first.

    high, low: int64 [V], by plain value, the slots that hold its nibbles. high_flip, low_flip: bool [V], whether
    those are reversed. surety: float64 [V], the correlation by which the low nibble was told.
    """

    high: np.ndarray
    low: np.ndarray
    high_flip: np.ndarray
    low_flip: np.ndarray
    surety: np.ndarray

    def by_slot(self) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [2V], bool [2V]): the plain nibble that every slot holds, and whether it is reversed."""
        size = len(self.high)
        held, flips = np.empty(2 * size, np.int64), np.empty(2 * size, bool)
        held[self.low], held[self.high] = np.arange(size), size + np.arange(size)
        flips[self.low], flips[self.high] = self.low_flip, self.high_flip
        return held, flips

    def moved(self, turn: np.ndarray, negative: bool = False) -> Nibbles:
        """Value k becomes value turn[k], and where `negative` every value 255 minus itself."""
        back = np.argsort(turn)
        return Nibbles(
            self.high[back],
            self.low[back],
            self.high_flip[back] ^ negative,
            self.low_flip[back] ^ negative,
            self.surety[back],
        )

    def open(self, signed: np.ndarray) -> np.ndarray:
        """float32 [..., 2V] signed nibbles → float32 [..., V] whole values about mid-gray."""
        high = signed[..., self.high] * np.where(self.high_flip, np.float32(-16), np.float32(16))
        low = signed[..., self.low] * np.where(self.low_flip, np.float32(-1), np.float32(1))
        opened: np.ndarray = high + low
        return opened


def tell_nibbles(
    signed: np.ndarray, block: int, channels: int, time_left: Callable[[], bool] = always, seed: int = 0
) -> Nibbles | None:
    """float32 [n, rows, columns, 2V] signed nibbles of neighbouring blocks → Nibbles; None where none hang together.

    Where rows or columns are 1 nothing tells the symmetries of a block apart. The sign for all is the one
    that makes the pool darker; the order of the colours is any.
    """
    flat = signed.reshape(-1, signed.shape[-1])
    if not (flat != flat[0]).any():
        return None
    within = correlations(flat, flat)
    slots = high_half(within)
    rest = np.setdiff1d(np.arange(len(within)), slots)
    half = within[np.ix_(slots, slots)]
    signs = leading_signs(half)
    if (half * signs * signs[:, None]).mean() < _TOGETHER:
        return None
    if (flat[:, slots].mean(0) * signs).sum() > 0:
        signs = -signs
    high = signed[..., slots] * signs
    alone = signed.shape[1] * signed.shape[2] == 1
    usual = usual_correlations(block, channels)[: 1 if alone else 3]
    places = place_values(_lags(high), usual, block, channels, time_left)
    columns, flips, surety = match_low(
        high.reshape(-1, len(slots)), flat[:, rest], usual[0][np.ix_(places, places)]
    )
    told = Nibbles(slots, rest[columns], signs < 0, flips, surety).moved(places)
    whole = told.open(signed)
    if not alone:
        return told.moved(improve_places(nearness(whole), block, channels, time_left))
    # Nearness alone, without the next block, has other optima than the truth: correlations of whole values have not.
    return told.moved(place_values(_lags(whole), usual, block, channels, time_left, _STARTS_ALONE, seed))


def _lags(values: np.ndarray) -> np.ndarray:
    """float32 [n, rows, columns, S] → float64 [3, S, S]: correlations in a block and with the next ones.

    [1, S, S] where there is one block only.
    """
    pairs = beside(values)[: 1 if values.shape[1] * values.shape[2] == 1 else 3]
    return np.stack([correlations(*pair) for pair in pairs])


def beside(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """float32 [n, rows, columns, S] → three pairs of [m, S]: each block and itself, the one right, the one below."""
    pairs = ((values, values), (values[:, :, :-1], values[:, :, 1:]), (values[:, :-1], values[:, 1:]))
    return [(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])) for a, b in pairs]


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [m, S] twice → float64 [S, S]; what never varies is like nothing, and no rows give zeros."""
    if not len(first):
        return np.zeros((first.shape[1], first.shape[1]))
    a, b = first - first.mean(0), second - second.mean(0)
    shared = (a.T @ b).astype(np.float64) / len(a)
    found: np.ndarray = shared / np.maximum(a.std(0), 1e-6)[:, None] / np.maximum(b.std(0), 1e-6)
    return found


def high_half(within: np.ndarray) -> np.ndarray:
    """float64 [2V, 2V] correlations → int64 [V], ascending: the half of the nibbles that hangs together most."""
    size = np.abs(within)
    np.fill_diagonal(size, 0.0)
    few = max(1, min(12, len(size) // 2 - 1))
    score = np.sort(size, 1)[:, -few:].mean(1)
    return np.sort(np.argsort(-score, kind="stable")[: len(size) // 2])


def leading_signs(within: np.ndarray) -> np.ndarray:
    """float64 [V, V] correlations → float32 [V] of 1 and -1: the signs under which most of them are positive."""
    vector = np.linalg.eigh(within)[1][:, -1]
    signs: np.ndarray = np.where(vector < 0, np.float32(-1), np.float32(1))
    return signs


def match_low(
    high: np.ndarray, low: np.ndarray, usual: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(int64 [V] column of `low` for every high nibble, bool [V] flips, float64 [V] correlations).

    high, low: float32 [m, V], signed; high ones with their signs made alike. usual: float64 [V, V], the usual
    correlations of the high ones. Low nibbles that were told help to foretell the other values.
    """
    count, size = high.shape
    coarse = 16.0 * (high - high.mean(0))
    centred = low - low.mean(0)
    scaled = centred / np.maximum(centred.std(0), 1e-6)
    spread = np.maximum(coarse.std(0), 1.0)
    prior = usual * spread[:, None] * spread
    whole = coarse.copy()
    columns, flips = np.arange(size), np.zeros(size, bool)
    found = np.zeros(size)
    for _ in range(_ROUNDS):
        covariance = (whole.T @ whole + _PRIOR * prior) / (count + _PRIOR) + 4.0 * np.eye(size)
        precision = np.linalg.inv(covariance)
        # What the others foretell of a value is the value less its partial residual.
        rest = coarse - whole + (whole @ precision) / np.diag(precision)
        rest -= rest.mean(0)
        shared = -(rest / np.maximum(rest.std(0), 1e-6)).T @ scaled / count  # [value, column]
        before = columns, flips
        columns = linear_sum_assignment(-np.abs(shared))[1]
        found = shared[np.arange(size), columns]
        flips = found < 0
        if (before[0] == columns).all() and (before[1] == flips).all():
            break
        others = np.abs(shared)
        others[np.arange(size), columns] = 0.0
        told = np.abs(found) > others.max(1) + 1.0 / np.sqrt(count)
        whole = coarse + told * centred[:, columns] * np.where(flips, -1.0, 1.0)
    return columns.astype(np.int64), flips, np.abs(found)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _mean_distances(first: np.ndarray, second: np.ndarray, half: np.float32) -> np.ndarray:
    size, count = first.shape
    out = np.zeros((size, size))
    for a in range(size):
        for b in range(size):
            total = np.float32(0.0)
            for k in range(count):
                apart = abs(first[a, k] - second[b, k])
                total += apart / (apart + half)
            out[a, b] = total / max(1, count)
    return out


def nearness(values: np.ndarray) -> np.ndarray:
    """float32 [n, rows, columns, V] → float64 [3, V, V]: minus the mean saturating distance d/(d+8) of values.

    Within a block, from a block to the one right of it, and to the one below; zeros where there is none.
    """
    size = values.shape[-1]
    limit = max(200, _COMPARED // size**2)
    out = np.zeros((3, size, size))
    for lag, pair in enumerate(beside(values)):
        count = len(pair[0])
        if count:
            some = np.linspace(0, count - 1, min(count, limit)).astype(np.int64)
            first, second = (np.ascontiguousarray(side[some].T) for side in pair)
            out[lag] = -_mean_distances(first, second, np.float32(HALF_DIFFERENCE))
    return out
