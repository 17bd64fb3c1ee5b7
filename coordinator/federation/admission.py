"""Which introductions can belong to one run: sealed as the plan says, with one list of classes, and a name each."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.exchange.plan import Plan
from coordinator.federation.screening import MAX_IMAGES


@dataclass(frozen=True)
class Party:
    """A party as it introduced itself.

    Attributes:
        node: its Flower node id.
        name: its name.
        about: its whole introduction: party, classes, spec and splits.
    """

    node: int
    name: str
    about: dict[str, Any]


def find_conflicts(newcomers: Sequence[Party], known: Sequence[Party], plan: Plan) -> dict[int, str]:
    """Return why newcomers cannot belong to a run, by node; those that can are left out.

    Names are compared last: a node that cannot belong to the run takes no other's name from it.

    Args:
        newcomers: the parties that introduced themselves just now.
        known: the parties that were accepted before. They are right.
        plan: gives the scheme, and the number of images if its source counts them.
    """
    conflicts: dict[int, str] = {}

    def keep(parties: Sequence[Party], find_conflict: Callable[[Party], str]) -> list[Party]:
        conflicts.update({party.node: why for party in parties if (why := find_conflict(party))})
        return [party for party in parties if party.node not in conflicts]

    fitting = keep(newcomers, lambda party: _find_conflict_with_plan(party, plan))
    if not fitting:
        return conflicts
    reference = _reference(fitting, known)
    expected = reference.about["classes"]

    def find_other_classes(party: Party) -> str:
        is_same = party.about["classes"] == expected
        return "" if is_same else f"its classes differ from those of {reference.name}"

    def find_taken_name(party: Party) -> str:
        for other in known:
            if _same_name(other.name, party.name):
                return f"{other.name} is already here, as node-{other.node}: the one known first stays"
        if any(_same_name(other.name, party.name) for other in fitting if other is not party):
            return "two nodes came with this name, and neither was known before; give each its own"
        return ""

    fitting = keep(fitting, find_other_classes)
    keep(fitting, find_taken_name)
    return conflicts


def _find_conflict_with_plan(party: Party, plan: Plan) -> str:
    """Return why a newcomer's scheme or number of images is impossible under the plan, or ""."""
    spec = plan.describe().to_json()
    for name, value in party.about["spec"].items():
        # Options may hold a nonce. The hospital's own check of the plan compares them.
        if name != "options" and value != spec.get(name):
            return f"it was not sealed as the plan says: {name} is {value!r}"
    if missing := spec.keys() - party.about["spec"].keys() - {"options"}:
        return f"it does not say how it was sealed: {', '.join(sorted(missing))}"
    # Other sources do not use the plan's counts.
    counts = plan.counts if plan.source == "phantom" else (MAX_IMAGES,) * 3
    for split, limit in zip(("train", "val", "test"), counts, strict=True):
        rows = party.about["splits"][split]["rows"]
        if rows > limit:
            return f"it claims {rows} images in {split}, and the plan counts {limit} in all"
    return ""


def _reference(newcomers: Sequence[Party], known: Sequence[Party]) -> Party:
    """Return the party whose classes are right: one known before, or else one of the most frequent classes."""
    if known:
        return known[0]
    counts = Counter(tuple(party.about["classes"]) for party in newcomers)
    by_name = sorted(newcomers, key=lambda party: party.name)
    return max(by_name, key=lambda party: counts[tuple(party.about["classes"])])


def _same_name(a: str, b: str) -> bool:
    """Say whether two names look alike: letters of another width or case make no other name."""
    return unicodedata.normalize("NFKC", a).casefold() == unicodedata.normalize("NFKC", b).casefold()
