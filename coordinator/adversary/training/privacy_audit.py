"""An empirical lower bound on epsilon from one training: "promised 3, proved at least 0.4".

Canaries are units (images, or their gradients) of which a fair coin put each into the training. The adversary scores
every canary by what was released, names those with the highest scores as members and those with the lowest as
non-members, and abstains on the others. A training that keeps (epsilon, delta) lets nobody be right much more often
than the coin allows, so being right often proves a lower bound.

Source: Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run" (arXiv 2305.08846), theorem 5.2
and the algorithm of its appendix D. The number of guesses must be fixed before the scores are seen.

The bound holds for this adversary, these canaries and this run. A low one proves no privacy: the promise comes from
the accountant. A bound above the promise proves that the implementation does not keep it, up to `error_rate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from crypto.arrays import BoolArray, Float64Array

#: A bound is searched up to here. Beyond it a training protects nobody.
_MOST_EPSILON = 100.0
#: The search halves the interval so many times.
_HALVINGS = 40
#: By default a bound above the true epsilon comes once in a thousand audits at most.
ERROR_RATE = 1e-3


@dataclass(frozen=True)
class PrivacyAudit:
    """What one training proved.

    Attributes:
        epsilon_low: lower bound on epsilon at `delta`; 0 if nothing was proved.
        delta: the delta that the training promised.
        canaries: how many there were.
        guesses: on how many the adversary did not abstain.
        correct: how many of these guesses were right.
        error_rate: the probability that the bound is above the true epsilon is at most this.
    """

    epsilon_low: float
    delta: float
    canaries: int
    guesses: int
    correct: int
    error_rate: float


def audit_scores(
    scores: Float64Array, is_member: BoolArray, guesses: int, delta: float, error_rate: float = ERROR_RATE
) -> PrivacyAudit:
    """Return what the scores of canaries prove.

    Args:
        scores: float64 [canaries], higher for a member.
        is_member: bool [canaries], each True by a fair coin of its own, drawn before the training.
        guesses: on how many canaries to guess, half of them from each end; fixed before the scores are known.
        delta: the delta that the training promised.
        error_rate: how often the bound may be above the true epsilon.

    Raises:
        ValueError: if there are fewer canaries than guesses, or no guesses.
    """
    canaries = len(scores)
    half = guesses // 2
    if half < 1 or 2 * half > canaries or len(is_member) != canaries:
        raise ValueError(f"{guesses} guesses about {canaries} canaries")
    order = np.argsort(scores, kind="stable")
    correct = int((~is_member[order[:half]]).sum() + is_member[order[canaries - half :]].sum())
    low = epsilon_lower_bound(canaries, 2 * half, correct, delta, error_rate)
    return PrivacyAudit(low, delta, canaries, 2 * half, correct, error_rate)


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return the largest probability of so many correct guesses, if the training keeps (epsilon, delta).

    Args:
        canaries: how many there were.
        guesses: on how many the adversary guessed.
        correct: how many guesses were right, at least.
        epsilon: the bound of the null hypothesis.
        delta: its delta.
    """
    accuracy = 1 / (1 + np.exp(-epsilon))
    at_least = float(binom.sf(correct - 1, guesses, accuracy))
    # The share of delta: the largest mean probability of the i values just below `correct`, over all i.
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
    density = float(np.max(below / np.arange(1, correct + 1))) if correct else 0.0
    return min(1.0, at_least + 2 * canaries * delta * density)


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, error_rate: float = ERROR_RATE
) -> float:
    """Return the largest epsilon that so many correct guesses rule out, 0 if they rule out none."""
    low, high = 0.0, _MOST_EPSILON
    if p_value(canaries, guesses, correct, low, delta) > error_rate:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) <= error_rate:
            low = middle
        else:
            high = middle
    return low
