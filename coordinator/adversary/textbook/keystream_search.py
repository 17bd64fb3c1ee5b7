"""The search for one keystream that seals many images: a value of the stream for every place of the picture.

Neighbouring values of a picture are alike. Under the right keystream they are alike in every image, so the stream is
found place by place, beginning in the middle: of all values of the stream, the one whose opened values are nearest to
those of the neighbours that are already open, over all images. A place that its neighbours decide most clearly comes
first. One way or the other:

- addition modulo 256: differences of neighbours do not depend on the value in the middle, so all eight bits are found
  at once on the circle of 256 values, and that value last;
- XOR: bit by bit, from the highest. Of a lower bit in the middle, both values are tried.

At last every place is looked at again between all its neighbours, until no place changes.

Values of one colour are sought apart from those of the others.
"""

from __future__ import annotations

import heapq

import numba
import numpy as np

from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import BoolArray, Float32Array, UInt8Array

#: Gray levels at which a difference counts half of what the largest can count. Chosen by hand: 2 and 8 did as well.
_HALF_DIFFERENCE = 8.0
#: Most passes over all places. From the second on, only places with a changed neighbour are looked at.
#: Set once by hand; no measurement is recorded.
_PASSES = 4
_LEVELS = 256

#: What a difference of d gray levels costs, float32 [256].
_COSTS = (np.arange(_LEVELS) / (np.arange(_LEVELS) + _HALF_DIFFERENCE)).astype(np.float32)
#: The same on the circle, where 255 lies beside 0.
_CIRCLE_COSTS = np.ascontiguousarray(_COSTS[np.minimum(np.arange(_LEVELS), _LEVELS - np.arange(_LEVELS))])


def search_stream(values: UInt8Array, *, is_xor: bool, time_left: TimeLeft = always) -> UInt8Array:
    """Return the keystream of one colour, uint8 [h, w], up to the negative of the picture.

    Under addition, what all pictures have in common cannot be told from the stream: at places where the pictures are
    alike, the stream takes up their mean.

    Args:
        values: uint8 [h, w, n], the ciphertexts' values of one colour over n images.
        is_xor: Whether the stream is XORed. Else it is added modulo 256.
        time_left: Asked between passes.
    """
    values = np.ascontiguousarray(values)
    stream: UInt8Array = np.zeros(values.shape[:2], np.uint8)
    if is_xor:
        for bit in range(7, -1, -1):
            # The other value of the highest bit gives the negative.
            tried = (0,) if bit == 7 else (0, 1)
            streams = [_grow_bit(values, stream, bit, first, _COSTS) for first in tried]
            stream = min(streams, key=lambda grown: grown[1])[0]
            if not time_left():
                return stream
    else:
        _grow(values, stream, _CIRCLE_COSTS)
        stream = stream + _smoothest_shift(values - stream[..., None])
    opened = opening_table(is_xor=is_xor)
    due = np.ones(stream.shape, np.bool_)
    for _ in range(_PASSES):
        if not due.any() or not time_left():
            break
        due = _improve(values, stream, opened, _COSTS, due)
    return stream


def opening_table(*, is_xor: bool) -> UInt8Array:
    """Return what a ciphertext's value opens to under a value of the stream, uint8 [stream, ciphertext]."""
    sealed: UInt8Array = np.arange(_LEVELS).astype(np.uint8)
    stream = sealed[:, None]
    opened: UInt8Array = stream ^ sealed if is_xor else sealed - stream
    return opened


def _smoothest_shift(opened: UInt8Array) -> np.uint8:
    """Return the shift of all values, modulo 256, after which neighbours differ least: few then wrap around.

    Args:
        opened: uint8 [h, w, n].
    """
    histogram = np.zeros((_LEVELS, _LEVELS), np.int64)
    for one, other in ((opened[1:], opened[:-1]), (opened[:, 1:], opened[:, :-1])):
        np.add.at(histogram, (one.ravel(), other.ravel()), 1)
    level = np.arange(_LEVELS)
    costs = []
    for shift in range(_LEVELS):
        shifted = (level - shift) % _LEVELS
        costs.append((histogram * np.abs(shifted[:, None] - shifted)).sum())
    # Where no value wraps, many shifts cost the same: the middle one leaves as much room above as below.
    best = np.flatnonzero(np.array(costs) == min(costs))
    return np.uint8(best[len(best) // 2])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _spread(values: UInt8Array, i: int, j: int, a: int, b: int, costs: Float32Array) -> np.float32:
    """Return how widely the differences of two places are spread on the circle over images; 0 if all are equal."""
    n = values.shape[2]
    least = np.float32(n)
    for centre in range(min(n, 16)):
        d = np.uint8(values[a, b, centre] - values[i, j, centre])
        total = np.float32(0.0)
        for s in range(n):
            total += costs[np.uint8(np.uint8(values[a, b, s] - values[i, j, s]) - d)]
        least = min(least, total)
    return least


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _grow(values: UInt8Array, stream: UInt8Array, costs: Float32Array) -> None:
    """Write a stream that is added modulo 256, up to one shift of all its values, into `stream` [h, w]."""
    height, width, n = values.shape
    known = np.zeros((height, width), np.bool_)
    nearest = np.full((height, width), np.float32(n + 1))
    totals = np.zeros(256, np.float32)
    queue = [(np.float32(0.0), np.int64(height // 2 * width + width // 2))]
    while len(queue) > 0:
        place = heapq.heappop(queue)[1]
        i, j = place // width, place % width
        if known[i, j]:
            continue
        totals[:] = 0
        is_first = True
        for di in range(-2, 3):
            for dj in range(-2, 3):
                a, b = i + di, j + dj
                if a < 0 or b < 0 or a >= height or b >= width or not known[a, b]:
                    continue
                is_first = False
                weight = np.float32(1.0 / (di * di + dj * dj))
                for s in range(n):
                    # What the value of the stream would be if both opened values were equal.
                    equal = np.uint8(values[i, j, s] - np.uint8(values[a, b, s] - stream[a, b]))
                    for k in range(256):
                        totals[k] += weight * costs[np.uint8(equal - np.uint8(k))]
        if not is_first:
            stream[i, j] = np.argmin(totals)
        known[i, j] = True
        for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            a, b = i + di, j + dj
            if a < 0 or b < 0 or a >= height or b >= width or known[a, b]:
                continue
            spread = _spread(values, i, j, a, b, costs)
            if spread < nearest[a, b]:
                nearest[a, b] = spread
                heapq.heappush(queue, (spread, a * width + b))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _bit_costs(
    values: UInt8Array,
    stream: UInt8Array,
    found: UInt8Array,
    known: BoolArray,
    place: tuple[int, int],
    bit: int,
    costs: Float32Array,
) -> tuple[float, float]:
    """Return what a place's bit costs if it is 0, and if it is 1, beside its known neighbours."""
    height, width, n = values.shape
    i, j = place
    upper = np.uint8(256 - (1 << bit))
    zero, one = 0.0, 0.0
    for di in range(-1, 2):
        for dj in range(-1, 2):
            a, b = i + di, j + dj
            if a < 0 or b < 0 or a >= height or b >= width or not known[a, b]:
                continue
            weight = 1.0 / (di * di + dj * dj)
            for s in range(n):
                beside = np.int64((values[a, b, s] ^ found[a, b]) & upper)
                here = np.int64((values[i, j, s] ^ stream[i, j]) & upper)
                zero += weight * costs[abs(beside - here)]
                one += weight * costs[abs(beside - (here ^ (1 << bit)))]
    return zero, one


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _grow_bit(
    values: UInt8Array, stream: UInt8Array, bit: int, first: int, costs: Float32Array
) -> tuple[UInt8Array, float]:
    """Return the stream with one more bit, and what it costs; the bit in the middle is `first`.

    Args:
        values: uint8 [h, w, n].
        stream: uint8 [h, w], the higher bits.
        bit: The bit's number.
        first: 0 or 1.
        costs: float32 [256], of differences.
    """
    height, width, _ = values.shape
    found = stream.copy()
    known = np.zeros((height, width), np.bool_)
    total = 0.0
    queue = [(0.0, np.int64(height // 2 * width + width // 2))]
    is_first = True
    while len(queue) > 0:
        place = heapq.heappop(queue)[1]
        i, j = place // width, place % width
        if known[i, j]:
            continue
        zero, one = _bit_costs(values, stream, found, known, (i, j), bit, costs)
        is_set = first == 1 if is_first else one < zero
        is_first = False
        if is_set:
            found[i, j] ^= np.uint8(1 << bit)
        total += min(zero, one)
        known[i, j] = True
        for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            a, b = i + di, j + dj
            if a < 0 or b < 0 or a >= height or b >= width or known[a, b]:
                continue
            zero, one = _bit_costs(values, stream, found, known, (a, b), bit, costs)
            heapq.heappush(queue, (-abs(zero - one), a * width + b))
    return found, total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _improve(
    values: UInt8Array, stream: UInt8Array, opened: UInt8Array, costs: Float32Array, due: BoolArray
) -> BoolArray:
    """Give every due place the value that costs least beside its neighbours; return what is due next, bool [h, w]."""
    height, width, n = values.shape
    totals = np.zeros(256, np.float32)
    following = np.zeros((height, width), np.bool_)
    for i in range(height):
        for j in range(width):
            if not due[i, j]:
                continue
            totals[:] = 0
            for di in range(-1, 2):
                for dj in range(-1, 2):
                    a, b = i + di, j + dj
                    if (di == 0 and dj == 0) or a < 0 or b < 0 or a >= height or b >= width:
                        continue
                    weight = np.float32(1.0 / (di * di + dj * dj))
                    for s in range(n):
                        beside = np.int64(opened[stream[a, b], values[a, b, s]])
                        sealed = values[i, j, s]
                        for k in range(256):
                            totals[k] += weight * costs[abs(np.int64(opened[k, sealed]) - beside)]
            best = np.argmin(totals)
            if totals[best] < totals[stream[i, j]] - np.float32(1e-4):
                stream[i, j] = best
                following[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = True
    return following
