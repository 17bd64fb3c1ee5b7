"""Telling nibbles apart and putting values in place: each step against loops or planted answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.recover.le import signed_nibbles
from coordinator.adversary.values.nibble_identification import (
    Nibbles,
    correlations,
    high_half,
    leading_signs,
    match_low,
    nearness,
)
from coordinator.adversary.values.value_layout import (
    block_turns,
    improve_places,
    likeness,
    near_kernel,
    place_values,
    swap_up,
    usual_correlations,
)


def smooth(n: int, side: int, seed: int = 0) -> np.ndarray:
    """uint8 [n, side, side, 1]."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=(side, side)), 2.5) for _ in range(n)]
    return np.stack([np.clip(120 + 55 * f / f.std(), 0, 255).astype(np.uint8) for f in fields])[..., None]


def test_correlations_are_those_of_numpy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 200, 4)).astype(np.float32)
    second += first
    expected = np.corrcoef(first.T, second.T)[:4, 4:]
    assert correlations(first, second) == pytest.approx(expected, abs=1e-5)
    first[:, 2] = 3.0
    assert (correlations(first, second)[2] == 0).all()
    assert (correlations(first[:0], second[:0]) == 0).all()


def test_high_nibbles_and_signs_stand_out():
    rng = np.random.default_rng(1)
    signed = signed_nibbles(smooth(6, 32), 4).reshape(-1, 32)
    order, flips = rng.permutation(32), rng.choice([-1.0, 1.0], 32).astype(np.float32)
    shown = signed[:, order] * flips
    within = correlations(shown, shown)
    half = high_half(within)
    assert (order[half] >= 16).all() and len(half) == 16
    signs = leading_signs(within[np.ix_(half, half)])
    assert abs((signs * flips[half]).sum()) == 16


def test_low_nibbles_find_their_high_ones():
    rng = np.random.default_rng(2)
    signed = signed_nibbles(smooth(6, 32), 4).reshape(-1, 32)
    order, flips = rng.permutation(16), rng.choice([-1.0, 1.0], 16).astype(np.float32)
    columns, flipped, surety = match_low(
        signed[:, 16:], signed[:, :16][:, order] * flips, usual_correlations(4, 1)[0]
    )
    assert (order[columns] == np.arange(16)).all()
    assert (flipped == (flips[columns] < 0)).all()
    assert surety.min() > 0.1


def test_nearness_is_the_mean_saturating_distance():
    values = np.random.default_rng(3).uniform(-120, 120, (2, 2, 3, 5)).astype(np.float32)
    found = nearness(values)
    for lag, (down, right) in enumerate(((0, 0), (0, 1), (1, 0))):
        for a in range(5):
            for b in range(5):
                apart = [
                    abs(float(values[n, y, x, a] - values[n, y + down, x + right, b]))
                    for n in range(2)
                    for y in range(2 - down)
                    for x in range(3 - right)
                ]
                assert found[lag, a, b] == pytest.approx(-np.mean([d / (d + 8) for d in apart]), abs=1e-5)
    assert (nearness(values[:, :1, :1])[1:] == 0).all()


def test_kernels_measure_between_the_values_of_neighbouring_blocks():
    usual, near = usual_correlations(2, 3), near_kernel(2, 3)
    colours = [[1.0, 0.94, 0.84], [0.94, 1.0, 0.94], [0.84, 0.94, 1.0]]
    for a in range(12):
        for b in range(12):
            for lag, (down, right) in enumerate(((0, 0), (0, 2), (2, 0))):
                y = b // 6 + down - a // 6
                x = b // 3 % 2 + right - a // 3 % 2
                r = np.hypot(y, x)
                assert usual[lag, a, b] == pytest.approx(np.exp(-0.055 * r**0.9) * colours[a % 3][b % 3])
                expected = np.exp(-(r**2 + abs(a % 3 - b % 3)) / 2)
                assert near[lag, a, b] == pytest.approx(0.0 if lag == 0 and a == b else expected)


def test_swaps_never_lower_the_likeness_and_find_the_planted_places():
    kernel = near_kernel(3, 1)
    truth = np.random.default_rng(4).permutation(9)
    found = kernel[:, truth[:, None], truth]
    places = np.arange(9)
    value = likeness(found, kernel, places)
    for _ in range(20):
        swap_up(found, kernel, places, 1)
        now = likeness(found, kernel, places)
        assert now >= value - 1e-12 and sorted(places) == list(range(9))
        value = now
    for a in range(9):
        for b in range(a):  # no swap is left that helps: gains are right
            places[[a, b]] = places[[b, a]]
            assert likeness(found, kernel, places) <= value + 1e-9
            places[[a, b]] = places[[b, a]]
    by_loops = sum(
        found[m, a, b] * kernel[m, places[a], places[b]]
        for m in range(3)
        for a in range(9)
        for b in range(9)
    )
    assert value == pytest.approx(by_loops)
    usual = usual_correlations(3, 1)
    assert (place_values(usual[:, truth[:, None], truth], usual, 3, 1) == truth).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_planted_places_are_found(channels):
    usual, near = usual_correlations(4, channels), near_kernel(4, channels)
    size = 16 * channels
    truth = np.random.default_rng(5).permutation(size)
    found = place_values(usual[:, truth[:, None], truth], usual, 4, channels)
    # Red and blue play the same part in both kernels.
    mirrored = truth if channels == 1 else truth - truth % 3 + 2 - truth % 3
    assert (found == truth).all() or (found == mirrored).all()
    start = truth.copy()
    start[[0, 5, 9]] = start[[5, 9, 0]]
    back = np.argsort(start)  # things in the order of the places they were given
    shown = near[:, truth[back][:, None], truth[back]]
    improved = improve_places(shown, 4, channels)[start]
    assert (improved == truth).all() or (improved == mirrored).all()


def test_turns_of_a_block_are_its_symmetries():
    for channels, count in ((1, 8), (3, 48)):
        turns = block_turns(4, channels)
        assert turns.shape == (count, 16 * channels) and len(np.unique(turns, axis=0)) == count
        assert (turns[0] == np.arange(16 * channels)).all()
        kernel = near_kernel(4, 1)[0]
        for turn in turns[:8] // channels:
            pixels = turn[::channels]
            assert kernel[pixels[:, None], pixels] == pytest.approx(kernel)


def test_moving_values_keeps_nibbles_together():
    rng = np.random.default_rng(6)
    slots = rng.permutation(16)
    found = Nibbles(slots[:8], slots[8:], rng.random(8) < 0.5, rng.random(8) < 0.5, rng.random(8))
    held, flips = found.by_slot()
    for value in range(8):
        assert held[found.high[value]] == 8 + value and held[found.low[value]] == value
        assert flips[found.high[value]] == found.high_flip[value]
        assert flips[found.low[value]] == found.low_flip[value]
    signed = (rng.integers(0, 16, (5, 16)) - 7.5).astype(np.float32)
    turn = rng.permutation(8)
    assert (found.moved(turn).open(signed)[:, turn] == found.open(signed)).all()
    assert (found.moved(turn, True).open(signed)[:, turn] == -found.open(signed)).all()
