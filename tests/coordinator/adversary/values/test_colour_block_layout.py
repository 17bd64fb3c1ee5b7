"""The values of a colour block, divided by component and laid out."""

from __future__ import annotations

import itertools

import numpy as np

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.values.colour_block_layout import (
    group_triples,
    lay_out_values,
    opposed_components,
    split_components,
)
from crypto.arrays import Float64Array
from tests.support.pictures import coloured_texture


def test_colour_values_fall_into_their_components() -> None:
    rng = np.random.default_rng(3)
    row, column = np.divmod(np.arange(36), 6)
    away = np.hypot(row[:, None] - row, column[:, None] - column)
    near = np.kron(1 - np.eye(3), np.ones((36, 36))) * 9 + np.tile(away, (3, 3))
    true = rng.permutation(108)
    sealed = near[np.ix_(true, true)]
    member, cell = lay_out_values(sealed, 6, split_components(sealed, 36))
    assert all(len(set(true[own] // 36)) == 1 for own in member)
    places = np.concatenate([[true[own] % 36 for own in member]])
    assert max((turned[cell] == places).mean() for turned in grid_symmetries(6)) > 0.95


def test_a_component_that_rises_while_the_others_fall_is_negated() -> None:
    """In stained tissue green is dark: nearer to the negative of red than to red, and yet it goes with it."""
    plain = coloured_texture(40, (200, 90, 170), (30, 45, 35), 1.5, own=0.5, seed=3)[:, :4, :4]
    values = plain.transpose(3, 1, 2, 0).reshape(3, 16, 40)
    for negated in itertools.product((False, True), repeat=3):
        signed = np.where(np.array(negated)[:, None, None], 255 - values, values)
        assert (opposed_components(signed) == np.array(negated) ^ negated[0]).all()


def test_gray_kept_as_colour_falls_into_threes() -> None:
    values = np.repeat(np.arange(12) * 10.0, 3)
    distances: Float64Array = abs(values[:, None] - values)
    assert split_components(distances, 12) is None
    found_threes = group_triples(distances)
    assert sorted(found_threes.ravel()) == list(range(36))
    assert (np.ptp(values[found_threes], axis=0) == 0).all()
