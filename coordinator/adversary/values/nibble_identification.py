"""Which nibble of a block is which: the order and the signs of nibbles, from their second moments over a pool.

High nibbles carry the picture. They correlate within a block and with the next ones, as neighbouring pixels of
any picture do, and this gives their places. Low nibbles look like noise, but each is what remains between its
value, as the block's other values predict it, and its high nibble. Whole values are then similar where they are
neighbours, within a block and across to the next, and this corrects the places.

Nibbles are taken as signed: value - 7.5, float32, so that a reversal 15 - v is a change of sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.distances import HALF_DIFFERENCE
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.adversary.values.value_layout import (
    improve_places,
    place_values,
    typical_correlations,
)
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array

#: Blocks that the typical covariance counts for. Set once by hand; no measurement is recorded.
_PRIOR = 200.0
#: Most rounds of predicting values and matching low nibbles. Set once by hand; no measurement is recorded.
_ROUNDS = 6
#: Starts of the layout if only one block is known. Of the rotations of the eigenvectors about one in ten leads to the
#: truth (coordinator/adversary/README.md).
_STARTS_SINGLE = 120
#: Least mean correlation of high nibbles; that of pictures is 0.6 to 0.95, that of noise shrinks with the pool.
_LEAST_CORRELATION = 0.3
#: Most values compared in one table of distances, and fewest blocks whose values are: bounds on time.
_MOST_COMPARED, _FEWEST_BLOCKS = 5_000_000, 200
#: The strongest correlations of a nibble that count. Set once by hand; no measurement is recorded.
_STRONGEST = 12
#: Added to the variance of every value, in squared gray levels, which keeps the covariance invertible.
#: Set once by hand; no measurement is recorded.
_NOISE_VARIANCE = 4.0


@dataclass(frozen=True)
class Nibbles:
    """The nibbles of a block. Slots are positions of nibbles in the sealed block, low half first.

    Attributes:
        high: int64 [V], by plain value, the slot that holds its high nibble.
        low: int64 [V], by plain value, the slot that holds its low nibble.
        high_flip: bool [V], whether the high nibble is reversed.
        low_flip: bool [V], whether the low nibble is reversed.
        confidence: float64 [V], the correlation by which the low nibble was identified.
    """

    high: Int64Array
    low: Int64Array
    high_flip: BoolArray
    low_flip: BoolArray
    confidence: Float64Array

    def by_slot(self) -> tuple[Int64Array, BoolArray]:
        """Return (int64 [2V], bool [2V]): the plain nibble that every slot holds, and whether it is reversed."""
        size = len(self.high)
        nibble, flips = np.empty(2 * size, np.int64), np.empty(2 * size, bool)
        nibble[self.low], nibble[self.high] = np.arange(size), size + np.arange(size)
        flips[self.low], flips[self.high] = self.low_flip, self.high_flip
        return nibble, flips

    def permuted(self, permutation: Int64Array, negative: bool = False) -> Nibbles:
        """Return the nibbles with value k as value permutation[k], every value 255 minus itself if negative."""
        inverse = np.argsort(permutation)
        return Nibbles(
            self.high[inverse],
            self.low[inverse],
            self.high_flip[inverse] ^ negative,
            self.low_flip[inverse] ^ negative,
            self.confidence[inverse],
        )

    def to_values(self, signed: Float32Array) -> Float32Array:
        """Return whole values about mid-gray, float32 [..., V], of signed nibbles float32 [..., 2V]."""
        high = signed[..., self.high] * np.where(self.high_flip, np.float32(-16), np.float32(16))
        low = signed[..., self.low] * np.where(self.low_flip, np.float32(-1), np.float32(1))
        values: Float32Array = high + low
        return values


def identify_nibbles(
    signed: Float32Array, block: int, channels: int, time_left: TimeLeft = always, seed: int = 0
) -> Nibbles | None:
    """Return which nibble is which; None if the high nibbles do not correlate.

    Nothing tells the symmetries of a block apart if there is only one row or column of blocks. The sign for all
    is the one that makes the pool darker, and the order of the colours is any.

    Args:
        signed: float32 [n, rows, columns, 2V], signed nibbles of neighbouring blocks.
        block: The block side in pixels.
        channels: Colour components of a pixel.
        time_left: Asked between steps of the layout.
        seed: Of the layout, if there is one block only.
    """
    flat = signed.reshape(-1, signed.shape[-1])
    if not (flat != flat[0]).any():
        return None
    all_correlations = correlations(flat, flat)
    slots = find_high_nibbles(all_correlations)
    low_slots = np.setdiff1d(np.arange(len(all_correlations)), slots)
    high_correlations = all_correlations[np.ix_(slots, slots)]
    signs = leading_signs(high_correlations)
    if (high_correlations * signs * signs[:, None]).mean() < _LEAST_CORRELATION:
        return None
    if (flat[:, slots].mean(0) * signs).sum() > 0:
        signs = -signs
    high = signed[..., slots] * signs
    is_single = signed.shape[1] * signed.shape[2] == 1
    typical = typical_correlations(block, channels)[: 1 if is_single else 3]
    places = place_values(_lag_correlations(high), typical, block, channels, time_left)
    columns, flips, confidence = match_low_nibbles(
        high.reshape(-1, len(slots)), flat[:, low_slots], typical[0][np.ix_(places, places)]
    )
    nibbles = Nibbles(slots, low_slots[columns], signs < 0, flips, confidence).permuted(places)
    values = nibbles.to_values(signed)
    if not is_single:
        return nibbles.permuted(improve_places(nearness(values), block, channels, time_left))
    # Nearness alone, without the next block, has other optima than the truth. Correlations of whole values have not.
    measured = _lag_correlations(values)
    return nibbles.permuted(
        place_values(measured, typical, block, channels, time_left, _STARTS_SINGLE, seed)
    )


def _lag_correlations(values: Float32Array) -> Float64Array:
    """Return correlations within a block and with the next ones, float64 [3, S, S]; [1, S, S] for a single block.

    Args:
        values: float32 [n, rows, columns, S].
    """
    pairs = neighbour_pairs(values)[: 1 if values.shape[1] * values.shape[2] == 1 else 3]
    return np.stack([correlations(*pair) for pair in pairs])


def neighbour_pairs(values: Float32Array) -> list[tuple[Float32Array, Float32Array]]:
    """Return three pairs of float32 [m, S]: each block and itself, the one right of it, the one below it.

    Args:
        values: float32 [n, rows, columns, S].
    """
    pairs = ((values, values), (values[:, :, :-1], values[:, :, 1:]), (values[:, :-1], values[:, 1:]))
    return [(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])) for a, b in pairs]


def correlations(first: Float32Array, second: Float32Array) -> Float64Array:
    """Return the correlations of every two columns, float64 [S, S], of float32 [m, S] each.

    A column that never varies has correlation 0 with all others, and no rows give zeros.
    """
    if not len(first):
        return np.zeros((first.shape[1], first.shape[1]))
    a, b = first - first.mean(0), second - second.mean(0)
    covariance = (a.T @ b).astype(np.float64) / len(a)
    result: Float64Array = covariance / np.maximum(a.std(0), 1e-6)[:, None] / np.maximum(b.std(0), 1e-6)
    return result


def find_high_nibbles(all_correlations: Float64Array) -> Int64Array:
    """Return the half of the slots whose nibbles correlate most, int64 [V], ascending.

    Args:
        all_correlations: float64 [2V, 2V], of the nibbles in all slots.
    """
    size = np.abs(all_correlations)
    np.fill_diagonal(size, 0.0)
    strongest = max(1, min(_STRONGEST, len(size) // 2 - 1))
    score = np.sort(size, 1)[:, -strongest:].mean(1)
    return np.sort(np.argsort(-score, kind="stable")[: len(size) // 2])


def leading_signs(high_correlations: Float64Array) -> Float32Array:
    """Return the signs (1 or -1) under which most correlations are positive, float32 [V]."""
    vector = np.linalg.eigh(high_correlations)[1][:, -1]
    signs: Float32Array = np.where(vector < 0, np.float32(-1), np.float32(1))
    return signs


def match_low_nibbles(
    high: Float32Array, low: Float32Array, typical: Float64Array
) -> tuple[Int64Array, BoolArray, Float64Array]:
    """Match every high nibble to its low nibble. Low nibbles that are identified help to predict the other values.

    Args:
        high: float32 [m, V], signed high nibbles of m blocks, all of one sign.
        low: float32 [m, V], signed low nibbles.
        typical: float64 [V, V], the typical correlations of the high ones.

    Returns:
        (int64 [V] column of `low` for every high nibble, bool [V] flips, float64 [V] correlations).
    """
    count, size = high.shape
    coarse = 16.0 * (high - high.mean(0))
    centred = low - low.mean(0)
    scaled = centred / np.maximum(centred.std(0), 1e-6)
    deviation = np.maximum(coarse.std(0), 1.0)
    prior = typical * deviation[:, None] * deviation
    values = coarse.copy()
    columns, flips = np.arange(size), np.zeros(size, bool)
    matched = np.zeros(size)
    for _ in range(_ROUNDS):
        covariance = (values.T @ values + _PRIOR * prior) / (count + _PRIOR) + _NOISE_VARIANCE * np.eye(
            size
        )
        precision = np.linalg.inv(covariance)
        # What the others predict of a value is the value less its partial residual.
        residual = coarse - values + (values @ precision) / np.diag(precision)
        residual -= residual.mean(0)
        # Axes: value, column.
        shared = -(residual / np.maximum(residual.std(0), 1e-6)).T @ scaled / count
        previous = columns, flips
        columns = linear_sum_assignment(-np.abs(shared))[1]
        matched = shared[np.arange(size), columns]
        flips = matched < 0
        if (previous[0] == columns).all() and (previous[1] == flips).all():
            break
        others = np.abs(shared)
        others[np.arange(size), columns] = 0.0
        # A match is sure if it beats all others by more than a correlation of noise.
        is_sure = np.abs(matched) > others.max(1) + 1.0 / np.sqrt(count)
        values = coarse + is_sure * centred[:, columns] * np.where(flips, -1.0, 1.0)
    return columns.astype(np.int64), flips, np.abs(matched)


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _mean_distances(first: Float32Array, second: Float32Array, half: np.float32) -> Float64Array:
    """Return the mean saturating distance of every two rows of [V, m], float64 [V, V]."""
    size, count = first.shape
    out = np.zeros((size, size))
    for a in range(size):
        for b in range(size):
            total = np.float32(0.0)
            for k in range(count):
                difference = abs(first[a, k] - second[b, k])
                total += difference / (difference + half)
            out[a, b] = total / max(1, count)
    return out


def nearness(values: Float32Array) -> Float64Array:
    """Return minus the mean saturating distance d/(d+8) of values, float64 [3, V, V].

    The relations are: within a block, from a block to the one right of it, and to the one below. They are zeros
    if there is no such block.

    Args:
        values: float32 [n, rows, columns, V].
    """
    size = values.shape[-1]
    limit = max(_FEWEST_BLOCKS, _MOST_COMPARED // size**2)
    out = np.zeros((3, size, size))
    for lag, pair in enumerate(neighbour_pairs(values)):
        if len(pair[0]):
            first, second = (np.ascontiguousarray(evenly_spaced(blocks, limit).T) for blocks in pair)
            out[lag] = -_mean_distances(first, second, np.float32(HALF_DIFFERENCE))
    return out
