"""Distances laid out on a grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle import grid_layout as layout


def grid_distances(height: int, width: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances of shuffled grid points, saturating and noisy, and where each truly is."""
    rng = np.random.default_rng(seed)
    where = rng.permutation(height * width)
    row, column = np.divmod(where, width)
    far = np.hypot(row[:, None] - row, column[:, None] - column)
    values = far / (far + 3) + noise * rng.random(far.shape)
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0.0)
    return values, where


@pytest.mark.parametrize("side", [2, 3, 4, 5, 8, 11])
def test_lay_out_finds_a_square_grid(side):
    values, where = grid_distances(side, side, 0.05, side)
    found = layout.lay_out(values, side, side)
    assert any((turn[found] == where).all() for turn in layout.symmetries(side))


def test_lay_out_finds_a_longer_grid():
    values, where = grid_distances(5, 9, 0.05, 3)
    found = layout.lay_out(values, 5, 9).reshape(-1)
    cells = np.arange(45).reshape(5, 9)
    turns = [cells, cells[::-1], cells[:, ::-1], cells[::-1, ::-1]]
    assert any((turn.ravel()[found] == where).all() for turn in turns)


def test_lay_out_reaches_the_best_cost_of_all_orders():
    rng = np.random.default_rng(5)
    for _ in range(5):
        values = rng.random((6, 6))
        values += values.T
        np.fill_diagonal(values, 0.0)
        kernel = layout.grid_kernel(2, 3)
        orders = itertools.permutations(range(6))
        best = min(layout.cost(values, kernel, np.array(order)) for order in orders)
        assert layout.cost(values, kernel, layout.lay_out(values, 2, 3)) == pytest.approx(best)


def test_swap_down_stops_where_no_swap_helps():
    values, _ = grid_distances(4, 4, 1.0, 2)
    kernel, start = layout.grid_kernel(4, 4), np.arange(16)
    found = layout.swap_down(values, kernel, start)
    reached = layout.cost(values, kernel, found)
    assert reached < layout.cost(values, kernel, start)
    assert start.tolist() == list(range(16))
    for a, b in itertools.combinations(range(16), 2):
        swapped = found.copy()
        swapped[[a, b]] = swapped[[b, a]]
        assert layout.cost(values, kernel, swapped) > reached - 1e-6


def test_path_lengths_of_two_islands_are_none():
    points = np.array([0.0, 1.0, 2.0, 100.0, 101.0, 102.0])
    far = np.abs(points[:, None] - points)
    assert layout.path_lengths(far, 2) is None
    lengths = layout.path_lengths(far[:3, :3], 1)
    assert lengths is not None and lengths[0, 2] == pytest.approx(lengths[0, 1] + lengths[1, 2])


def test_scale_gives_back_flat_distances():
    points = np.random.default_rng(0).random((12, 2))
    far = np.linalg.norm(points[:, None] - points, axis=-1)
    laid = layout.scale(far)
    assert np.allclose(np.linalg.norm(laid[:, None] - laid, axis=-1), far)


def test_lay_out_without_time_still_places_everything():
    values, _ = grid_distances(4, 4, 0.05, 2)
    assert sorted(layout.lay_out(values, 4, 4, time_left=lambda: False)) == list(range(16))


def test_symmetries_are_eight_and_keep_neighbours():
    turns = layout.symmetries(3)
    assert len({tuple(turn) for turn in turns}) == 8
    kernel = layout.grid_kernel(3, 3)
    for turn in turns:
        assert np.allclose(kernel[np.ix_(turn, turn)], kernel)
