"""Position against position over a pool."""

from __future__ import annotations

import itertools

import numpy as np

from coordinator.adversary.puzzle.distances import position_distances, saturate, textured_rows


def test_position_distances_against_loops() -> None:
    parts = np.random.default_rng(1).integers(0, 256, (7, 5, 3), np.uint8)
    expected = np.zeros((5, 5))
    for k, other in itertools.product(range(5), range(5)):
        for m, c in itertools.product(range(7), range(3)):
            d = abs(int(parts[m, k, c]) - int(parts[m, other, c]))
            expected[k, other] += d / (d + 8) / 21
    assert np.allclose(position_distances(parts), expected, atol=1e-6)


def test_position_distances_of_nothing_are_zero() -> None:
    assert (position_distances(np.zeros((0, 4, 1), np.uint8)) == 0).all()


def test_saturate_halves_at_eight() -> None:
    assert saturate(np.array([0, 8, -8])).tolist() == [0.0, 0.5, 0.5]


def test_textured_rows_takes_the_strong_first_and_never_the_constant() -> None:
    parts = np.full((30, 4, 1), 50, np.uint8)
    parts[3:8, 0] = 200  # strong
    parts[10:14, 0] = 53  # weak
    assert set(textured_rows(parts, 5)) == set(range(3, 8))
    assert set(textured_rows(parts, 7)) > set(range(3, 8))
    assert set(textured_rows(parts, 99)) == {*range(3, 8), *range(10, 14)}
    assert (textured_rows(parts, 3) == textured_rows(parts, 3)).all()
