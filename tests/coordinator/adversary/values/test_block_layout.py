"""The values of one block, laid out alone and beside its neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.values.block_layout import (
    lay_out_block,
    nearest_distances,
    neighbour_costs,
    orient_layout,
    side_costs,
)
from crypto.arrays import Float32Array


def test_a_block_alone_is_laid_out_up_to_symmetries() -> None:
    rng = np.random.default_rng(2)
    row, column = np.divmod(np.arange(64), 8)
    true = rng.permutation(64)
    away = np.hypot(row[:, None] - row, column[:, None] - column)
    cells = lay_out_block((away / (away + 3))[np.ix_(true, true)], 8)
    assert max((turned[cells] == true).mean() for turned in grid_symmetries(8)) == 1.0


def test_nearest_is_the_least_of_a_loop() -> None:
    rng = np.random.default_rng(6)
    first, second = (rng.integers(0, 256, (k, 4), dtype=np.uint8) for k in (5, 7))
    for way, other in enumerate((second.astype(float), 255.0 - second)):
        gaps = np.log1p(abs(first[:, None].astype(float) - other)).mean(2).min(1)
        np.testing.assert_allclose(nearest_distances(first, second)[way], gaps, rtol=1e-5)


def test_values_lean_towards_the_neighbour_they_are_like() -> None:
    row, column = np.divmod(np.arange(16), 4)
    near: Float32Array = (
        np.stack([row, 3 - column, 3 - row, column]).astype(np.float32) + 1
    )  # up, right, down, left
    linear = side_costs(near, 4)
    for turned in grid_symmetries(4):
        assert (orient_layout(turned[None], [linear], 4)[0] == np.arange(16)).all()
    lonely = near.copy()
    lonely[1:] = np.nan
    assert np.isfinite(side_costs(lonely, 4)).all()


@pytest.mark.parametrize("present", [(0,), (1,), (2,), (3,), (0, 1, 2, 3), ()])
def test_beside_is_the_sum_of_a_loop_over_the_rows_across_the_seams(present: tuple[int, ...]) -> None:
    side, rng = 4, np.random.default_rng(7)
    canvas = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    own = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    corners = [(0, 4), (4, 8), (8, 4), (4, 0)]  # up, right, down, left of the middle
    faces = [canvas[y : y + 4, x : x + 4] if d in present else None for d, (y, x) in enumerate(corners)]
    apart, where = [], []
    for d in present:
        for y in range(corners[d][0], corners[d][0] + 4):
            for x in range(corners[d][1], corners[d][1] + 4):
                if 2 <= y < 10 and 2 <= x < 10:  # two deep
                    apart.append(np.log1p(abs(own.astype(float) - canvas[y, x])).mean(1))
                    where.append((y - 4, x - 4))
    expected = np.zeros((16, 16))
    for cell in range(16 if present else 0):
        for gap, (y, x) in zip(apart, where, strict=True):
            squared = (cell // 4 - y) ** 2 + (cell % 4 - x) ** 2
            expected[:, cell] += gap / np.median(apart) * np.exp(-squared / 3.0)
    np.testing.assert_allclose(neighbour_costs(own, faces, side), expected, rtol=1e-4)
