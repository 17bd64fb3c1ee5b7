"""A hospital's own privacy budget when it accepts a study: what it is, and whether the training fits into it."""

from __future__ import annotations

from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import read_yaml
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


def choose_budget(
    place: Place, plan: Plan, epsilon: float | None, delta: float | None = None
) -> tuple[float, float]:
    """Return the budget (epsilon, delta) of a hospital that accepts a plan; (0, 0): none.

    Args:
        place: the hospital.
        plan: the study's plan.
        epsilon: what the hospital states; 0: no budget. None: the budget of its present policy, and if that has none,
            the plan's own bound.
        delta: what the hospital states with it. None: the delta of its present policy, and if that has none, 1e-5.

    Raises:
        CipherwardError: if the present policy, which may hold a budget, cannot be read and the hospital states none,
            or if a delta comes without an epsilon.
    """
    if delta is not None and not epsilon:
        raise CipherwardError("a delta bounds nothing without an epsilon", "add --privacy-budget EPSILON")
    present = _present_budget(place, is_stated=epsilon is not None)
    stated = plan.privacy.bound if plan.privacy.is_on else (0.0, 0.0)
    if epsilon is None:
        return (present.epsilon, present.delta) if present.epsilon else stated
    if epsilon == 0:
        return 0.0, 0.0
    # Never the plan's: whom the budget protects states it.
    return epsilon, delta or present.delta or _DELTA


def _present_budget(place: Place, *, is_stated: bool) -> Budget:
    """Return the budget of the present policy: none if there is no policy, or if one that is unreadable is replaced.

    A policy of an earlier version is not obeyed any more, but its budget is still the hospital's.

    Raises:
        CipherwardError: if the budget cannot be read or others may have written it, and no other one is stated.
    """
    if not place.policy_file.exists():
        return Budget(0.0, 0.0)
    try:
        policy = read_policy(place)
    except CipherwardError as error:
        if is_stated:
            return Budget(0.0, 0.0)
        if earlier := _read_earlier(place):
            return earlier
        raise CipherwardError(
            f"this hospital's own privacy budget cannot be read: {error.message}",
            f"{error.hint}; or state it anew: --privacy-budget EPSILON, 0 for none".removeprefix("; "),
        ) from None
    return Budget(policy.budget_epsilon, policy.budget_delta)


def _read_earlier(place: Place) -> Budget | None:
    """Return the budget in a policy of an earlier version, which may have none; None if it cannot be believed."""
    if place.policy_file.stat().st_mode & 0o022:
        return None
    try:
        values = read_yaml(place.policy_file, "policy")
    except CipherwardError:
        return None
    figures = [values.get(name, 0.0) for name in ("budget_epsilon", "budget_delta")]
    if any(type(figure) not in (int, float) or not 0 <= figure < float("inf") for figure in figures):
        return None
    return Budget(*figures)


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
