"""A hospital's own privacy budget when it accepts a study: what it is, and whether the training fits into it."""

from __future__ import annotations

import contextlib

from coordinator.exchange.plan import Plan
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.training.patients import read_units
from parties.training.policy import Policy
from parties.training.policy_file import read_policy
from parties.training.privacy_accounting import Mechanism
from parties.training.privacy_ledger import Budget, PrivacyLedger

#: The delta of a budget that is stated for a hospital which never accepted private training.
_DELTA = 1e-5


def choose_budget(place: Place, plan: Plan, epsilon: float | None) -> tuple[float, float]:
    """Return the budget (epsilon, delta) of a hospital that accepts a plan; (0, 0): none.

    Args:
        place: the hospital.
        plan: the study's plan.
        epsilon: what the hospital states; 0: no budget. None: the budget of its present policy, and if that has none,
            the plan's own bound.
    """
    present = Budget(0.0, 0.0)
    # A policy of an earlier version had no budget.
    with contextlib.suppress(CipherwardError):
        policy = read_policy(place)
        present = Budget(policy.budget_epsilon, policy.budget_delta)
    stated = plan.privacy.bound if plan.privacy.is_on else (0.0, 0.0)
    if epsilon is None:
        return (present.epsilon, present.delta) if present.epsilon else stated
    if epsilon == 0:
        return 0.0, 0.0
    return epsilon, present.delta or stated[1] or _DELTA


def require_budget(place: Place, plan: Plan, policy: Policy, train: SealedDataset) -> None:
    """Raise CipherwardError if the whole training would exceed the hospital's budget, or cannot keep its bound.

    Args:
        place: the hospital.
        plan: the study's plan.
        policy: what the hospital would accept of it.
        train: its sealed training images.
    """
    budget = Budget(policy.budget_epsilon, policy.budget_delta)
    if not plan.privacy.is_on:
        if budget.epsilon:
            raise CipherwardError(
                f"this hospital has a privacy budget of epsilon {budget.epsilon:g}, and the plan {plan.study} trains "
                "without differential privacy: no budget bounds that",
                "ask for a plan with a block privacy; or give the budget up with --privacy-budget 0",
            )
        return
    # Imported here: it loads torch, for more than a second, and most studies are without differential privacy.
    from parties.training.private_training import plan_round

    step = plan_round(plan, read_units(place, train, plan.privacy.unit)).mechanism
    charges = PrivacyLedger(place).charges()
    left = plan.rounds - sum(c.policy == policy.digest for c in charges)
    rest = Mechanism(step.noise_multiplier, step.sample_rate, step.steps * max(0, left))
    mechanisms = [c.mechanism for c in charges] + ([rest] if rest.steps else [])
    budget.require(mechanisms, f"the study {plan.study}")
