"""The values of one block laid out beside its neighbours.

Inside a block, values that are similar belong close together. At its sides, values that are similar to those of a
neighbour belong at that side. Both are one quadratic assignment with a linear part (puzzle/qap.py):

    sum D[k, l]·T[p_k, p_l] + 2·sum L[k, p_k]

There are two linear parts, used one after the other. `side_costs` needs no layout of the neighbours: a value's least
distance to any value of the neighbour says how near that side it belongs, which settles the turn of the block.
`neighbour_costs` compares with the two rows of the neighbours' values next to the seam, once those are laid out, and
sharpens the layout.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.grid_layout import (
    classical_scaling,
    grid_kernel,
    grid_symmetries,
    path_lengths,
    snap_to_grid,
)
from coordinator.adversary.puzzle.qap import assignment_cost, swap_descent
from coordinator.adversary.values.value_distances import LOG_DIFFERENCES, mean_distances
from crypto.arrays import Float32Array, Float64Array, Int64Array, UInt8Array

#: Neighbours in the graph of values: the first number that gives a connected graph.
#: Set once by hand; no measurement is recorded.
_GRAPH_NEIGHBOURS = (8, 14, 30)
#: The distance to the sixth nearest other value is what is typical around a value (index 0 is the value itself).
#: Set once by hand; no measurement is recorded.
_TYPICAL_RANK = 6
#: Pixels over which similarity fades in the wide kernel. Set once by hand; no measurement is recorded.
_REACH = 3.0
#: Most passes of swaps. A layout is refined many times, so each time few are enough.
#: Set once by hand; no measurement is recorded.
_SWEEPS = 4
#: Pixels over which a neighbour is felt before it is laid out, and square pixels over which it is felt afterwards.
#: Set once by hand; no measurement is recorded.
_SIDE_REACH, _SEAM_VARIANCE = 2.0, 1.5
#: Rows of a neighbour that are compared. Set once by hand; no measurement is recorded.
_STRIP = 2


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _nearest(first: UInt8Array, second: UInt8Array, table: Float32Array) -> Float32Array:
    """Return the least sums of table entries from each first value to a second one, float32 [2, V]."""
    out = np.full((2, len(first)), np.float32(1e9))
    for k in range(len(first)):
        for other in range(len(second)):
            equal = np.float32(0.0)
            opposite = np.float32(0.0)
            for s in range(first.shape[1]):
                a, b = np.int32(first[k, s]), np.int32(second[other, s])
                equal += table[abs(a - b)]
                opposite += table[abs(a + b - 255)]
            out[0, k] = min(out[0, k], equal)
            out[1, k] = min(out[1, k], opposite)
    return out


def nearest_distances(first: UInt8Array, second: UInt8Array) -> Float32Array:
    """Return each first value's least mean log(1 + |d|) to a second one, float32 [2, V].

    Row 0 compares values as they are, row 1 with the second negated.

    Args:
        first: uint8 [V, n], the values of one block over n images.
        second: uint8 [V, n], those of the other.
    """
    distances: Float32Array = _nearest(first, second, LOG_DIFFERENCES) / np.float32(max(1, first.shape[1]))
    return distances


def lay_out_block(distances: Float64Array, side: int) -> Int64Array:
    """Return the cell of each value of a block, int64 [side²], up to the eight symmetries.

    Graphs of nearest neighbours weigh their edges by what is typical around either end. Similarity fades at
    another rate in a smooth corner of the block than in a busy one.

    Args:
        distances: float64 [side², side²], symmetric.
        side: The block side in pixels.
    """
    if side == 1:
        return np.zeros(1, np.int64)
    typical = np.sort(distances, axis=1)[:, min(_TYPICAL_RANK, len(distances) - 1)]
    local = distances / np.sqrt(np.outer(typical, typical) + 1e-9)
    for neighbours in _GRAPH_NEIGHBOURS:
        lengths = path_lengths(local, neighbours)
        if lengths is not None:
            break
    else:
        lengths = local
    start = snap_to_grid(classical_scaling(lengths), side, side)
    return swap_descent(distances, _wide_kernel(side), start, sweeps=_SWEEPS)


def _wide_kernel(side: int) -> Float64Array:
    """Return exp(-r/3) between cells r apart, float64 [cells, cells], 0 on the diagonal."""
    row, column = np.divmod(np.arange(side * side), side)
    kernel: Float64Array = np.exp(-np.hypot(row[:, None] - row, column[:, None] - column) / _REACH)
    np.fill_diagonal(kernel, 0.0)
    return kernel


def side_costs(near: Float32Array, side: int) -> Float64Array:
    """Return the linear part by least distances to the neighbours' values, float64 [V, cells].

    Args:
        near: float [4, V], the least distances to the neighbours up, right, down, left (`nearest_distances`). A
            side at the border of the picture is NaN and costs nothing.
        side: The block side in pixels.
    """
    row, column = np.divmod(np.arange(side * side), side)
    linear = np.zeros((near.shape[1], side * side))
    for distances, pixels_away in zip(near, (row, side - 1 - column, side - 1 - row, column), strict=True):
        if np.isfinite(distances).all():
            scaled = distances / max(float(np.median(distances)), 1e-9)
            linear += np.outer(scaled, side * np.exp(-pixels_away / _SIDE_REACH))
    return linear


def orient_layout(cells: Int64Array, linear: list[Float64Array], side: int) -> Int64Array:
    """Return layouts under the one of the eight symmetries that costs least by their linear parts, int64 [c, S].

    Args:
        cells: int64 [c, S], the cell of every value of each component.
        linear: The linear part of each component, float64 [S, cells].
        side: The block side in pixels.
    """
    value = np.arange(cells.shape[1])
    turned = grid_symmetries(side)[:, cells]  # [8, c, S]
    costs = sum(part[value, turned[:, m]].sum(1) for m, part in enumerate(linear))
    best: Int64Array = turned[int(np.argmin(costs))]
    return best


def neighbour_costs(values: UInt8Array, neighbours: list[UInt8Array | None], side: int) -> Float64Array:
    """Return the linear part by what stands across the seams, float64 [V, cells]; 0 without any neighbour.

    Args:
        values: uint8 [V, n], the values of a block over n images.
        neighbours: The blocks up, right, down, left as laid out, uint8 [side, side, n] each, or None.
        side: The block side in pixels.
    """
    row, column = np.divmod(np.arange(side * side), side)
    depth = np.arange(min(_STRIP, side))
    along = np.tile(np.arange(side), len(depth))
    off = np.repeat(depth, side)
    strips, rows, columns = [], [], []
    for direction, face in enumerate(neighbours):
        if face is None:
            continue
        inner = (
            (side - 1 - off, along, off, along)[direction],
            (along, off, along, side - 1 - off)[direction],
        )
        strips.append(face[inner])
        rows.append((-1 - off, along, side + off, along)[direction])
        columns.append((along, side + off, along, -1 - off)[direction])
    if not strips:
        return np.zeros((len(values), side * side))
    strip_row, strip_column = np.concatenate(rows), np.concatenate(columns)
    distances = mean_distances(values, np.ascontiguousarray(np.concatenate(strips)), LOG_DIFFERENCES)
    squared = (row[:, None] - strip_row) ** 2 + (column[:, None] - strip_column) ** 2  # [cells, strip]
    scaled = distances / max(float(np.median(distances)), 1e-9)
    costs: Float64Array = scaled @ np.exp(-squared / (2.0 * _SEAM_VARIANCE)).T
    return costs


def refine_layout(
    distances: Float64Array,
    linear: Float64Array,
    wide_linear: Float64Array | None,
    places: Int64Array,
    side: int,
) -> Int64Array:
    """Return the layout improved under both parts of the cost, int64 [S].

    Args:
        distances: float64 [S, S], symmetric.
        linear: float64 [S, cells].
        wide_linear: Another linear part, float64 [S, cells]. The layout, and a second one made from this part alone,
            are first improved under it with the wide kernel. None refines only.
        places: int64 [S], the layout to start from.
        side: The block side in pixels.
    """
    starts = [places]
    if wide_linear is not None:
        starts.append(linear_sum_assignment(wide_linear)[1].astype(np.int64))
        wide_kernel = _wide_kernel(side)
        starts = [swap_descent(distances, wide_kernel, start, wide_linear, _SWEEPS) for start in starts]
    kernel = grid_kernel(side, side)
    layouts = [swap_descent(distances, kernel, start, linear, _SWEEPS) for start in starts]
    return min(layouts, key=lambda layout: assignment_cost(distances, kernel, layout, linear))
