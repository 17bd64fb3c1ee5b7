"""A hospital's own privacy budget when it accepts a study: what it is, and whether the training fits into it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from coordinator.exchange.plan import Plan
from coordinator.exchange.privacy import LEAST_EPSILON
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.training.patients import read_units
from parties.training.policy import Policy, bound_as_budget
from parties.training.policy_file import read_policy, read_policy_values
from parties.training.privacy_accounting import Mechanism
from parties.training.privacy_ledger import Budget, PrivacyLedger

#: The delta of a budget that is stated for a hospital which never accepted private training.
_DELTA = 1e-5
NO_BUDGET = Budget(0.0, 0.0, "")


def choose_budget(
    place: Place,
    plan: Plan,
    epsilon: float | None,
    delta: float | None = None,
    unit: Literal["patient", "image"] | None = None,
) -> Budget:
    """Return the budget of a hospital that accepts a plan.

    Args:
        place: the hospital.
        plan: the study's plan.
        epsilon: what the hospital states; 0: no budget. None: the budget of its present policy, and if that has none,
            the plan's own bound.
        delta: what the hospital states with it. None: the delta of its present policy, and if that has none, 1e-5.
        unit: whom it protects. None: as in its present policy, and if that has no budget, as the plan says. A larger
            epsilon alone makes no budget for patients one for images.

    Raises:
        CipherwardError: if the present policy, which may hold a budget, is gone or cannot be read and the hospital
            states none, if a delta or a unit comes without an epsilon, or if the epsilon is too small.
    """
    if not epsilon and (delta is not None or unit is not None):
        name = "delta" if unit is None else "unit"
        raise CipherwardError(f"a {name} bounds nothing without an epsilon", "add --privacy-budget EPSILON")
    present = _present_budget(place, is_stated=epsilon is not None)
    if epsilon is None:
        return present if present.epsilon else bound_as_budget(plan.privacy)
    if epsilon == 0:
        return NO_BUDGET
    if not LEAST_EPSILON <= epsilon < float("inf"):
        raise CipherwardError(
            f"a privacy budget of epsilon {epsilon:g} cannot be kept: the least is {LEAST_EPSILON:g}",
            f"--privacy-budget {LEAST_EPSILON:g} or more; 0 for none",
        )
    # The delta is never the plan's: whom the budget protects states it.
    return Budget(epsilon, delta or present.delta or _DELTA, unit or present.unit or plan.privacy.unit)


def _present_budget(place: Place, *, is_stated: bool) -> Budget:
    """Return the budget of the present policy: none if there never was one, or if one that is lost is replaced.

    A policy of an earlier version is not obeyed any more, but its budget is still the hospital's.

    Raises:
        CipherwardError: if the budget is gone, cannot be read, or others may have written it, and no other one is
            stated.
    """
    try:
        if not place.policy_file.exists():
            _require_no_trace(place)
            return NO_BUDGET
        return read_policy(place).budget
    except CipherwardError as error:
        earlier = _read_earlier(place.policy_file)
        if is_stated:
            # A lost budget may have been for patients.
            return dataclasses.replace(NO_BUDGET, unit=earlier.unit if earlier else "patient")
        if earlier:
            return earlier
        raise CipherwardError(
            f"this hospital's own privacy budget cannot be read: {error.message}",
            f"{error.hint}; or state it anew: --privacy-budget EPSILON, 0 for none".removeprefix("; "),
        ) from None


def _require_no_trace(place: Place) -> None:
    """Raise CipherwardError if a hospital without a policy had one that may have held a budget."""
    kept = [_read_earlier(path) for path in sorted((place.private / "policies").glob("*.yaml"))]
    if any(budget is None or budget.epsilon for budget in kept) or PrivacyLedger(place).is_begun:
        raise CipherwardError(
            f"{place.policy_file}, which holds it, is gone, and this hospital accepted private training before",
            "put that file back from a backup",
        )


def _read_earlier(path: Path) -> Budget | None:
    """Return the budget in a policy of an earlier version, which may have none; None if it cannot be believed.

    An earlier version did not say whom a budget protects. It is taken for the stronger one, for patients.
    """
    try:
        values = read_policy_values(path)
    except (CipherwardError, OSError):
        return None
    epsilon, delta = (values.get(name, 0.0) for name in ("budget_epsilon", "budget_delta"))
    if any(
        type(figure) not in (int, float) or not 0 <= figure < float("inf") for figure in (epsilon, delta)
    ):
        return None
    if not epsilon:
        return NO_BUDGET
    return Budget(epsilon, delta, "image" if values.get("budget_unit") == "image" else "patient")


def require_budget(place: Place, plan: Plan, policy: Policy, train: SealedDataset) -> None:
    """Raise CipherwardError if the whole training would exceed the hospital's budget, or cannot keep its bound.

    Args:
        place: the hospital.
        plan: the study's plan.
        policy: what the hospital would accept of it.
        train: its sealed training images.
    """
    budget = policy.budget
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
    budget.require_unit([*(c.unit for c in charges), plan.privacy.unit], f"the study {plan.study}")
    budget.require(mechanisms, f"the study {plan.study}")
