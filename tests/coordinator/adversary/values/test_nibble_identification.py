"""Which nibble is which: each step against loops or planted answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.recover.le import signed_nibbles
from coordinator.adversary.values.nibble_identification import match_low_nibbles, rematch_low_nibbles
from coordinator.adversary.values.nibble_statistics import (
    consistent_signs,
    correlations,
    find_high_nibbles,
    is_beyond_noise,
    nearness,
)
from coordinator.adversary.values.nibbles import Nibbles
from coordinator.adversary.values.value_layout import typical_correlations
from crypto.arrays import Images


def smooth_fields(n: int, side: int, seed: int = 0) -> Images:
    """Return smooth gray pictures, uint8 [n, side, side, 1]."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=(side, side)), 2.5) for _ in range(n)]
    return np.stack([np.clip(120 + 55 * f / f.std(), 0, 255).astype(np.uint8) for f in fields])[..., None]


def test_correlations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 200, 4)).astype(np.float32)
    second += first
    expected = np.corrcoef(first.T, second.T)[:4, 4:]
    assert correlations(first, second) == pytest.approx(expected, abs=1e-5)
    first[:, 2] = 3.0
    assert (correlations(first, second)[2] == 0).all()
    assert (correlations(first[:0], second[:0]) == 0).all()


def test_high_nibbles_and_their_signs_are_found() -> None:
    rng = np.random.default_rng(1)
    signed = signed_nibbles(smooth_fields(6, 32), 4).reshape(-1, 32)
    order, flips = rng.permutation(32), rng.choice([-1.0, 1.0], 32).astype(np.float32)
    sealed = signed[:, order] * flips
    all_correlations = correlations(sealed, sealed)
    high = find_high_nibbles(all_correlations)
    assert (order[high] >= 16).all() and len(high) == 16
    signs = consistent_signs(all_correlations[np.ix_(high, high)])
    assert abs((signs * flips[high]).sum()) == 16


def test_signs_of_unrelated_groups_are_found_in_each() -> None:
    """Two groups of values that share nothing: the leading eigenvector tells the signs of one of them only."""
    rng = np.random.default_rng(4)
    flips = rng.choice([-1.0, 1.0], 24)
    shared = np.repeat(rng.normal(size=(400, 2)), 12, axis=1)
    sample = ((shared + 0.5 * rng.normal(size=(400, 24))) * flips).astype(np.float32)
    right = consistent_signs(correlations(sample, sample)) * flips
    assert abs(right[:12].sum()) == 12 and abs(right[12:].sum()) == 12


def test_weak_correlations_are_told_from_noise() -> None:
    rng = np.random.default_rng(5)
    for count in (30, 100, 600):
        noise = rng.normal(size=(count, 48)).astype(np.float32)
        assert not is_beyond_noise(correlations(noise, noise), count)
        related = noise + 0.8 * rng.normal(size=(count, 1)).astype(np.float32)
        assert is_beyond_noise(correlations(related, related), count)


def test_low_nibbles_are_matched_to_their_high_ones() -> None:
    rng = np.random.default_rng(2)
    signed = signed_nibbles(smooth_fields(6, 32), 4).reshape(-1, 32)
    order, flips = rng.permutation(16), rng.choice([-1.0, 1.0], 16).astype(np.float32)
    columns, flipped, confidence = match_low_nibbles(
        signed[:, 16:], signed[:, :16][:, order] * flips, typical_correlations(4, 1)[0]
    )
    assert (order[columns] == np.arange(16)).all()
    assert (flipped == (flips[columns] < 0)).all()
    assert confidence.min() > 0.1


def test_low_nibbles_are_matched_again_by_a_better_template() -> None:
    signed = signed_nibbles(smooth_fields(6, 32), 4).reshape(-1, 32)
    values, none = np.arange(16), np.zeros(16, bool)
    wrong = Nibbles(values + 16, np.roll(values, 5), none, ~none, np.zeros(16))
    right = rematch_low_nibbles(wrong, signed, typical_correlations(4, 1)[0])
    assert (right.low == values).all() and not right.low_flip.any()
    assert right.confidence.min() > 0.1 and (right.high == wrong.high).all()


def test_nearness_is_minus_the_mean_saturating_distance() -> None:
    values = np.random.default_rng(3).uniform(-120, 120, (2, 2, 3, 5)).astype(np.float32)
    measured = nearness(values)
    for lag, (down, right) in enumerate(((0, 0), (0, 1), (1, 0))):
        for a in range(5):
            for b in range(5):
                differences = [
                    abs(float(values[n, y, x, a] - values[n, y + down, x + right, b]))
                    for n in range(2)
                    for y in range(2 - down)
                    for x in range(3 - right)
                ]
                expected = -np.mean([d / (d + 8) for d in differences])
                assert measured[lag, a, b] == pytest.approx(expected, abs=1e-5)
    assert (nearness(values[:, :1, :1])[1:] == 0).all()


def test_permuting_values_keeps_their_nibbles_together() -> None:
    rng = np.random.default_rng(6)
    slots = rng.permutation(16)
    nibbles = Nibbles(slots[:8], slots[8:], rng.random(8) < 0.5, rng.random(8) < 0.5, rng.random(8))
    plain, flips = nibbles.by_slot()
    for value in range(8):
        assert plain[nibbles.high[value]] == 8 + value and plain[nibbles.low[value]] == value
        assert flips[nibbles.high[value]] == nibbles.high_flip[value]
        assert flips[nibbles.low[value]] == nibbles.low_flip[value]
    signed = (rng.integers(0, 16, (5, 16)) - 7.5).astype(np.float32)
    turn = rng.permutation(8)
    values = nibbles.to_values(signed)
    assert (nibbles.permuted(turn).to_values(signed)[:, turn] == values).all()
    assert (nibbles.permuted(turn, True).to_values(signed)[:, turn] == -values).all()
