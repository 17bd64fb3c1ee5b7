"""Seams put together to one picture, and the local search on it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle import assembly as assemble
from coordinator.adversary.puzzle import swap_search as exchange


def random_costs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    across, down = np.random.default_rng(seed).normal(size=(2, count, count))
    return across, down


def naive_total(grid: np.ndarray, across: np.ndarray, down: np.ndarray) -> float:
    height, width = grid.shape
    total = 0.0
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                total += across[grid[y, x], grid[y, x + 1]]
            if y + 1 < height:
                total += down[grid[y, x], grid[y + 1, x]]
    return total


def test_total_cost_against_loops():
    across, down = random_costs(12, 0)
    grid = np.random.default_rng(1).permutation(12).reshape(3, 4)
    assert exchange.total_cost(grid, across, down) == pytest.approx(naive_total(grid, across, down))


def test_cell_costs_against_total_cost():
    across, down = random_costs(12, 3)
    grid = np.random.default_rng(4).permutation(12).reshape(3, 4)
    cells = np.array([0, 5, 11])
    costs = exchange.cell_costs(grid, cells, grid.ravel()[cells], across, down)
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
def test_best_cut_is_the_best_of_all_shifts(shape):
    for seed in range(5):
        across, down = random_costs(shape[0] * shape[1], seed)
        for costs in (across, down):
            np.fill_diagonal(costs, assemble.NEVER)
        grid = np.random.default_rng(seed).permutation(shape[0] * shape[1]).reshape(shape)
        shifts = itertools.product(range(shape[0]), range(shape[1]))
        best = min(naive_total(np.roll(grid, shift, (0, 1)), across, down) for shift in shifts)
        found = exchange.best_cut(grid, across, down)
        assert naive_total(found, across, down) == pytest.approx(best)


@pytest.mark.parametrize("step", [exchange.swap_pairs, exchange.shift_bands])
def test_steps_lower_the_cost_and_lose_no_block(step):
    across, down = random_costs(30, 7)
    grid = np.random.default_rng(8).permutation(30).reshape(5, 6)
    before = naive_total(grid, across, down)
    assert step(grid, across, down) > 0
    assert naive_total(grid, across, down) < before
    assert sorted(grid.ravel()) == list(range(30))


def test_swap_pairs_ends_where_no_distant_swap_helps():
    across, down = random_costs(20, 9)
    grid = np.arange(20).reshape(4, 5).copy()
    while exchange.swap_pairs(grid, across, down):
        pass
    reached = naive_total(grid, across, down)
    for a, b in itertools.combinations(range(20), 2):
        if abs(a // 5 - b // 5) + abs(a % 5 - b % 5) > 1:
            swapped = grid.ravel().copy()
            swapped[[a, b]] = swapped[[b, a]]
            assert naive_total(swapped.reshape(4, 5), across, down) > reached - 1e-5


def planted(shape: tuple[int, int], noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A true grid of blocks, and costs under which its seams are mostly, not always, the best."""
    rng = np.random.default_rng(seed)
    count = shape[0] * shape[1]
    truth = rng.permutation(count).reshape(shape)
    across, down = noise * rng.normal(size=(2, count, count))
    across[truth[:, :-1], truth[:, 1:]] -= 3.0
    down[truth[:-1], truth[1:]] -= 3.0
    return truth, across, down


def test_shift_bands_puts_a_shifted_band_back():
    truth, across, down = planted((6, 7), 0.1, 1)
    grid = truth.copy()
    grid[2:4] = np.roll(grid[2:4], 3, 1)
    exchange.shift_bands(grid, across, down)
    assert (grid == truth).all()


def test_redeal_puts_untouching_cells_back():
    truth, across, down = planted((6, 7), 0.1, 2)
    cells = np.array([0, 2, 9, 18, 30, 41])
    grid = truth.copy()
    grid.ravel()[cells] = np.roll(grid.ravel()[cells], 1)
    assert (exchange.redeal(grid, cells, across, down) == truth).all()


def test_joins_come_surest_first_and_say_which_way():
    _, across, down = planted((3, 3), 0.2, 0)
    for costs in (across, down):
        np.fill_diagonal(costs, assemble.NEVER)
    edges, margins = assemble.joins(across, down)
    for (i, j, direction), margin in zip(edges, margins, strict=True):
        costs = down if direction else across
        others = np.concatenate([np.delete(costs[i], [i, j]), np.delete(costs[:, j], [i, j])])
        assert margin == pytest.approx(costs[i, j] - others.min())


def test_grow_refuses_overlaps_and_what_leaves_the_frame():
    right = [0, 1, 0]
    cluster, row, column = assemble.grow(np.array([right, [1, 2, 0], [2, 3, 0]]), 4, 2, 3)
    assert cluster[0] == cluster[1] == cluster[2] != cluster[3]  # a fourth in a row does not fit in three
    assert (np.diff(column[:3]) == 1).all() and (np.diff(row[:3]) == 0).all()
    cluster, _, _ = assemble.grow(np.array([right, [0, 2, 0]]), 3, 3, 3)
    assert cluster[0] == cluster[1] != cluster[2]  # two blocks right of block 0
    edges = np.array([right, [2, 3, 0], [0, 2, 1], [1, 3, 1]])
    cluster, row, column = assemble.grow(edges, 4, 2, 2)
    assert len(set(cluster)) == 1
    assert [(int(y - row[0]), int(x - column[0])) for y, x in zip(row, column, strict=True)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (6, 9), (12, 12)])
def test_assemble_finds_the_planted_picture(shape):
    truth, across, down = planted(shape, 0.5, shape[0])
    assert (assemble.assemble(across, down, shape) == truth).all()


def test_assemble_reaches_the_cheapest_of_all_orders():
    for seed in range(4):
        across, down = random_costs(6, seed)
        found = exchange.total_cost(assemble.assemble(across, down, (2, 3)), across, down)
        orders = (np.array(order).reshape(2, 3) for order in itertools.permutations(range(6)))
        every = sorted(naive_total(order, across, down) for order in orders)
        assert found < every[10]  # of 720, under costs that are noise alone


def test_assemble_of_equal_costs_and_without_time_is_a_permutation():
    flat = np.zeros((12, 12))
    assert sorted(assemble.assemble(flat, flat, (3, 4)).ravel()) == list(range(12))
    across, down = random_costs(12, 1)
    found = assemble.assemble(across, down, (3, 4), time_left=lambda: False)
    assert sorted(found.ravel()) == list(range(12))
