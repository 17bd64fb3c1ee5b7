"""The values of one block laid out beside its neighbours.

Inside a block, values that are alike belong close together; at its sides, values that are like a neighbour's
belong at that side. Both are one quadratic assignment with a linear part:

    sum D[k, l]·T[p_k, p_l] + 2·sum L[k, p_k]

Two linear parts serve in turn. `leaning` needs no layout of the neighbours: a value's least distance to any value
of the neighbour says how near that side it belongs, which settles the turn of the block. `beside` compares with the
two rows of the neighbours' values next to the seam, once those are laid out, and sharpens the layout.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.grid_layout import (
    grid_kernel,
    path_lengths,
    scale,
    snap,
    swap_down,
    symmetries,
)
from coordinator.adversary.values.value_distances import LOG

_GRAPHS = (8, 14, 30)  # neighbours in the graph of values, more where it falls apart
_SIXTH = 6
_REACH = 3.0  # pixels over which likeness fades in the wide kernel
_SWEEPS = 4
_LEAN = 2.0  # pixels over which a neighbour is felt before anything is laid out
_SEAM = 1.5  # square pixels, the same once it is
_STRIP = 2  # rows of a neighbour that are compared


@numba.njit(cache=True, nogil=True, fastmath=True)
def _nearest(first: np.ndarray, second: np.ndarray, table: np.ndarray) -> np.ndarray:
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


def nearest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint8 [V, n] twice → float32 [2, V]: each first value's least mean log(1 + |d|) to a second one.

    Row 0 compares values as they are, row 1 with the second negated.
    """
    return _nearest(first, second, LOG) / np.float32(max(1, first.shape[1]))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _across(first: np.ndarray, second: np.ndarray, table: np.ndarray) -> np.ndarray:
    out = np.empty((len(first), len(second)))
    for k in range(len(first)):
        for other in range(len(second)):
            total = np.float32(0.0)
            for s in range(first.shape[1]):
                total += table[abs(np.int32(first[k, s]) - np.int32(second[other, s]))]
            out[k, other] = total / max(1, first.shape[1])
    return out


def lay_alone(distances: np.ndarray, side: int) -> np.ndarray:
    """float64 [side², side²] of a block's values → int64 [side²], the cell of each, up to the 8 symmetries.

    Graphs of nearest neighbours weigh their edges by what is usual around either end: likeness fades at another
    rate in a smooth corner of the block than in a busy one.
    """
    if side == 1:
        return np.zeros(1, np.int64)
    usual = np.sort(distances, axis=1)[:, min(_SIXTH, len(distances) - 1)]
    local = distances / np.sqrt(np.outer(usual, usual) + 1e-9)
    for neighbours in _GRAPHS:
        lengths = path_lengths(local, neighbours)
        if lengths is not None:
            break
    else:
        lengths = local
    return swap_down(distances, _wide(side), snap(scale(lengths), side, side), _SWEEPS)


def _wide(side: int) -> np.ndarray:
    row, column = np.divmod(np.arange(side * side), side)
    kernel = np.exp(-np.hypot(row[:, None] - row, column[:, None] - column) / _REACH)
    np.fill_diagonal(kernel, 0.0)
    return kernel


@numba.njit(cache=True, nogil=True, fastmath=True)
def _swap_beside(
    distances: np.ndarray, placed: np.ndarray, linear: np.ndarray, places: np.ndarray, sweeps: int
) -> None:
    size = len(places)
    for _ in range(sweeps):
        swapped = False
        for a in range(size):
            for b in range(a):
                p, q = places[a], places[b]
                change = linear[a, q] + linear[b, p] - linear[a, p] - linear[b, q]
                change += 2.0 * distances[a, b] * placed[a, b]
                for k in range(size):
                    change += (distances[a, k] - distances[b, k]) * (placed[b, k] - placed[a, k])
                if change < -1e-9:
                    places[a], places[b] = q, p
                    for k in range(size):
                        placed[a, k], placed[b, k] = placed[b, k], placed[a, k]
                    for k in range(size):
                        placed[k, a], placed[k, b] = placed[k, b], placed[k, a]
                    swapped = True
        if not swapped:
            break


def swap_beside(
    distances: np.ndarray, kernel: np.ndarray, linear: np.ndarray, places: np.ndarray, sweeps: int = _SWEEPS
) -> np.ndarray:
    """int64 [S] places, improved by swaps of two while they lower the cost above; linear is float64 [S, cells]."""
    found = np.array(places, np.int64)
    placed = np.ascontiguousarray(kernel[np.ix_(found, found)])
    _swap_beside(distances, placed, linear, found, sweeps)
    return found


def cost(distances: np.ndarray, kernel: np.ndarray, linear: np.ndarray, places: np.ndarray) -> float:
    """What swap_beside lowers."""
    inside = (distances * kernel[np.ix_(places, places)]).sum()
    return float(inside + 2.0 * linear[np.arange(len(places)), places].sum())


def leaning(near: np.ndarray, side: int) -> np.ndarray:
    """float [4, V] least distances to the neighbours up, right, down, left → float64 [V, cells], the linear part.

    Sides at the border of the picture are NaN and pull nowhere.
    """
    row, column = np.divmod(np.arange(side * side), side)
    linear = np.zeros((near.shape[1], side * side))
    for there, away in zip(near, (row, side - 1 - column, side - 1 - row, column), strict=True):
        if np.isfinite(there).all():
            linear += np.outer(there / max(float(np.median(there)), 1e-9), side * np.exp(-away / _LEAN))
    return linear


def upright(cells: np.ndarray, linear: list[np.ndarray], side: int) -> np.ndarray:
    """int64 [c, S] layouts under the one of the eight symmetries that costs least by their linear parts, one each."""
    value = np.arange(cells.shape[1])
    turned = symmetries(side)[:, cells]  # [8, c, S]
    costs = sum(part[value, turned[:, m]].sum(1) for m, part in enumerate(linear))
    return turned[int(np.argmin(costs))]


def beside(values: np.ndarray, around: list[np.ndarray | None], side: int) -> np.ndarray:
    """uint8 [V, n], and the neighbours up, right, down, left as uint8 [side, side, n] → float64 [V, cells].

    The cost of each value on each cell beside what stands across the seams; 0 without any neighbour.
    """
    row, column = np.divmod(np.arange(side * side), side)
    deep = np.arange(min(_STRIP, side))
    along = np.tile(np.arange(side), len(deep))
    off = np.repeat(deep, side)
    strips, rows, columns = [], [], []
    for direction, face in enumerate(around):
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
    there = np.stack([np.concatenate(rows), np.concatenate(columns)])
    apart = _across(values, np.ascontiguousarray(np.concatenate(strips)), LOG)
    squared = (row[:, None] - there[0]) ** 2 + (column[:, None] - there[1]) ** 2  # [cells, strip]
    return apart / max(float(np.median(apart)), 1e-9) @ np.exp(-squared / (2.0 * _SEAM)).T


def refit(
    distances: np.ndarray, linear: np.ndarray, wide: np.ndarray | None, places: np.ndarray, side: int
) -> np.ndarray:
    """int64 [S], the given layout improved under both parts of the cost.

    wide: another linear part, float64 [S, cells], under which the layout, and a second one made from that part
    alone, are first improved with the wide kernel; None refines only.
    """
    starts = [places]
    if wide is not None:
        starts.append(linear_sum_assignment(wide)[1].astype(np.int64))
        starts = [swap_beside(distances, _wide(side), wide, start) for start in starts]
    narrow = grid_kernel(side, side)
    found = [swap_beside(distances, narrow, linear, start) for start in starts]
    return min(found, key=lambda laid: cost(distances, narrow, linear, laid))
