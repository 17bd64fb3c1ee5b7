"""Each block's state chosen again beside its neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle.block_refinement import refine_states, state_costs
from coordinator.adversary.puzzle.block_symmetry import FACING_WALK, transform_walks
from coordinator.adversary.puzzle.side_matching import typical_likelihoods
from tests.support.pictures import smooth
from tests.support.puzzles import random_states, side_difference, walks_of


@pytest.mark.parametrize("channels", [1, 3])
def test_state_costs_against_setting_each_state(channels: int) -> None:
    walks = walks_of(smooth(2, 8, 12, channels, seed=2), 4)
    typical, grid = typical_likelihoods(walks), np.random.default_rng(0).permutation(6).reshape(2, 3)
    turn, negative, order = random_states(6, channels, 8)
    costs = state_costs(walks, typical, grid, turn, negative, order)
    p = int(grid[0, 1])
    for t, s, o in ((0, 0, 0), (5, 1, costs.shape[3] - 1), (3, 1, 0)):
        expected = 0.0
        new = turn.copy(), negative.copy(), order.copy()
        new[0][p], new[1][p], new[2][p] = t, s, o
        transformed = transform_walks(walks, *new)
        for d, q in ((1, grid[0, 2]), (2, grid[1, 1]), (3, grid[0, 0])):
            scale_p = typical[:, p, FACING_WALK[t, d]]
            scale_q = typical[:, q, FACING_WALK[new[0][q], (d + 2) % 4]]
            for k in range(2):
                for other, weight in ((k, -1.0), (1 - k, 0.5)):
                    one, two = transformed[k, p, d][None], transformed[other, q, (d + 2) % 4][None]
                    gap = side_difference(one, two, 0, 1, np.arange(channels))
                    ratio = 1 / ((gap + 4) ** 2 * scale_p[k] * scale_q[other])
                    expected += weight * np.log(ratio + 0.02)
        assert costs[p, t, s, o] == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_refining_sets_single_blocks_right() -> None:
    plain = smooth(4, 64, 64, 3, seed=3)
    walks = walks_of(plain, 8)
    turn, negative, order = np.zeros(64, np.int64), np.zeros(64, bool), np.zeros(64, np.int64)
    turn[[9, 30, 63]], negative[[9, 41]], order[[30, 2]] = (3, 6, 1), True, (2, 5)
    grid = np.arange(64).reshape(8, 8)
    states = refine_states(walks, typical_likelihoods(walks), grid, turn, negative, order)
    assert not any(values.any() for values in states)
    assert turn[9] == 3  # the arguments are left as they are
