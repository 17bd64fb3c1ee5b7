"""The values of a colour block, divided by component and laid out."""

from __future__ import annotations

import numpy as np

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.values.colour_block_layout import group_triples, lay_out_values, split_components
from crypto.arrays import Float64Array


def test_colour_values_fall_into_their_components() -> None:
    rng = np.random.default_rng(3)
    row, column = np.divmod(np.arange(36), 6)
    away = np.hypot(row[:, None] - row, column[:, None] - column)
    near = np.kron(1 - np.eye(3), np.ones((36, 36))) * 9 + np.tile(away, (3, 3))
    true = rng.permutation(108)
    member, cell = lay_out_values(near[np.ix_(true, true)], 6)
    assert all(len(set(true[own] // 36)) == 1 for own in member)
    places = np.concatenate([[true[own] % 36 for own in member]])
    assert max((turned[cell] == places).mean() for turned in grid_symmetries(6)) > 0.95


def test_gray_kept_as_colour_falls_into_threes() -> None:
    values = np.repeat(np.arange(12) * 10.0, 3)
    distances: Float64Array = abs(values[:, None] - values)
    assert split_components(distances, 12) is None
    found_threes = group_triples(distances)
    assert sorted(found_threes.ravel()) == list(range(36))
    assert (np.ptp(values[found_threes], axis=0) == 0).all()
