"""From seam costs to a picture: a constrained tree, then exchanges, until two starts agree.

Source: A. Gallagher, "Jigsaw puzzles with pieces of unknown orientation" (CVPR 2012), whose constrained
tree joins the surest pairs first and refuses a join that overlaps or leaves the frame. The trees are laid
into the frame, the rest fills the gaps, and exchange.py repairs what is left. Costs are those of exchange.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.swap_search import cell_costs, polish, total_cost
from coordinator.adversary.time_budget import always

#: Seam costs across and down, float64 [N, N], the picture's (height, width) in blocks, and whether to go on →
#: int64 [height, width], the block that belongs in each cell.
Lay = Callable[[np.ndarray, np.ndarray, tuple[int, int], Callable[[], bool]], np.ndarray]
#: Cost of a block beside itself: never taken.
NEVER = 1e9
_PER_SIDE = 6
#: Starts of the search, and the number of blocks from which on there are fewer: each then takes long.
_STARTS, _MANY = 16, 400
_DISTURB = 0.3
#: Of more blocks than this a first picture takes seconds, and is not begun when time is out.
_QUICK = 1024


def _margins(costs: np.ndarray) -> np.ndarray:
    """[N, N]: each cost less the best other choice of either of its two blocks; negative where it wins."""
    right, left = np.full((len(costs), 2), np.inf), np.full((len(costs), 2), np.inf)
    out = np.empty_like(costs)
    _two_least(costs, right, left, out)
    return out


@numba.njit(cache=True)
def _two_least(costs: np.ndarray, right: np.ndarray, left: np.ndarray, margins: np.ndarray) -> None:
    """The two least of every row and of every column, and from them the margins, in place."""
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


def joins(across: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [e, 3] of (i, j, 1 where j is below i), float64 [e] margins): the few best joins of a block.

    A margin is a join's cost less that of the best other choice of either block: negative where it wins.
    """
    margins, found = [], []
    for direction, costs in enumerate((across, down)):
        margin = _margins(costs)
        np.fill_diagonal(margin, np.inf)
        few = min(_PER_SIDE, len(costs) - 1)
        near = np.zeros(costs.shape, bool)
        np.put_along_axis(near, np.argpartition(margin, few, axis=1)[:, :few], True, 1)
        i, j = np.nonzero(near & np.isfinite(margin))
        margins.append(margin[i, j])
        found.append(np.stack([i, j, np.full(len(i), direction)], 1))
    return np.concatenate(found).astype(np.int64), np.concatenate(margins)


@numba.njit(cache=True)
def grow(
    edges: np.ndarray, count: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joins blocks in the order of int64 [e, 3] edges → (cluster, row, column), each int64 [count].

    Rows and columns are relative within a cluster. A join that would overlap two blocks or outgrow
    height × width is refused.
    """
    cluster, after = np.arange(count), np.full(count, -1)
    last, size = np.arange(count), np.ones(count, np.int64)
    row, column = np.zeros(count, np.int64), np.zeros(count, np.int64)
    low = np.zeros((count, 2), np.int64)  # least row and column of a cluster
    high = np.zeros((count, 2), np.int64)
    marks, mark = np.zeros((height, width), np.int64), 0
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
        mark += 1
        k = a  # a cluster is named after its first member
        while k >= 0:
            marks[row[k] - top, column[k] - left] = mark
            k = after[k]
        free, k = True, b
        while k >= 0 and free:
            free = marks[row[k] + move_row - top, column[k] + move_column - left] != mark
            k = after[k]
        if not free:
            continue
        if size[a] < size[b]:
            a, b = b, a
            move_row, move_column = -move_row, -move_column
            top, bottom = top + move_row, bottom + move_row
            left, right = left + move_column, right + move_column
        k = b
        while k >= 0:
            cluster[k] = a
            row[k] += move_row
            column[k] += move_column
            k = after[k]
        after[last[a]] = b
        last[a] = last[b]
        size[a] += size[b]
        low[a, 0], low[a, 1], high[a, 0], high[a, 1] = top, left, bottom, right
    return cluster, row, column


@numba.njit(cache=True)
def _place(
    grid: np.ndarray,
    members: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    across: np.ndarray,
    down: np.ndarray,
) -> bool:
    """Puts a cluster (rows and columns from 0) where it fits at the least cost; False where it cannot."""
    height, width = grid.shape
    best, best_y, best_x = np.inf, -1, -1
    tall, wide = rows.max() + 1, columns.max() + 1
    for y0 in range(height - tall + 1):
        for x0 in range(width - wide + 1):
            # Rather in the middle, where nothing else decides.
            total = 1e-9 * (abs(2 * y0 + tall - height) + abs(2 * x0 + wide - width))
            for m in range(len(members)):
                y, x, p = y0 + rows[m], x0 + columns[m], members[m]
                if grid[y, x] >= 0:
                    total = np.inf
                    break
                if x > 0 and grid[y, x - 1] >= 0:
                    total += across[grid[y, x - 1], p]
                if x < width - 1 and grid[y, x + 1] >= 0:
                    total += across[p, grid[y, x + 1]]
                if y > 0 and grid[y - 1, x] >= 0:
                    total += down[grid[y - 1, x], p]
                if y < height - 1 and grid[y + 1, x] >= 0:
                    total += down[p, grid[y + 1, x]]
            if total < best:
                best, best_y, best_x = total, y0, x0
    if best_y < 0:
        return False
    for m in range(len(members)):
        grid[best_y + rows[m], best_x + columns[m]] = members[m]
    return True


def lay_clusters(
    cluster: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    across: np.ndarray,
    down: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """int64 [height, width]: the clusters put down, the largest first; what fits nowhere fills the gaps."""
    grid = np.full(shape, -1, np.int64)
    names, sizes = np.unique(cluster, return_counts=True)
    for name in names[np.argsort(-sizes, kind="stable")]:
        members = np.flatnonzero(cluster == name)
        if len(members) == 1 and (grid >= 0).any():
            break
        rows, columns = row[members], column[members]
        _place(grid, members, rows - rows.min(), columns - columns.min(), across, down)
    left = np.setdiff1d(np.arange(grid.size), grid[grid >= 0])
    if len(left):
        empty = np.flatnonzero(grid.ravel() < 0)
        costs = cell_costs(grid, empty, left, across, down)
        grid.ravel()[empty] = left[linear_sum_assignment(costs)[1]]
    return grid


def assemble(
    across: np.ndarray,
    down: np.ndarray,
    shape: tuple[int, int],
    time_left: Callable[[], bool] = always,
    seed: int = 0,
) -> np.ndarray:
    """float64 [N, N] costs (diagonals ignored) → int64 [height, width], the block that belongs in each cell.

    `more` is asked between steps and ends the search early by returning False.
    """
    count = shape[0] * shape[1]
    if count == 1 or (count > _QUICK and not time_left()):
        return np.arange(count).reshape(shape)
    across, down = (np.array(costs, np.float64) for costs in (across, down))
    np.fill_diagonal(across, NEVER)
    np.fill_diagonal(down, NEVER)
    edges, margins = joins(across, down)
    scale = float(np.median(np.abs(margins)))
    rng = np.random.default_rng(seed)
    best, best_cost, met = np.arange(count).reshape(shape), np.inf, 0
    for start in range(max(2, min(_STARTS, _STARTS * _MANY // count))):
        kept = margins < (0.0 if start % 2 == 0 else np.inf)
        # The first two starts take the joins in their order, later ones in an order a little disturbed.
        noise = rng.normal(0.0, _DISTURB * scale, len(margins)) if start > 1 else 0.0
        order = np.argsort((margins + noise)[kept], kind="stable")
        cluster, row, column = grow(edges[kept][order], count, *shape)
        grid = lay_clusters(cluster, row, column, across, down, shape)
        grid = polish(grid, across, down, time_left)
        cost = total_cost(grid, across, down)
        if cost < best_cost - 1e-6:
            best, best_cost, met = grid, cost, 1
        else:
            met += cost < best_cost + 1e-6
        if met >= 2 or not time_left():  # two ways to the same picture: no third is needed
            break
    return best
