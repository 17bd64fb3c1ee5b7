"""From seam costs to a picture: a constrained tree, then local search, until two starts agree.

Source: A. Gallagher, "Jigsaw puzzles with pieces of unknown orientation" (CVPR 2012). His constrained tree joins the
surest pairs first and refuses a join that overlaps or leaves the frame. Here the clusters of the tree are
placed in the frame, the other blocks fill the gaps, and swap_search.py repairs what is left. Costs are those of
swap_search.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.constrained_tree import candidate_joins, grow_clusters
from coordinator.adversary.puzzle.swap_search import cell_costs, local_search, total_cost
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float64Array, Int64Array

#: A function that assembles a picture. It takes seam costs across and down, float64 [N, N], the picture's
#: (height, width) in blocks, and a TimeLeft. It returns int64 [height, width], the block that belongs in each cell.
Assembler = Callable[[Float64Array, Float64Array, tuple[int, int], TimeLeft], Int64Array]
#: Cost of a block beside itself: larger than any sum of seams, so that it is never taken.
FORBIDDEN_COST = 1e9
#: Starts of the search, and the number of blocks from which on there are fewer, because each then takes long.
#: Set once by hand; no measurement is recorded.
_STARTS, _FEWER_STARTS_FROM = 16, 400
#: Least number of starts: the search stops once two agree.
_LEAST_STARTS = 2
#: Noise on the margins of later starts, in units of their median size. Set once by hand; no measurement is recorded.
_NOISE = 0.3
#: With more blocks than this a first picture takes seconds, and is not begun if time is out.
QUICK_BLOCKS = 1024


#: Share of the seams' evidence that a picture must use to be believed. In pools of 1 to 10 images of brain MRI,
#: CIFAR-10 and stained tissue, pictures that were mostly right used .79 to 1, and wrong ones .44 to .65.
LEAST_SEAM_FIT = 0.7
SEAM_FIT = "the share of the evidence of the blocks' best seams that the picture uses"


def places_of(grid: Int64Array) -> Int64Array:
    """Return where each block stands, int64 [blocks], in a grid int64 [rows, columns] of all blocks' numbers."""
    places = np.empty(grid.size, np.int64)
    places[grid.ravel()] = np.arange(grid.size)
    return places


def seam_fit(grid: Int64Array, across: Float64Array, down: Float64Array) -> float:
    """Return the share of the evidence of the blocks' best seams that a picture uses: at most 1, 0 without any.

    Every seam of the picture is compared with the best one that either of its blocks could have there. In a right
    picture nearly all seams are the best ones. Where chance decides, the best ones cannot all be had at once.

    Args:
        grid: int64 [rows, columns], the block in each cell.
        across: float64 [N, N], the cost of block j right of block i, negative where they fit. The diagonal is
            ignored.
        down: float64 [N, N], the same for block j below block i.
    """
    used = best = 0.0
    pairs = ((across, grid[:, :-1], grid[:, 1:]), (down, grid[:-1], grid[1:]))
    for table, first, second in pairs:
        costs = np.array(table, np.float64)
        np.fill_diagonal(costs, np.inf)
        i, j = first.ravel(), second.ravel()
        used -= float(costs[i, j].sum())
        best -= float(np.minimum(np.minimum(costs.min(1)[i], costs.min(0)[j]), 0.0).sum())
    return used / best if best > 0 else 0.0


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _cost_in_place(
    grid: Int64Array,
    members: Int64Array,
    rows: Int64Array,
    columns: Int64Array,
    across: Float64Array,
    down: Float64Array,
    corner: tuple[int, int],
    cost: float,
) -> float:
    """Return `cost` plus the seams of a cluster whose corner is put on a cell; infinite if it overlaps a block."""
    height, width = grid.shape
    for m in range(len(members)):
        y, x, p = corner[0] + rows[m], corner[1] + columns[m], members[m]
        if grid[y, x] >= 0:
            return np.inf
        if x > 0 and grid[y, x - 1] >= 0:
            cost += across[grid[y, x - 1], p]
        if x < width - 1 and grid[y, x + 1] >= 0:
            cost += across[p, grid[y, x + 1]]
        if y > 0 and grid[y - 1, x] >= 0:
            cost += down[grid[y - 1, x], p]
        if y < height - 1 and grid[y + 1, x] >= 0:
            cost += down[p, grid[y + 1, x]]
    return cost


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _place_cluster(
    grid: Int64Array,
    members: Int64Array,
    rows: Int64Array,
    columns: Int64Array,
    across: Float64Array,
    down: Float64Array,
) -> None:
    """Put a cluster (rows and columns from 0) in place at the least cost, if it fits anywhere."""
    height, width = grid.shape
    best, best_y, best_x = np.inf, -1, -1
    tall, wide = rows.max() + 1, columns.max() + 1
    for y0 in range(height - tall + 1):
        for x0 in range(width - wide + 1):
            # The middle is preferred if nothing else decides.
            off_centre = 1e-9 * (abs(2 * y0 + tall - height) + abs(2 * x0 + wide - width))
            total = _cost_in_place(grid, members, rows, columns, across, down, (y0, x0), off_centre)
            if total < best:
                best, best_y, best_x = total, y0, x0
    if best_y < 0:
        return
    for m in range(len(members)):
        grid[best_y + rows[m], best_x + columns[m]] = members[m]


def place_clusters(
    cluster: Int64Array,
    row: Int64Array,
    column: Int64Array,
    across: Float64Array,
    down: Float64Array,
    shape: tuple[int, int],
) -> Int64Array:
    """Return the grid, int64 [height, width], with the largest clusters placed first.

    Blocks of clusters that fit nowhere, and single blocks, fill the gaps.
    """
    grid = np.full(shape, -1, np.int64)
    names, sizes = np.unique(cluster, return_counts=True)
    for name in names[np.argsort(-sizes, kind="stable")]:
        members = np.flatnonzero(cluster == name)
        if len(members) == 1 and (grid >= 0).any():
            break
        rows, columns = row[members], column[members]
        _place_cluster(grid, members, rows - rows.min(), columns - columns.min(), across, down)
    unplaced = np.setdiff1d(np.arange(grid.size), grid[grid >= 0])
    if len(unplaced):
        empty = np.flatnonzero(grid.ravel() < 0)
        costs = cell_costs(grid, empty, unplaced, across, down)
        grid.ravel()[empty] = unplaced[linear_sum_assignment(costs)[1]]
    return grid


def assemble(
    across: Float64Array,
    down: Float64Array,
    shape: tuple[int, int],
    time_left: TimeLeft = always,
    seed: int = 0,
) -> Int64Array:
    """Return the block that belongs in each cell, int64 [height, width].

    Args:
        across: float64 [N, N], the cost of block j right of block i. The diagonal is ignored.
        down: float64 [N, N], the cost of block j below block i. The diagonal is ignored.
        shape: Height and width of the picture, in blocks.
        time_left: Asked between steps. The search ends early if it returns False.
        seed: Of the noise of later starts.
    """
    count = shape[0] * shape[1]
    if count == 1 or (count > QUICK_BLOCKS and not time_left()):
        return np.arange(count).reshape(shape)
    across, down = (np.array(costs, np.float64) for costs in (across, down))
    np.fill_diagonal(across, FORBIDDEN_COST)
    np.fill_diagonal(down, FORBIDDEN_COST)
    edges, margins = candidate_joins(across, down)
    scale = float(np.median(np.abs(margins)))
    rng = np.random.default_rng(seed)
    best, best_cost, agreeing = np.arange(count).reshape(shape), np.inf, 0
    for start in range(max(_LEAST_STARTS, min(_STARTS, _STARTS * _FEWER_STARTS_FROM // count))):
        allowed = margins < (0.0 if start % 2 == 0 else np.inf)
        # The first two starts take the joins in their order, later ones in an order with a little noise.
        noise = rng.normal(0.0, _NOISE * scale, len(margins)) if start > 1 else 0.0
        order = np.argsort((margins + noise)[allowed], kind="stable")
        cluster, row, column = grow_clusters(edges[allowed][order], count, *shape)
        grid = place_clusters(cluster, row, column, across, down, shape)
        grid = local_search(grid, across, down, time_left)
        cost = total_cost(grid, across, down)
        if cost < best_cost - 1e-6:
            best, best_cost, agreeing = grid, cost, 1
        else:
            agreeing += cost < best_cost + 1e-6
        if agreeing >= 2 or not time_left():  # two ways to the same picture: no third is needed
            break
    return best
