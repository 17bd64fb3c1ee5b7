"""The local search on an assembled picture: each step against loops or all alternatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.adversary.puzzle.assembly import FORBIDDEN_COST
from coordinator.adversary.puzzle.swap_search import (
    best_shift,
    cell_costs,
    reassign_cells,
    shift_bands,
    swap_pairs,
    total_cost,
)
from crypto.arrays import Float64Array, Int64Array
from tests.support.puzzles import planted_costs, random_costs, summed_cost


def test_total_cost_against_loops() -> None:
    across, down = random_costs(12, 0)
    grid = np.random.default_rng(1).permutation(12).reshape(3, 4)
    assert total_cost(grid, across, down) == pytest.approx(summed_cost(grid, across, down))


def test_cell_costs_against_loops() -> None:
    across, down = random_costs(12, 3)
    grid = np.random.default_rng(4).permutation(12).reshape(3, 4)
    cells = np.array([0, 5, 11])
    costs = cell_costs(grid, cells, grid.ravel()[cells], across, down)
    without = np.where(np.isin(np.arange(12), cells), -1, grid.ravel()).reshape(3, 4)
    for which, cell in enumerate(cells):
        y, x = divmod(int(cell), 4)
        expected = 0.0
        for dy, dx, table in ((0, 1, across), (1, 0, down)):
            block = grid[y, x]
            if y + dy < 3 and x + dx < 4:
                expected += table[block, without[y + dy, x + dx]]
            if y - dy >= 0 and x - dx >= 0:
                expected += table[without[y - dy, x - dx], block]
        assert costs[which, which] == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 5), (3, 4), (4, 3), (5, 1)])
def test_best_shift_is_the_best_of_all_shifts(shape: tuple[int, int]) -> None:
    for seed in range(5):
        across, down = random_costs(shape[0] * shape[1], seed)
        for costs in (across, down):
            np.fill_diagonal(costs, FORBIDDEN_COST)
        grid = np.random.default_rng(seed).permutation(shape[0] * shape[1]).reshape(shape)
        shifts = itertools.product(range(shape[0]), range(shape[1]))
        best = min(summed_cost(np.roll(grid, shift, (0, 1)), across, down) for shift in shifts)
        shifted = best_shift(grid, across, down)
        assert summed_cost(shifted, across, down) == pytest.approx(best)


@pytest.mark.parametrize("step", [swap_pairs, shift_bands])
def test_steps_lower_the_cost_and_lose_no_block(
    step: Callable[[Int64Array, Float64Array, Float64Array], int],
) -> None:
    across, down = random_costs(30, 7)
    grid = np.random.default_rng(8).permutation(30).reshape(5, 6)
    before = summed_cost(grid, across, down)
    assert step(grid, across, down) > 0
    assert summed_cost(grid, across, down) < before
    assert sorted(grid.ravel()) == list(range(30))


def test_swap_pairs_ends_where_no_distant_swap_helps() -> None:
    across, down = random_costs(20, 9)
    grid = np.arange(20).reshape(4, 5).copy()
    while swap_pairs(grid, across, down):
        pass
    reached = summed_cost(grid, across, down)
    for a, b in itertools.combinations(range(20), 2):
        if abs(a // 5 - b // 5) + abs(a % 5 - b % 5) > 1:
            swapped = grid.ravel().copy()
            swapped[[a, b]] = swapped[[b, a]]
            assert summed_cost(swapped.reshape(4, 5), across, down) > reached - 1e-5


def test_shift_bands_puts_a_shifted_band_back() -> None:
    truth, across, down = planted_costs((6, 7), 0.1, 1)
    grid = truth.copy()
    grid[2:4] = np.roll(grid[2:4], 3, 1)
    shift_bands(grid, across, down)
    assert (grid == truth).all()


def test_reassign_cells_puts_blocks_back_that_do_not_touch() -> None:
    truth, across, down = planted_costs((6, 7), 0.1, 2)
    cells = np.array([0, 2, 9, 18, 30, 41])
    grid = truth.copy()
    grid.ravel()[cells] = np.roll(grid.ravel()[cells], 1)
    assert (reassign_cells(grid, cells, across, down) == truth).all()
