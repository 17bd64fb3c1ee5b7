"""What a pool shows of a block's nibbles and values: their correlations and signs, and which nibbles are high.

Nibbles are taken as signed: value - 7.5, float32, so that a reversal 15 - v is a change of sign.
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.puzzle.distances import HALF_DIFFERENCE
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.values.group_synchronisation import SIGNS, synchronise
from crypto.arrays import Float32Array, Float64Array, Int64Array

#: High nibbles correlate if their leading eigenvalue is this many times that of noise, or this share of its maximum.
#: In stained tissue at 32×32, of neighbours 7 pixels apart in the slide, the share is .2; in CIFAR-10 .6 to .8.
_TIMES_NOISE, _LEAST_CORRELATION = 2.0, 0.3
#: Most values compared in one table of distances, and fewest blocks whose values are: bounds on time.
_MOST_COMPARED, _FEWEST_BLOCKS = 5_000_000, 200
#: The strongest correlations of a nibble that count. Set once by hand; no measurement is recorded.
_STRONGEST = 12


def lag_correlations(values: Float32Array) -> Float64Array:
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
    blocks = values.reshape(-1, values.shape[-1])
    pairs = ((values[:, :, :-1], values[:, :, 1:]), (values[:, :-1], values[:, 1:]))
    neighbours = [(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])) for a, b in pairs]
    return [(blocks, blocks), *neighbours]


def correlations(first: Float32Array, second: Float32Array) -> Float64Array:
    """Return the correlations of every two columns, float64 [S, S], of float32 [m, S] each.

    A column that never varies has correlation 0 with all others, and no rows give zeros. The correlations of the
    columns of one array are exactly symmetric: searches take half of the time then (puzzle/qap.py).
    """
    if not len(first):
        return np.zeros((first.shape[1], first.shape[1]))
    a = first - first.mean(0)
    b = a if second is first else second - second.mean(0)
    covariance = (a.T @ b).astype(np.float64) / len(a)
    result: Float64Array = covariance / np.outer(np.maximum(a.std(0), 1e-6), np.maximum(b.std(0), 1e-6))
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


def is_beyond_noise(high_correlations: Float64Array, count: int) -> bool:
    """Return whether the leading eigenvalue of correlations is well above that of as many samples of noise.

    Without correlations it is (1 + √(V/count))² in the limit (Marchenko, Pastur 1967).

    Args:
        high_correlations: float64 [V, V].
        count: The number of blocks they were measured on.
    """
    size = len(high_correlations)
    of_noise = (1.0 + np.sqrt(size / count)) ** 2
    leading = float(np.linalg.eigvalsh(high_correlations)[-1])
    return leading > min(_TIMES_NOISE * float(of_noise), _LEAST_CORRELATION * size)


def consistent_signs(high_correlations: Float64Array) -> Float32Array:
    """Return the signs (1 or -1) under which strong correlations are positive, float32 [V].

    Strong correlations are those of neighbours, and they connect all values. The leading eigenvector, which weighs
    all alike, leaves the signs of a colour to chance if the colours hardly correlate.
    """
    i, j = np.triu_indices(len(high_correlations), 1)
    evidence = high_correlations[i, j] * np.abs(high_correlations[i, j])
    costs = np.stack([-evidence, evidence], 1).astype(np.float32)
    flips = synchronise(i, j, costs, len(high_correlations), SIGNS)
    return np.where(flips == 1, np.float32(-1), np.float32(1))


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
