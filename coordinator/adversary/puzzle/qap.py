"""Local search for the quadratic assignment problem (QAP): which thing stands on which place.

Things have distances, places have a kernel that is large where two places are near. A good assignment puts things
that are near each other on near places. Both searches start from a given assignment and swap the places of two things
while that helps, so they end in a local optimum.

- `swap_descent` takes one symmetric table of distances with zeros on its diagonal, and lowers the cost. It can add a
  linear part: what every thing costs on every place, whatever the others do.
- `swap_ascent` takes several tables of similarities, and raises their sum. A table need not be symmetric,
  because the similarity of a value to one in the block to its right differs from that to one on its left. Its
  diagonal counts. A swap then changes rows and columns by different amounts, so its arithmetic is not that of
  `swap_descent`. Both share the sum over two rows and the exchange of two rows and columns.

The swap of two blocks in an assembled picture (`swap_search.swap_pairs`) is a third kind: only four neighbours count
there, so a swap costs eight look-ups and no pass over a row.
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float64Array, Int64Array

#: Passes over all pairs. A search that still improves after so many is stopped. Set once by hand; no
#: measurement is recorded.
_DESCENT_SWEEPS = 40
_ASCENT_SWEEPS = 60
#: Least change for which two things are swapped. It is above the rounding errors of a sum of float64.
_MIN_CHANGE = 1e-9


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _row_change(table: Float64Array, placed: Float64Array, a: int, b: int, change: float) -> float:
    """Return `change` plus that of the sum over rows a and b if these two swap, but for the terms between the two."""
    for k in range(table.shape[0]):
        change += (table[a, k] - table[b, k]) * (placed[b, k] - placed[a, k])
    return change


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _quadratic_change(distances: Float64Array, placed: Float64Array, a: int, b: int) -> float:
    """Return half of the change of the quadratic cost if a and b swap: rows and columns change by the same amount."""
    change: float = _row_change(distances, placed, a, b, 0.0) + 2.0 * distances[a, b] * placed[a, b]
    return change


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _change_with_linear(
    distances: Float64Array, placed: Float64Array, linear: Float64Array, places: Int64Array, a: int, b: int
) -> float:
    """Return half of the change of the cost with its linear part if a and b swap."""
    p, q = places[a], places[b]
    change = linear[a, q] + linear[b, p] - linear[a, p] - linear[b, q]
    change += 2.0 * distances[a, b] * placed[a, b]
    total: float = _row_change(distances, placed, a, b, change)
    return total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _exchange(table: Float64Array, a: int, b: int) -> None:
    """Swap rows a and b, and columns a and b, in place."""
    size = len(table)
    for k in range(size):
        table[a, k], table[b, k] = table[b, k], table[a, k]
    for k in range(size):
        table[k, a], table[k, b] = table[k, b], table[k, a]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _descend(
    distances: Float64Array,
    placed: Float64Array,
    linear: Float64Array,
    places: Int64Array,
    sweeps: int,
) -> None:
    """Swap pairs in place while that lowers the cost. An empty linear part is none."""
    size, has_linear = len(places), len(linear) > 0
    for _ in range(sweeps):
        swapped = False
        for a in range(size):
            for b in range(a):
                if has_linear:
                    change = _change_with_linear(distances, placed, linear, places, a, b)
                else:
                    change = _quadratic_change(distances, placed, a, b)
                if change < -_MIN_CHANGE:
                    places[a], places[b] = places[b], places[a]
                    _exchange(placed, a, b)
                    swapped = True
        if not swapped:
            break


def swap_descent(
    distances: Float64Array,
    kernel: Float64Array,
    places: Int64Array,
    linear: Float64Array | None = None,
    sweeps: int = _DESCENT_SWEEPS,
) -> Int64Array:
    """Return places improved by swaps of two things until no swap lowers `assignment_cost`.

    Args:
        distances: float64 [S, S], symmetric, 0 on the diagonal.
        kernel: float64 [S, S], symmetric, 0 on the diagonal.
        places: int64 [S], the place of every thing to start from. It is left as it is.
        linear: float64 [S, S], what each thing costs on each place.
        sweeps: Most passes over all pairs.
    """
    result = np.array(places, np.int64)
    # The kernel is kept in the order of the places: the change of a swap is then one pass over two rows.
    placed = np.ascontiguousarray(kernel[np.ix_(result, result)])
    _descend(distances, placed, np.empty((0, 0)) if linear is None else linear, result, sweeps)
    return result


def assignment_cost(
    distances: Float64Array,
    kernel: Float64Array,
    places: Int64Array,
    linear: Float64Array | None = None,
) -> float:
    """Return sum D[k, l]·T[p_k, p_l], plus 2·sum L[k, p_k] if there is a linear part."""
    quadratic = (distances * kernel[np.ix_(places, places)]).sum()
    if linear is None:
        return float(quadratic)
    return float(quadratic + 2.0 * linear[np.arange(len(places)), places].sum())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _corner_change(table: Float64Array, placed: Float64Array, a: int, b: int) -> float:
    """Return the correction of both `_row_change` sums for the four entries where rows and columns a and b cross.

    Each sum counts these entries as if only its rows, or only its columns, were exchanged. Both are.
    """
    rows = (table[a, a] - table[b, a]) * (placed[b, a] - placed[a, a])
    rows += (table[a, b] - table[b, b]) * (placed[b, b] - placed[a, b])
    columns = (table[a, a] - table[a, b]) * (placed[a, b] - placed[a, a])
    columns += (table[b, a] - table[b, b]) * (placed[b, b] - placed[b, a])
    both = (table[a, a] - table[b, b]) * (placed[b, b] - placed[a, a])
    both += (table[a, b] - table[b, a]) * (placed[b, a] - placed[a, b])
    return float(both - rows - columns)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _ascend_once(
    tables: Float64Array,
    transposed: Float64Array,
    placed: Float64Array,
    placed_transposed: Float64Array,
    places: Int64Array,
) -> bool:
    """Pass once over all pairs, swapping in place where that raises the similarity; return whether any swap did.

    Without transposed tables all tables are symmetric: rows and columns then change by the same amount.
    """
    count, size, _ = tables.shape
    is_symmetric = len(transposed) == 0
    swapped = False
    for a in range(size):
        for b in range(a):
            gain = 0.0
            for m in range(count):
                rows = _row_change(tables[m], placed[m], a, b, 0.0)
                if is_symmetric:
                    columns = rows
                else:
                    columns = _row_change(transposed[m], placed_transposed[m], a, b, 0.0)
                gain += rows
                gain += columns
                gain += _corner_change(tables[m], placed[m], a, b)
            if gain > _MIN_CHANGE:
                places[a], places[b] = places[b], places[a]
                for m in range(count):
                    _exchange(placed[m], a, b)
                    if not is_symmetric:
                        _exchange(placed_transposed[m], a, b)
                swapped = True
    return swapped


def swap_ascent(
    similarities: Float64Array,
    kernels: Float64Array,
    places: Int64Array,
    sweeps: int = _ASCENT_SWEEPS,
    time_left: TimeLeft = always,
) -> Int64Array:
    """Return places improved by swaps of two things until no swap raises `assignment_similarity`.

    Args:
        similarities: float64 [m, S, S], how similar the things are, in each of m relations.
        kernels: float64 [m, S, S], how similar the places are, in the same relations.
        places: int64 [S], the place of every thing to start from. It is left as it is.
        sweeps: Most passes over all pairs.
        time_left: Asked after every pass.
    """
    result = np.array(places, np.int64)
    tables = np.ascontiguousarray(similarities)
    placed = np.ascontiguousarray(kernels[:, result[:, None], result])
    transposed, placed_transposed = (np.ascontiguousarray(t.transpose(0, 2, 1)) for t in (tables, placed))
    if np.array_equal(tables, transposed) and np.array_equal(placed, placed_transposed):
        transposed = placed_transposed = np.empty((0, *result.shape, *result.shape))
    for _ in range(sweeps):
        if not _ascend_once(tables, transposed, placed, placed_transposed, result) or not time_left():
            break
    return result


def assignment_similarity(similarities: Float64Array, kernels: Float64Array, places: Int64Array) -> float:
    """Return sum S[m, a, b]·K[m, p_a, p_b] over all m, a and b. More is better."""
    return float((similarities * kernels[:, places[:, None], places]).sum())
