"""Values of one block against each other over a pool: how far apart they are, and which of them are flipped.

A block place that has a shuffle and a negative-positive mask of its own is a table of V values by n images. Two
values that touched in the plain image are nearly equal in most images, or nearly opposite if one of them is
flipped. Differences d count as log(1 + |d|), so that an edge between the two in one image weighs little.
"""

from __future__ import annotations

import numba
import numpy as np

from crypto.arrays import BoolArray, Float32Array, Float64Array, UInt8Array

#: log(1 + d) of a difference of d gray levels.
LOG_DIFFERENCES: Float32Array = np.log1p(np.arange(256, dtype=np.float32))
#: Neighbours that vote on a value's sign, and most rounds of voting. Set once by hand; no measurement is recorded.
_VOTERS, _ROUNDS = 12, 20


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _pair_sums(values: UInt8Array, table: Float32Array) -> Float32Array:
    """Return the sums of table entries of every two values, as they are and opposite, float32 [2, V, V]."""
    size, samples = values.shape
    out = np.zeros((2, size, size), np.float32)
    for k in range(size):
        for other in range(k):
            equal = np.float32(0.0)
            opposite = np.float32(0.0)
            for s in range(samples):
                a, b = np.int32(values[k, s]), np.int32(values[other, s])
                equal += table[abs(a - b)]
                opposite += table[abs(a + b - 255)]
            out[0, k, other] = out[0, other, k] = equal
            out[1, k, other] = out[1, other, k] = opposite
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def mean_distances(first: UInt8Array, second: UInt8Array, table: Float32Array) -> Float64Array:
    """Return the mean entry of a table at the differences of every first and second value, float64 [V, W].

    Args:
        first: uint8 [V, n].
        second: uint8 [W, n].
        table: float32 [256], by the absolute difference.
    """
    out = np.empty((len(first), len(second)))
    for k in range(len(first)):
        for other in range(len(second)):
            total = np.float32(0.0)
            for s in range(first.shape[1]):
                total += table[abs(np.int32(first[k, s]) - np.int32(second[other, s]))]
            out[k, other] = total / max(1, first.shape[1])
    return out


def value_distances(values: UInt8Array) -> tuple[Float32Array, Float32Array]:
    """Return (equal, opposite), float32 [V, V] each, 0 on the diagonals, for values uint8 [V, n].

    `equal` is the mean log(1 + |a - b|) of every two values, `opposite` the same of a and 255 - b.
    """
    sums = _pair_sums(np.ascontiguousarray(values), LOG_DIFFERENCES)
    equal, opposite = sums / np.float32(max(1, values.shape[1]))
    return equal, opposite


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def tree_signs(coupling: Float64Array) -> Float64Array:
    """Return signs of 1 and -1, float64 [V], along the tree of the largest couplings (Prim's algorithm).

    The sign of the first value is 1.

    Args:
        coupling: float64 [V, V], symmetric: positive if two values have the same sign, and the larger the surer.
    """
    size = len(coupling)
    signs = np.zeros(size)
    strongest, source = np.full(size, -1.0), np.zeros(size, np.int64)
    at = 0
    signs[0] = 1.0
    for _ in range(size - 1):
        for k in range(size):
            if signs[k] == 0.0 and abs(coupling[at, k]) > strongest[k]:
                strongest[k], source[k] = abs(coupling[at, k]), at
        top = -1.0
        for k in range(size):
            if signs[k] == 0.0 and strongest[k] > top:
                top, at = strongest[k], k
        signs[at] = signs[source[at]] if coupling[source[at], at] >= 0.0 else -signs[source[at]]
    return signs


def relative_signs(equal: Float32Array, opposite: Float32Array) -> BoolArray:
    """Return which values are flipped against the first one, bool [V], from their distances.

    The tree of the surest pairs settles every sign. Each value's nearest others then vote on it until nobody changes.
    The distances do not tell which of the two groups is the negative one.

    Args:
        equal: float32 [V, V], from `value_distances`.
        opposite: float32 [V, V], from `value_distances`.
    """
    coupling = (opposite - equal).astype(np.float64)  # positive where the two have the same sign
    np.fill_diagonal(coupling, 0.0)
    signs: Float64Array = tree_signs(coupling)
    voters = min(_VOTERS, len(signs) - 1)
    if voters < 1:
        return signs < 0
    near = np.argpartition(-np.abs(coupling), voters - 1, axis=1)[:, :voters]
    weight = np.take_along_axis(coupling, near, 1)
    for _ in range(_ROUNDS):
        votes = (weight * signs[near]).sum(1)
        changed = np.flatnonzero(votes * signs < 0)
        if not len(changed):
            break
        # Half of the values at a time: two that follow each other would change places for ever.
        signs[changed[::2]] *= -1.0
    return signs < 0
