"""Local search on an assembled picture: exchanges of blocks that lower its cost, until none is left.

There are four kinds of exchange, and each is made only if it lowers the sum of all seams: many blocks
reassigned at once (a linear assignment over cells that do not touch), two blocks swapped, a band of rows or
columns shifted, and the whole picture shifted, which moves its border to where seams cost most.

Costs: across[i, j] is the cost of block j standing right of block i, down[i, j] that of j below i. They may be any
real numbers, and lower is better. A side at the border of the picture costs 0.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float64Array, Int64Array

#: Least gain for which anything is exchanged: above the rounding errors of sums over thousands of seams.
_MIN_GAIN = 1e-6
#: Most rounds of all four exchanges. Set once by hand; no measurement is recorded.
_ROUNDS = 12


def cell_costs(
    grid: Int64Array, cells: Int64Array, blocks: Int64Array, across: Float64Array, down: Float64Array
) -> Float64Array:
    """Return what each block costs on each cell beside its neighbours in the grid, float64 [cells, blocks].

    Args:
        grid: int64 [height, width], the block in each cell. A cell that holds -1 is empty and costs nothing.
        cells: int64, flat cells.
        blocks: int64, the blocks to try there.
        across: float64 [N, N].
        down: float64 [N, N].
    """
    height, width = grid.shape
    framed = np.full((height + 2, width + 2), -1, np.int64)
    framed[1:-1, 1:-1] = grid
    y, x = np.divmod(cells, width)
    total = np.zeros((len(cells), len(blocks)))
    for costs, dy, dx in ((across.T, 0, -1), (across, 0, 1), (down.T, -1, 0), (down, 1, 0)):
        neighbour = framed[y + 1 + dy, x + 1 + dx]
        # costs[block, neighbour]: across.T[p, left] = across[left, p].
        table = costs[np.ix_(blocks, np.maximum(neighbour, 0))].T
        total += np.where(neighbour[:, None] >= 0, table, 0.0)
    return total


def total_cost(grid: Int64Array, across: Float64Array, down: Float64Array) -> float:
    """Return the sum of the costs of all seams of the grid."""
    across_seams, down_seams = across[grid[:, :-1], grid[:, 1:]], down[grid[:-1], grid[1:]]
    return float(across_seams.sum() + down_seams.sum())


def best_shift(grid: Int64Array, across: Float64Array, down: Float64Array) -> Int64Array:
    """Return the cyclic shift of the grid at the least total cost: its border runs where seams cost most."""
    rows = down[grid, np.roll(grid, -1, 0)].sum(1)  # the seam under each row; the last one wraps
    columns = across[grid, np.roll(grid, -1, 1)].sum(0)
    # Shifts that cost the same to the last digit leave the grid as it is.
    y = -1 if rows[-1] >= rows.max() - 1e-9 else int(rows.argmax())
    x = -1 if columns[-1] >= columns.max() - 1e-9 else int(columns.argmax())
    return np.roll(grid, (-1 - y, -1 - x), (0, 1))


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _cost_at(framed: Int64Array, y: int, x: int, tables: Float64Array) -> float:
    """Return what the block in a cell costs there, beside its neighbours."""
    p = framed[y, x]
    return float(
        tables[1, p, framed[y, x - 1]]
        + tables[0, p, framed[y, x + 1]]
        + tables[3, p, framed[y - 1, x]]
        + tables[2, p, framed[y + 1, x]]
    )


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _swap_costs(
    framed: Int64Array, a: int, tables: Float64Array, here: Float64Array, elsewhere: Float64Array
) -> None:
    """Write to here[q] the cost of block q in cell a, and to elsewhere[b] that of the block of a in cell b."""
    height, width = framed.shape[0] - 2, framed.shape[1] - 2
    y, x = a // width + 1, a % width + 1
    count = len(here)
    # One row of each table: the neighbour's, read along the candidates.
    left, right = tables[0, framed[y, x - 1]], tables[1, framed[y, x + 1]]
    above, below = tables[2, framed[y - 1, x]], tables[3, framed[y + 1, x]]
    for q in range(count):
        here[q] = left[q] + right[q] + above[q] + below[q]
    p = framed[y, x]
    for v in range(height):
        for u in range(width):
            elsewhere[v * width + u] = (
                tables[0, p, framed[v + 1, u + 2]]
                + tables[1, p, framed[v + 1, u]]
                + tables[2, p, framed[v + 2, u + 1]]
                + tables[3, p, framed[v, u + 1]]
            )


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def swap_pairs(grid: Int64Array, across: Float64Array, down: Float64Array) -> int:
    """Pass once over the pairs of cells, swap blocks in place if that lowers the cost, and return how many."""
    height, width = grid.shape
    count = height * width
    # The frame is one block more, which costs nothing beside any other.
    tables = np.zeros((4, count + 1, count + 1))
    tables[0, :count, :count], tables[1, :count, :count] = across, across.T
    tables[2, :count, :count], tables[3, :count, :count] = down, down.T
    framed = np.full((height + 2, width + 2), count)
    framed[1:-1, 1:-1] = grid
    here, elsewhere = np.empty(count), np.empty(count)
    current = np.empty(count)  # what the block in each cell costs there
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            current[(y - 1) * width + x - 1] = _cost_at(framed, y, x, tables)
    swaps = 0
    for a in range(count):
        ya, xa = a // width, a % width
        _swap_costs(framed, a, tables, here, elsewhere)
        for b in range(a):
            swapped_cost = here[framed[b // width + 1, b % width + 1]] + elsewhere[b]
            if swapped_cost >= current[a] + current[b] - _MIN_GAIN:
                continue
            yb, xb = b // width, b % width
            if abs(ya - yb) + abs(xa - xb) == 1:
                continue  # they share a seam: left to the assignment step
            p, q = framed[ya + 1, xa + 1], framed[yb + 1, xb + 1]
            framed[ya + 1, xa + 1], framed[yb + 1, xb + 1] = q, p
            swaps += 1
            _swap_costs(framed, a, tables, here, elsewhere)
            for y, x in ((ya + 1, xa + 1), (yb + 1, xb + 1)):
                for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)):
                    v, u = y + dy, x + dx
                    if framed[v, u] < count:
                        current[(v - 1) * width + u - 1] = _cost_at(framed, v, u, tables)
    grid[:] = framed[1:-1, 1:-1]
    return swaps


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _band_change(
    grid: Int64Array, across: Float64Array, down: Float64Array, top: int, bottom: int, step: int
) -> float:
    """Return how much the cost changes if the rows from top to bottom are shifted by `step` columns."""
    height, width = grid.shape
    change = 0.0
    for y in range(top, bottom + 1):
        # The seam that the shift cuts open, and the one that it closes.
        change += across[grid[y, width - 1], grid[y, 0]] - across[grid[y, step - 1], grid[y, step]]
    for x in range(width):
        moved = (x + step) % width
        if top > 0:
            above = grid[top - 1, x]
            change += down[above, grid[top, moved]] - down[above, grid[top, x]]
        if bottom < height - 1:
            below = grid[bottom + 1, x]
            change += down[grid[bottom, moved], below] - down[grid[bottom, x], below]
    return change


@numba.njit(cache=True)  # type: ignore[untyped-decorator] # numba has no types
def shift_bands(grid: Int64Array, across: Float64Array, down: Float64Array) -> int:
    """Pass once over the bands of rows, shift them in place if that lowers the cost, and return how many."""
    height, width = grid.shape
    shifts = 0
    for top in range(height):
        for bottom in range(top, height):
            for step in range(1, width):
                if _band_change(grid, across, down, top, bottom, step) < -_MIN_GAIN:
                    for y in range(top, bottom + 1):
                        grid[y] = np.concatenate((grid[y, step:], grid[y, :step]))
                    shifts += 1
    return shifts


def reassign_cells(
    grid: Int64Array, cells: Int64Array, across: Float64Array, down: Float64Array
) -> Int64Array:
    """Return the grid with the blocks of these flat cells reassigned at the least cost. No two cells may touch."""
    blocks = grid.ravel()[cells]
    costs = cell_costs(grid, cells, blocks, across, down)
    out = grid.copy()
    out.ravel()[cells] = blocks[linear_sum_assignment(costs)[1]]
    return out


def local_search(
    grid: Int64Array,
    across: Float64Array,
    down: Float64Array,
    time_left: TimeLeft = always,
    rounds: int = _ROUNDS,
) -> Int64Array:
    """Return the grid after exchanges that each lower the cost, until none is left.

    Args:
        grid: int64 [height, width], the block in each cell. It is left as it is.
        across: float64 [N, N].
        down: float64 [N, N].
        time_left: Asked before each kind of exchange.
        rounds: Most rounds of all kinds.
    """
    grid = np.array(grid, np.int64)
    y, x = np.divmod(np.arange(grid.size), grid.shape[1])
    best_cost = total_cost(grid, across, down)
    for _ in range(rounds):
        if not time_left():
            break
        # Each of these steps takes a second with thousands of blocks, and lowers the cost by itself.
        for colour in (0, 1):
            if time_left():
                grid = reassign_cells(grid, np.flatnonzero((y + x) % 2 == colour), across, down)
        if time_left():
            swap_pairs(grid, across, down)
        if time_left():
            shift_bands(grid, across, down)
        if time_left():
            transposed = np.ascontiguousarray(grid.T)  # across and down change roles
            shift_bands(transposed, down, across)
            grid = np.ascontiguousarray(transposed.T)
        grid = best_shift(grid, across, down)
        cost = total_cost(grid, across, down)
        if cost > best_cost - _MIN_GAIN:
            break
        best_cost = cost
    return grid
