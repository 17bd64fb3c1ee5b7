"""The constrained tree of an assembly: blocks that were only moved, joined to clusters by the surest seams.

Source: A. Gallagher, "Jigsaw puzzles with pieces of unknown orientation" (CVPR 2012). A join that overlaps two blocks
or leaves the frame is refused. spanning_tree.py does the same for blocks that were also turned, negated and
recoloured.
"""

from __future__ import annotations

import numba
import numpy as np

from crypto.arrays import Float64Array, Int64Array

#: Candidate joins of a block in each direction. Set once by hand; no measurement is recorded.
_JOINS_PER_BLOCK = 6


def join_margins(costs: Float64Array) -> Float64Array:
    """Return each cost less the best other choice of either of its two blocks, float64 [N, N].

    A margin is negative if the join beats all its rivals.
    """
    right, left = np.full((len(costs), 2), np.inf), np.full((len(costs), 2), np.inf)
    margins = np.empty_like(costs)
    _fill_margins(costs, right, left, margins)
    return margins


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _fill_margins(
    costs: Float64Array, right: Float64Array, left: Float64Array, margins: Float64Array
) -> None:
    """Write the two least costs of every row and of every column, and from them the margins."""
    for i in range(len(costs)):
        for j in range(len(costs)):
            cost = costs[i, j]
            if cost < right[i, 0]:
                right[i, 1] = right[i, 0]
                right[i, 0] = cost
            elif cost < right[i, 1]:
                right[i, 1] = cost
            if cost < left[j, 0]:
                left[j, 1] = left[j, 0]
                left[j, 0] = cost
            elif cost < left[j, 1]:
                left[j, 1] = cost
    for i in range(len(costs)):
        for j in range(len(costs)):
            other_right = right[i, 1] if costs[i, j] <= right[i, 0] else right[i, 0]
            other_left = left[j, 1] if costs[i, j] <= left[j, 0] else left[j, 0]
            margins[i, j] = costs[i, j] - min(other_right, other_left)


def candidate_joins(across: Float64Array, down: Float64Array) -> tuple[Int64Array, Float64Array]:
    """Return the few best joins of every block and their margins.

    Returns:
        int64 [e, 3] of (i, j, direction), where the direction is 1 if j is below i and 0 if it is right of i; and
        float64 [e], the margins of `join_margins`.
    """
    margins, joins = [], []
    for direction, costs in enumerate((across, down)):
        margin = join_margins(costs)
        np.fill_diagonal(margin, np.inf)
        per_block = min(_JOINS_PER_BLOCK, len(costs) - 1)
        near = np.zeros(costs.shape, bool)
        np.put_along_axis(near, np.argpartition(margin, per_block, axis=1)[:, :per_block], True, 1)
        i, j = np.nonzero(near & np.isfinite(margin))
        margins.append(margin[i, j])
        joins.append(np.stack([i, j, np.full(len(i), direction)], 1))
    return np.concatenate(joins).astype(np.int64), np.concatenate(margins)


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _overlap(
    row: Int64Array,
    column: Int64Array,
    following: Int64Array,
    a: int,
    b: int,
    move: tuple[int, int],
    corner: tuple[int, int],
    marks: Int64Array,
    mark: int,
) -> bool:
    """Return whether cluster b, moved, has a block on a cell of cluster a.

    `marks` is scratch space of the frame's size, and `mark` a number that it does not hold yet.
    """
    top, left = corner
    k = a  # a cluster is named after its first member
    while k >= 0:
        marks[row[k] - top, column[k] - left] = mark
        k = following[k]
    k = b
    while k >= 0:
        if marks[row[k] + move[0] - top, column[k] + move[1] - left] == mark:
            return True
        k = following[k]
    return False


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def grow_clusters(
    edges: Int64Array, count: int, height: int, width: int
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Join blocks in the order of the edges and return (cluster, row, column), each int64 [count].

    Rows and columns are relative within a cluster. A join that would overlap two blocks or outgrow the frame is
    refused.

    Args:
        edges: int64 [e, 3] of (i, j, direction), as from `candidate_joins`.
        count: The number of blocks.
        height: Rows of the frame.
        width: Columns of the frame.
    """
    cluster, following = np.arange(count), np.full(count, -1)
    last, size = np.arange(count), np.ones(count, np.int64)
    row, column = np.zeros(count, np.int64), np.zeros(count, np.int64)
    low = np.zeros((count, 2), np.int64)  # least row and column of a cluster
    high = np.zeros((count, 2), np.int64)
    marks = np.zeros((height, width), np.int64)
    for e in range(len(edges)):
        i, j, direction = edges[e]
        a, b = cluster[i], cluster[j]
        if a == b:
            continue
        move_row = row[i] + direction - row[j]
        move_column = column[i] + 1 - direction - column[j]
        top, left = min(low[a, 0], low[b, 0] + move_row), min(low[a, 1], low[b, 1] + move_column)
        bottom, right = max(high[a, 0], high[b, 0] + move_row), max(high[a, 1], high[b, 1] + move_column)
        if bottom - top >= height or right - left >= width:
            continue
        if _overlap(row, column, following, a, b, (move_row, move_column), (top, left), marks, e + 1):
            continue
        if size[a] < size[b]:  # the smaller cluster moves
            a, b = b, a
            move_row, move_column = -move_row, -move_column
            top, bottom = top + move_row, bottom + move_row
            left, right = left + move_column, right + move_column
        k = b
        while k >= 0:
            cluster[k] = a
            row[k] += move_row
            column[k] += move_column
            k = following[k]
        following[last[a]] = b
        last[a] = last[b]
        size[a] += size[b]
        low[a, 0], low[a, 1], high[a, 0], high[a, 1] = top, left, bottom, right
    return cluster, row, column
