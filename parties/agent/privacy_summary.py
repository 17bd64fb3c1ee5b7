"""What `cipherward-party privacy` says: the ledger by study, the common bound, and trainings that no bound covers."""

from __future__ import annotations

from dataclasses import dataclass

from crypto.errors import CipherwardError
from crypto.files import read_every_line, read_json
from crypto.plural import agreeing, counted
from parties.sealing.place import Place
from parties.training.policy import Policy
from parties.training.policy_file import accepted_policies, read_policy
from parties.training.privacy_accounting import total_epsilon
from parties.training.privacy_ledger import Charge, PrivacyLedger

#: The delta at which a total is stated if the hospital has no budget.
_DELTA = 1e-5
_RESTORE = "restore private/answers from your backup"


@dataclass(frozen=True)
class Summary:
    """The ledger in words.

    Attributes:
        rows: a row for each study and kind of step: study, rounds, steps, noise multiplier, sampling rate, unit.
        lines: the total, the budget, and what no bound covers.
    """

    rows: list[tuple[str, ...]]
    lines: list[str]


def summarise(place: Place) -> Summary:
    """Return what the hospital's trainings may have told. Raise CipherwardError if the ledger is damaged."""
    charges = PrivacyLedger(place).charges()
    policy: Policy | None = None
    without = "budget: none"
    if place.policy_file.exists():
        try:
            policy = read_policy(place)
        except CipherwardError as error:
            without = f"budget: unknown, {error.message}"
    lines = []
    if charges:
        has_budget = policy is not None and policy.budget_epsilon > 0
        delta = policy.budget_delta if policy is not None and has_budget else _DELTA
        near = policy.budget_epsilon if policy is not None and has_budget else 1.0
        total = total_epsilon([c.mechanism for c in charges], delta, near)
        # Of several units the weakest: an image.
        unit = "image" if any(c.unit == "image" for c in charges) else "patient"
        lines.append(
            f"epsilon {total:.3g} at delta {delta:g} for each {unit}, over {counted(len(charges), 'charged round')}"
        )
    else:
        lines.append("no private training was charged")
    if policy is not None and policy.budget_epsilon:
        budget = policy.budget
        lines.append(f"budget: epsilon {budget.epsilon:g} at delta {budget.delta:g} for each {budget.unit}")
    else:
        lines.append(without)
    for study, (rounds, lost) in _unprotected(place).items():
        if rounds:
            lines.append(
                f"not covered: {counted(rounds, 'training')} of {study} without differential privacy, for which no "
                "bound holds"
            )
        if lost:
            lines.append(
                f"not covered: {counted(lost, 'answer')} of {study} whose {agreeing(lost, 'line is', 'lines are')} "
                "damaged or gone, and which may have been such trainings"
            )
    lines.append("not covered: evaluations on val and test, and the seconds that an answer takes")
    return Summary(_rows(charges), lines)


def _rows(charges: list[Charge]) -> list[tuple[str, ...]]:
    kinds: dict[tuple[str, float, float, str], list[int]] = {}
    for c in charges:
        kinds.setdefault((c.study, c.noise_multiplier, c.sample_rate, c.unit), []).append(c.steps)
    return [
        (study, str(len(steps)), str(sum(steps)), f"{noise:.4g}", f"{rate:.4g}", unit)
        for (study, noise, rate, unit), steps in kinds.items()
    ]


def _unprotected(place: Place) -> dict[str, tuple[int, int]]:
    """Return, by study, how many trainings without differential privacy were answered, and how many lines are lost.

    A training counts unless its policy says that it was private: policies of an earlier version say nothing. A line
    of the journal that is damaged or gone may have been one.

    Raises:
        CipherwardError: if the count of a journal's lines is damaged.
    """
    private = {f"{p.study}-{p.digest[:16]}" for p in accepted_policies(place) if p.privacy.is_on}
    counts: dict[str, tuple[int, int]] = {}
    folder = place.private / "answers"
    # A journal that is gone has left its count (parties/training/guard.py).
    journals = {*folder.glob("*.jsonl"), *(path.with_suffix(".jsonl") for path in folder.glob("*.count"))}
    for journal in sorted(journals):
        if journal.stem in private:
            continue
        lines, count = read_every_line(journal), journal.with_suffix(".count")
        noted = read_json(count, "count of answers", remedy=_RESTORE) if count.exists() else 0
        if type(noted) is not int:
            raise CipherwardError(f"the count of answers {count} is damaged", _RESTORE)
        rows = [line for line in lines if isinstance(line, dict)]
        study = journal.stem.rpartition("-")[0]
        trainings, lost = counts.get(study, (0, 0))
        trainings += sum(row.get("split") == "train" for row in rows)
        counts[study] = trainings, lost + max(noted, len(lines)) - len(rows)
    return counts
