"""Exchanges that lower the cost of an assembled picture, until none is left.

Four kinds, each made only where it lowers the sum of all seams: many blocks dealt anew at once (a linear
assignment over cells that do not touch), two blocks swapped, a band of rows or columns shifted, and the
whole picture shifted, which moves its border to where seams cost most.

Costs: across[i, j] is the cost of block j standing right of block i, down[i, j] that of j below i, any
real numbers, lower being better; 0 stands for a side at the border of the picture.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.time_budget import TimeLeft, always

#: Least gain for which anything is exchanged.
_GAIN = 1e-6


def cell_costs(
    grid: np.ndarray, cells: np.ndarray, blocks: np.ndarray, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """float64 [cells, blocks]: what each block costs on each flat cell, beside its neighbours in the grid.

    Cells that hold -1 are empty and cost nothing.
    """
    height, width = grid.shape
    framed = np.full((height + 2, width + 2), -1, np.int64)
    framed[1:-1, 1:-1] = grid
    y, x = np.divmod(cells, width)
    total = np.zeros((len(cells), len(blocks)))
    for costs, dy, dx in ((across.T, 0, -1), (across, 0, 1), (down.T, -1, 0), (down, 1, 0)):
        beside = framed[y + 1 + dy, x + 1 + dx]
        # costs[block, neighbour]: across.T[p, left] = across[left, p].
        total += np.where(beside[:, None] >= 0, costs[np.ix_(blocks, np.maximum(beside, 0))].T, 0.0)
    return total


def total_cost(grid: np.ndarray, across: np.ndarray, down: np.ndarray) -> float:
    """The sum of the costs of all seams of the grid."""
    beside, below = across[grid[:, :-1], grid[:, 1:]], down[grid[:-1], grid[1:]]
    return float(beside.sum() + below.sum())


def best_cut(grid: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The cyclic shift of the grid at the least total cost: the border runs where seams cost most."""
    rows = down[grid, np.roll(grid, -1, 0)].sum(1)  # the seam under each row; the last one wraps
    columns = across[grid, np.roll(grid, -1, 1)].sum(0)
    # Shifts that cost the same to the last digit leave the grid as it is.
    y = -1 if rows[-1] >= rows.max() - 1e-9 else int(rows.argmax())
    x = -1 if columns[-1] >= columns.max() - 1e-9 else int(columns.argmax())
    return np.roll(grid, (-1 - y, -1 - x), (0, 1))


@numba.njit(cache=True)
def _cost_at(framed: np.ndarray, y: int, x: int, tables: np.ndarray) -> float:
    """What the block in a cell costs there, beside its neighbours."""
    p = framed[y, x]
    return float(
        tables[1, p, framed[y, x - 1]]
        + tables[0, p, framed[y, x + 1]]
        + tables[3, p, framed[y - 1, x]]
        + tables[2, p, framed[y + 1, x]]
    )


@numba.njit(cache=True)
def _price(framed: np.ndarray, a: int, tables: np.ndarray, here: np.ndarray, elsewhere: np.ndarray) -> None:
    """here[q]: what block q would cost in cell a. elsewhere[b]: what a's block would cost in cell b."""
    height, width = framed.shape[0] - 2, framed.shape[1] - 2
    y, x = a // width + 1, a % width + 1
    count = len(here)
    # Rows of one table each: the neighbour's, read along the candidates.
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


@numba.njit(cache=True)
def swap_pairs(grid: np.ndarray, across: np.ndarray, down: np.ndarray) -> int:
    """One pass over the pairs of cells, swapping two blocks where that lowers the cost → swaps made."""
    height, width = grid.shape
    count = height * width
    # The frame is one block more, which costs nothing beside any other.
    tables = np.zeros((4, count + 1, count + 1))
    tables[0, :count, :count], tables[1, :count, :count] = across, across.T
    tables[2, :count, :count], tables[3, :count, :count] = down, down.T
    framed = np.full((height + 2, width + 2), count)
    framed[1:-1, 1:-1] = grid
    here, elsewhere = np.empty(count), np.empty(count)
    held = np.empty(count)  # what the block in each cell costs there
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            held[(y - 1) * width + x - 1] = _cost_at(framed, y, x, tables)
    made = 0
    for a in range(count):
        ya, xa = a // width, a % width
        _price(framed, a, tables, here, elsewhere)
        for b in range(a):
            if here[framed[b // width + 1, b % width + 1]] + elsewhere[b] >= held[a] + held[b] - _GAIN:
                continue
            yb, xb = b // width, b % width
            if abs(ya - yb) + abs(xa - xb) == 1:
                continue  # they share a seam: left to the assignment step
            p, q = framed[ya + 1, xa + 1], framed[yb + 1, xb + 1]
            framed[ya + 1, xa + 1], framed[yb + 1, xb + 1] = q, p
            made += 1
            _price(framed, a, tables, here, elsewhere)
            for y, x in ((ya + 1, xa + 1), (yb + 1, xb + 1)):
                for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)):
                    v, u = y + dy, x + dx
                    if framed[v, u] < count:
                        held[(v - 1) * width + u - 1] = _cost_at(framed, v, u, tables)
    grid[:] = framed[1:-1, 1:-1]
    return made


@numba.njit(cache=True)
def shift_bands(grid: np.ndarray, across: np.ndarray, down: np.ndarray) -> int:
    """One pass over the bands of rows and their cyclic shifts, each made where it lowers the cost → made."""
    height, width = grid.shape
    made = 0
    for top in range(height):
        for bottom in range(top, height):
            for step in range(1, width):
                change = 0.0
                for y in range(top, bottom + 1):
                    # The seam that the shift cuts open, and the one that it closes.
                    change += (
                        across[grid[y, width - 1], grid[y, 0]] - across[grid[y, step - 1], grid[y, step]]
                    )
                for x in range(width):
                    moved = (x + step) % width
                    if top > 0:
                        above = grid[top - 1, x]
                        change += down[above, grid[top, moved]] - down[above, grid[top, x]]
                    if bottom < height - 1:
                        below = grid[bottom + 1, x]
                        change += down[grid[bottom, moved], below] - down[grid[bottom, x], below]
                if change < -_GAIN:
                    for y in range(top, bottom + 1):
                        grid[y] = np.concatenate((grid[y, step:], grid[y, :step]))
                    made += 1
    return made


def redeal(grid: np.ndarray, cells: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The grid with the blocks on these flat cells (no two touching) dealt anew at the least cost."""
    blocks = grid.ravel()[cells]
    costs = cell_costs(grid, cells, blocks, across, down)
    out = grid.copy()
    out.ravel()[cells] = blocks[linear_sum_assignment(costs)[1]]
    return out


def polish(
    grid: np.ndarray,
    across: np.ndarray,
    down: np.ndarray,
    time_left: TimeLeft = always,
    rounds: int = 12,
) -> np.ndarray:
    """int64 [height, width], the grid after exchanges that each lower the cost, until none is left."""
    grid = np.array(grid, np.int64)
    y, x = np.divmod(np.arange(grid.size), grid.shape[1])
    reached = total_cost(grid, across, down)
    for _ in range(rounds):
        if not time_left():
            break
        # Each of these steps takes a second with thousands of blocks, and lowers the cost by itself.
        for colour in (0, 1):
            if time_left():
                grid = redeal(grid, np.flatnonzero((y + x) % 2 == colour), across, down)
        if time_left():
            swap_pairs(grid, across, down)
        if time_left():
            shift_bands(grid, across, down)
        if time_left():
            turned = np.ascontiguousarray(grid.T)  # across and down change roles
            shift_bands(turned, down, across)
            grid = np.ascontiguousarray(turned.T)
        grid = best_cut(grid, across, down)
        now = total_cost(grid, across, down)
        if now > reached - _GAIN:
            break
        reached = now
    return grid
