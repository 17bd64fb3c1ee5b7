"""Distances laid out on a grid, and the swaps of quadratic assignment that this takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle.grid_layout import (
    classical_scaling,
    grid_kernel,
    grid_symmetries,
    lay_out,
    path_lengths,
)
from coordinator.adversary.puzzle.qap import assignment_cost, swap_descent
from crypto.arrays import Float64Array, Int64Array


def grid_distances(height: int, width: int, noise: float, seed: int) -> tuple[Float64Array, Int64Array]:
    """Return distances of shuffled grid points, saturating and noisy, and the true cell of each."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(height * width)
    row, column = np.divmod(cells, width)
    pixels = np.hypot(row[:, None] - row, column[:, None] - column)
    values = pixels / (pixels + 3) + noise * rng.random(pixels.shape)
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0.0)
    return values, cells


@pytest.mark.parametrize("side", [2, 3, 4, 5, 8, 11])
def test_lay_out_recovers_a_square_grid(side: int) -> None:
    values, truth = grid_distances(side, side, 0.05, side)
    places = lay_out(values, side, side)
    assert any((turn[places] == truth).all() for turn in grid_symmetries(side))


def test_lay_out_recovers_a_longer_grid() -> None:
    values, truth = grid_distances(5, 9, 0.05, 3)
    places = lay_out(values, 5, 9).reshape(-1)
    cells = np.arange(45).reshape(5, 9)
    turns = [cells, cells[::-1], cells[:, ::-1], cells[::-1, ::-1]]
    assert any((turn.ravel()[places] == truth).all() for turn in turns)


def test_lay_out_reaches_the_best_cost_of_all_orders() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        values = rng.random((6, 6))
        values += values.T
        np.fill_diagonal(values, 0.0)
        kernel = grid_kernel(2, 3)
        orders = itertools.permutations(range(6))
        best = min(assignment_cost(values, kernel, np.array(order)) for order in orders)
        assert assignment_cost(values, kernel, lay_out(values, 2, 3)) == pytest.approx(best)


def test_swap_descent_stops_where_no_swap_helps() -> None:
    values, _ = grid_distances(4, 4, 1.0, 2)
    kernel, start = grid_kernel(4, 4), np.arange(16)
    places = swap_descent(values, kernel, start)
    reached = assignment_cost(values, kernel, places)
    assert reached < assignment_cost(values, kernel, start)
    assert start.tolist() == list(range(16))
    for a, b in itertools.combinations(range(16), 2):
        swapped = places.copy()
        swapped[[a, b]] = swapped[[b, a]]
        assert assignment_cost(values, kernel, swapped) > reached - 1e-6


def test_path_lengths_of_two_islands_are_none() -> None:
    points = np.array([0.0, 1.0, 2.0, 100.0, 101.0, 102.0])
    distances = np.abs(points[:, None] - points)
    assert path_lengths(distances, 2) is None
    lengths = path_lengths(distances[:3, :3], 1)
    assert lengths is not None and lengths[0, 2] == pytest.approx(lengths[0, 1] + lengths[1, 2])


def test_classical_scaling_keeps_flat_distances() -> None:
    points = np.random.default_rng(0).random((12, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    scaled = classical_scaling(distances)
    assert np.allclose(np.linalg.norm(scaled[:, None] - scaled, axis=-1), distances)


@pytest.mark.parametrize("size", [16, 64])
def test_points_that_are_all_equally_far_are_scaled(size: int) -> None:
    for length in np.geomspace(0.1, 1e5, 40):
        points = classical_scaling(length * (1 - np.eye(size)))
        assert points.shape == (size, 2)
        assert np.allclose((points**2).sum(0), length**2 / 2)


def test_lay_out_without_time_still_places_everything() -> None:
    values, _ = grid_distances(4, 4, 0.05, 2)
    assert sorted(lay_out(values, 4, 4, time_left=lambda: False)) == list(range(16))


def test_symmetries_are_eight_and_keep_neighbours() -> None:
    turns = grid_symmetries(3)
    assert len({tuple(turn) for turn in turns}) == 8
    kernel = grid_kernel(3, 3)
    for turn in turns:
        assert np.allclose(kernel[np.ix_(turn, turn)], kernel)
