"""Seams assembled to one picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle.assembly import FORBIDDEN_COST, LEAST_SEAM_FIT, assemble, seam_fit
from coordinator.adversary.puzzle.constrained_tree import candidate_joins, grow_clusters
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from coordinator.adversary.puzzle.swap_search import total_cost
from crypto.kernels.blocks import block_pixels
from tests.support.pictures import smooth
from tests.support.puzzles import planted_costs, random_costs, summed_cost


def test_candidate_joins_carry_their_margins_and_directions() -> None:
    _, across, down = planted_costs((3, 3), 0.2, 0)
    for costs in (across, down):
        np.fill_diagonal(costs, FORBIDDEN_COST)
    edges, margins = candidate_joins(across, down)
    for (i, j, direction), margin in zip(edges, margins, strict=True):
        costs = down if direction else across
        others = np.concatenate([np.delete(costs[i], [i, j]), np.delete(costs[:, j], [i, j])])
        assert margin == pytest.approx(costs[i, j] - others.min())


def test_grow_clusters_refuses_overlaps_and_what_leaves_the_frame() -> None:
    right = [0, 1, 0]
    cluster, row, column = grow_clusters(np.array([right, [1, 2, 0], [2, 3, 0]]), 4, 2, 3)
    assert cluster[0] == cluster[1] == cluster[2] != cluster[3]  # a fourth in a row does not fit in three
    assert (np.diff(column[:3]) == 1).all() and (np.diff(row[:3]) == 0).all()
    cluster, _, _ = grow_clusters(np.array([right, [0, 2, 0]]), 3, 3, 3)
    assert cluster[0] == cluster[1] != cluster[2]  # two blocks right of block 0
    edges = np.array([right, [2, 3, 0], [0, 2, 1], [1, 3, 1]])
    cluster, row, column = grow_clusters(edges, 4, 2, 2)
    assert len(set(cluster)) == 1
    assert [(int(y - row[0]), int(x - column[0])) for y, x in zip(row, column, strict=True)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (6, 9), (12, 12)])
def test_assemble_recovers_the_planted_picture(shape: tuple[int, int]) -> None:
    truth, across, down = planted_costs(shape, 0.5, shape[0])
    assert (assemble(across, down, shape) == truth).all()


def test_assemble_comes_near_the_cheapest_of_all_orders() -> None:
    for seed in range(4):
        across, down = random_costs(6, seed)
        cost = total_cost(assemble(across, down, (2, 3)), across, down)
        orders = (np.array(order).reshape(2, 3) for order in itertools.permutations(range(6)))
        all_costs = sorted(summed_cost(order, across, down) for order in orders)
        assert cost < all_costs[10]  # of 720, under costs that are noise alone


def test_assemble_of_equal_costs_and_without_time_is_a_permutation() -> None:
    flat = np.zeros((12, 12))
    assert sorted(assemble(flat, flat, (3, 4)).ravel()) == list(range(12))
    across, down = random_costs(12, 1)
    grid = assemble(across, down, (3, 4), time_left=lambda: False)
    assert sorted(grid.ravel()) == list(range(12))


def test_the_fit_of_a_picture_tells_a_right_one_from_a_shuffled_one() -> None:
    images = smooth(6, 48, 48, 1, seed=3)
    across, down = seam_costs(block_sides(images, block_pixels(48, 48, 8), 8), 36)
    grid = np.arange(36).reshape(6, 6)
    assert seam_fit(grid, across, down) > 0.9
    shuffled = np.random.default_rng(0).permutation(36).reshape(6, 6)
    assert seam_fit(shuffled, across, down) < 0.5
    noise = np.random.default_rng(1).integers(0, 256, (6, 48, 48, 1)).astype(np.uint8)
    across, down = seam_costs(block_sides(noise, block_pixels(48, 48, 8), 8), 36)
    assert seam_fit(assemble(across, down, (6, 6)), across, down) < LEAST_SEAM_FIT
    assert seam_fit(grid, np.zeros((36, 36)), np.zeros((36, 36))) == 0.0
