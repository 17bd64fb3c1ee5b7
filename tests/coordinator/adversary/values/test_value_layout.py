"""Values of a block put in place: kernels against loops, layouts against planted ones."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle.qap import assignment_similarity, swap_ascent
from coordinator.adversary.values.value_layout import (
    block_symmetries,
    improve_places,
    nearness_kernel,
    place_values,
    typical_correlations,
)


def test_kernels_measure_between_the_values_of_neighbouring_blocks() -> None:
    typical, near = typical_correlations(2, 3), nearness_kernel(2, 3)
    colours = [[1.0, 0.94, 0.84], [0.94, 1.0, 0.94], [0.84, 0.94, 1.0]]
    for a in range(12):
        for b in range(12):
            for lag, (down, right) in enumerate(((0, 0), (0, 2), (2, 0))):
                y = b // 6 + down - a // 6
                x = b // 3 % 2 + right - a // 3 % 2
                r = np.hypot(y, x)
                correlation = np.exp(-0.055 * r**0.9) * colours[a % 3][b % 3]
                assert typical[lag, a, b] == pytest.approx(correlation)
                nearness = np.exp(-(r**2 + abs(a % 3 - b % 3)) / 2)
                assert near[lag, a, b] == pytest.approx(0.0 if lag == 0 and a == b else nearness)


def test_swaps_never_lower_the_similarity_and_recover_the_planted_places() -> None:
    kernel = nearness_kernel(3, 1)
    truth = np.random.default_rng(4).permutation(9)
    measured = kernel[:, truth[:, None], truth]
    places = np.arange(9)
    value = assignment_similarity(measured, kernel, places)
    for _ in range(20):
        places = swap_ascent(measured, kernel, places, 1)
        now = assignment_similarity(measured, kernel, places)
        assert now >= value - 1e-12 and sorted(places) == list(range(9))
        value = now
    for a in range(9):
        for b in range(a):  # no swap is left that helps: gains are right
            places[[a, b]] = places[[b, a]]
            assert assignment_similarity(measured, kernel, places) <= value + 1e-9
            places[[a, b]] = places[[b, a]]
    by_loops = sum(
        measured[m, a, b] * kernel[m, places[a], places[b]]
        for m in range(3)
        for a in range(9)
        for b in range(9)
    )
    assert value == pytest.approx(by_loops)
    typical = typical_correlations(3, 1)
    assert (place_values(typical[:, truth[:, None], truth], typical, 3, 1) == truth).all()


def test_swaps_leave_their_start_as_it_is() -> None:
    kernel = nearness_kernel(3, 1)
    truth, start = np.random.default_rng(4).permutation(9), np.arange(9)
    assert (swap_ascent(kernel[:, truth[:, None], truth], kernel, start) != start).any()
    assert start.tolist() == list(range(9))


@pytest.mark.parametrize("channels", [1, 3])
def test_planted_places_are_recovered(channels: int) -> None:
    typical, near = typical_correlations(4, channels), nearness_kernel(4, channels)
    size = 16 * channels
    truth = np.random.default_rng(5).permutation(size)
    places = place_values(typical[:, truth[:, None], truth], typical, 4, channels)
    # Red and blue play the same part in both kernels.
    mirrored = truth if channels == 1 else truth - truth % 3 + 2 - truth % 3
    assert (places == truth).all() or (places == mirrored).all()
    start = truth.copy()
    start[[0, 5, 9]] = start[[5, 9, 0]]
    back = np.argsort(start)  # positions in the order of the places they were given
    measured = near[:, truth[back][:, None], truth[back]]
    improved = improve_places(measured, 4, channels)[start]
    assert (improved == truth).all() or (improved == mirrored).all()


def test_turns_of_a_block_are_its_symmetries() -> None:
    for channels, count in ((1, 8), (3, 48)):
        turns = block_symmetries(4, channels)
        assert turns.shape == (count, 16 * channels) and len(np.unique(turns, axis=0)) == count
        assert (turns[0] == np.arange(16 * channels)).all()
        kernel = nearness_kernel(4, 1)[0]
        for turn in turns[:8] // channels:
            pixels = turn[::channels]
            assert kernel[pixels[:, None], pixels] == pytest.approx(kernel)
