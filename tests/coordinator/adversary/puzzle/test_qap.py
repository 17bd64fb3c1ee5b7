"""Local search for quadratic assignment."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle.grid_layout import grid_kernel
from coordinator.adversary.puzzle.qap import (
    assignment_cost,
    assignment_similarity,
    swap_ascent,
    swap_descent,
)


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


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_ascent_ends_where_no_swap_helps(is_symmetric: bool) -> None:
    """Of symmetric tables only the rows are summed; of others rows and columns."""
    rng = np.random.default_rng(3)
    similarities, kernels = rng.random((1, 8, 8)), rng.random((1, 8, 8))
    if is_symmetric:
        similarities, kernels = (t + t.transpose(0, 2, 1) for t in (similarities, kernels))
    start = rng.permutation(8)
    end = swap_ascent(similarities, kernels, start)
    reached = assignment_similarity(similarities, kernels, end)
    assert sorted(end) == list(range(8)) and reached > assignment_similarity(similarities, kernels, start)
    for a in range(8):
        for b in range(a):
            other = end.copy()
            other[[a, b]] = other[[b, a]]
            assert assignment_similarity(similarities, kernels, other) <= reached + 1e-9
