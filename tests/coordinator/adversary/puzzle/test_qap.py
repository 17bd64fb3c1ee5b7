"""Local search for quadratic assignment."""

from __future__ import annotations

import numpy as np

from coordinator.adversary.puzzle.grid_layout import grid_kernel
from coordinator.adversary.puzzle.qap import assignment_cost, swap_descent


def test_swaps_never_raise_the_cost_and_end_where_no_swap_helps() -> None:
    rng = np.random.default_rng(8)
    distances = rng.random((9, 9))
    distances = distances + distances.T
    np.fill_diagonal(distances, 0)
    linear, kernel = rng.random((9, 9)), grid_kernel(3, 3)
    start = rng.permutation(9)
    end = swap_descent(distances, kernel, start, linear, 50)
    reached = assignment_cost(distances, kernel, end, linear)
    assert sorted(end) == list(range(9)) and reached <= assignment_cost(distances, kernel, start, linear)
    for a in range(9):
        for b in range(a):
            other = end.copy()
            other[[a, b]] = other[[b, a]]
            assert assignment_cost(distances, kernel, other, linear) >= reached - 1e-9
