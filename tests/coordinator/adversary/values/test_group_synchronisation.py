"""Labels from relations: small graphs against exhaustive search, large ones against planted labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.values.group_synchronisation import (
    PERMUTATIONS,
    SIGNS,
    Group,
    grid_edges,
    synchronise,
    total_cost,
)
from crypto.symmetry import COLOUR_ORDERS

GROUPS = {"signs": SIGNS, "permutations": PERMUTATIONS}


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_the_groups_are_groups(group: Group) -> None:
    size = len(group.product)
    elements = range(size)
    assert (group.product[0] == np.arange(size)).all() and (group.product[:, 0] == np.arange(size)).all()
    assert (group.product[np.arange(size), group.inverse] == 0).all()
    for a, b, c in itertools.product(elements, repeat=3):
        assert group.product[group.product[a, b], c] == group.product[a, group.product[b, c]]


def test_permutations_multiply_as_documented() -> None:
    for a, b in itertools.product(range(6), repeat=2):
        assert (COLOUR_ORDERS[PERMUTATIONS.product[a, b]] == COLOUR_ORDERS[a][COLOUR_ORDERS[b]]).all()


@pytest.mark.parametrize("mixed", [False, True])
def test_edges_are_the_neighbours(mixed: bool) -> None:
    height, width, channels = 3, 4, 3
    expected = set()
    cells = list(itertools.product(range(height), range(width), range(channels)))
    for p, q in itertools.combinations(range(len(cells)), 2):
        (y, x, c), (v, u, d) = cells[p], cells[q]
        near = max(abs(y - v), abs(x - u)) == 1 and (mixed or c == d)
        if near or (y, x) == (v, u):
            expected.add((p, q))
    i, j = grid_edges(height, width, channels, mixed)
    edges = [tuple(sorted(pair)) for pair in zip(i.tolist(), j.tolist(), strict=True)]
    assert len(edges) == len(set(edges)) and set(edges) == expected


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("seed", range(6))
def test_small_graphs_come_close_to_the_least_total(group: Group, seed: int) -> None:
    i, j = grid_edges(2, 3, 1, False)
    size = len(group.product)
    costs = np.random.default_rng(seed).uniform(0, 1, (len(i), size)).astype(np.float32)
    labels = synchronise(i, j, costs, 6, group)
    assert labels[0] == 0
    rest = itertools.product(range(size), repeat=5)
    all_totals = [total_cost(i, j, costs, np.array([0, *others]), group) for others in rest]
    reached = total_cost(i, j, costs, labels, group)
    # Arbitrary costs are the hardest case: among the best labellings, not always the best one.
    assert np.mean(np.array(all_totals) < reached - 1e-6) <= 0.02


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_planted_labels_are_recovered_through_wrong_edges(group: Group) -> None:
    """As in pools, wrong relations are mostly the unsure ones."""
    rng = np.random.default_rng(1)
    i, j = grid_edges(30, 40, 1, False)
    truth = rng.integers(0, len(group.product), 1200)
    relation = group.product[truth[j], group.inverse[truth[i]]]
    wrong = rng.random(len(i)) < 0.12
    relation[wrong] = rng.integers(0, len(group.product), wrong.sum())
    costs = rng.uniform(0.2, 1.5, (len(i), len(group.product))).astype(np.float32)
    costs[wrong] *= 0.4
    costs[np.arange(len(i)), relation] = 0.0
    labels = synchronise(i, j, costs, 1200, group)
    # A corner has three neighbours: two wrong edges there are beyond repair, and cheaper than the truth.
    assert total_cost(i, j, costs, labels, group) <= total_cost(i, j, costs, truth, group) + 1e-3
    assert (labels == group.product[truth, group.inverse[truth[0]]]).mean() > 0.99


def test_a_wrong_bridge_is_repaired_by_changing_a_branch() -> None:
    """Two halves joined by one strong wrong edge and many weak right ones: no single change helps."""
    i, j = grid_edges(8, 8, 1, False)
    costs = np.tile(np.array([0.0, 5.0], np.float32), (len(i), 1))
    bridge = (i // 8 == 3) & (j // 8 == 4)
    costs[bridge] = [0.0, 1.0]
    costs[np.flatnonzero(bridge)[0]] = [6.0, 0.0]
    assert (synchronise(i, j, costs, 64, SIGNS) == 0).all()


def test_labels_times_an_element_cost_the_same_and_time_may_run_out() -> None:
    rng = np.random.default_rng(2)
    i, j = grid_edges(5, 5, 1, False)
    costs = rng.uniform(0, 1, (len(i), 6)).astype(np.float32)
    labels = synchronise(i, j, costs, 25, PERMUTATIONS, lambda: False)
    assert labels.shape == (25,) and labels.min() >= 0 and labels.max() < 6
    for element in range(6):
        moved = PERMUTATIONS.product[labels, element]
        assert total_cost(i, j, costs, moved, PERMUTATIONS) == pytest.approx(
            total_cost(i, j, costs, labels, PERMUTATIONS)
        )
    assert synchronise(i[:0], j[:0], costs[:0], 1, SIGNS).tolist() == [0]
