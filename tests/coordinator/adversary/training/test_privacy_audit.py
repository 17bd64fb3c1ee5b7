"""The lower bound that one training proves: its probabilities, and how often it raises a false alarm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from coordinator.adversary.training.privacy_audit import audit_scores, epsilon_lower_bound, p_value
from crypto.arrays import BoolArray


def randomized_response(is_member: BoolArray, epsilon: float, random: np.random.Generator) -> BoolArray:
    """Return answers that are true with the probability that epsilon-differential privacy just allows."""
    truthful = random.random(len(is_member)) < 1 / (1 + math.exp(-epsilon))
    return np.where(truthful, is_member, ~is_member)


def test_without_delta_the_p_value_is_that_of_a_biased_coin() -> None:
    for correct in (0, 1, 50, 80, 100):
        expected = binom.sf(correct - 1, 100, math.e / (1 + math.e))
        assert p_value(1000, 100, correct, 1.0, 0.0) == pytest.approx(expected)


def test_delta_adds_the_published_term() -> None:
    """The paper's own loop, written out."""
    canaries, guesses, correct, epsilon, delta = 1000, 100, 85, 1.0, 1e-5
    accuracy, alpha, total = 1 / (1 + math.exp(-epsilon)), 0.0, 0.0
    for i in range(1, correct + 1):
        total += binom.pmf(correct - i, guesses, accuracy)
        alpha = max(alpha, total / i)
    expected = binom.sf(correct - 1, guesses, accuracy) + alpha * delta * 2 * canaries
    assert p_value(canaries, guesses, correct, epsilon, delta) == pytest.approx(expected)
    assert p_value(canaries, guesses, correct, epsilon, delta) > p_value(
        canaries, guesses, correct, epsilon, 0
    )


def test_more_correct_guesses_prove_more_and_a_coin_proves_nothing() -> None:
    bounds = [epsilon_lower_bound(1000, 100, correct, 1e-5) for correct in (50, 70, 85, 100)]
    assert bounds == sorted(bounds) and bounds[0] == 0.0 and bounds[-1] > 1.5
    assert epsilon_lower_bound(1000, 100, 100, 0.1) == 0.0  # such a delta allows that


@pytest.mark.long
def test_a_false_alarm_is_as_rare_as_promised() -> None:
    """Against the mechanism that is as bad as epsilon allows, its epsilon is exceeded in 5 % of audits at most."""
    random, epsilon, audits = np.random.default_rng(0), 1.0, 400
    alarms = 0
    for _ in range(audits):
        is_member = random.random(200) < 0.5
        scores = randomized_response(is_member, epsilon, random) + 1e-3 * random.random(200)
        result = audit_scores(scores, is_member, 100, 0.0, error_rate=0.05)
        alarms += result.epsilon_low > epsilon
    assert 0 < alarms <= 0.05 * audits + 3 * math.sqrt(0.05 * 0.95 * audits)


def test_guesses_are_of_the_ends_and_abstain_in_the_middle() -> None:
    scores = np.array([-3.0, -2, 0, 0.1, 2, 3])
    is_member = np.array([False, True, True, False, False, True])
    result = audit_scores(scores, is_member, 4, 0.0)
    assert (result.canaries, result.guesses, result.correct) == (6, 4, 2)
    with pytest.raises(ValueError, match="8 guesses about 6 canaries"):
        audit_scores(scores, is_member, 8, 0.0)
