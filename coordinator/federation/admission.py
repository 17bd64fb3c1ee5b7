"""Which introductions belong to one run: those that the study manifest's hospitals signed, and that say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.exchange.introduction import is_signed
from coordinator.exchange.manifest import StudyManifest
from coordinator.exchange.statement import SPLITS, Statement, canonical


@dataclass(frozen=True)
class Party:
    """A party as it introduced itself.

    Attributes:
        node: its Flower node id.
        name: its name.
        about: its whole introduction: party, classes, spec, splits, manifest, run, node and time_ns.
        text: the text of the introduction, as it was signed.
        signature: base64 of the signature.
    """

    node: int
    name: str
    about: dict[str, Any]
    text: str
    signature: str


def find_conflicts(newcomers: Sequence[Party], manifest: StudyManifest, run: int) -> dict[int, str]:
    """Return why newcomers cannot belong to a run, by node; those that can are left out.

    Args:
        newcomers: the parties that introduced themselves just now.
        manifest: what the hospitals agreed on. It is right.
        run: the id of Flower's run.
    """
    reasons = {party.node: _find_conflict(party, manifest, run) for party in newcomers}
    return {node: reason for node, reason in reasons.items() if reason}


def _find_conflict(party: Party, manifest: StudyManifest, run: int) -> str:
    """Return the first fact in which an introduction differs from the manifest, or "".

    The signature is compared first: whoever else introduces itself takes no hospital's name from it.
    """
    statement = manifest.statements.get(party.name)
    if statement is None:
        return "no hospital of the study manifest has this name"
    if not is_signed(statement.public, party.text, party.signature):
        return f"its introduction is not signed by the identity of {party.name} in the study manifest"
    about = party.about
    if (about["run"], about["node"]) != (run, party.node):
        return "its introduction was signed for another run or another node"
    if about["manifest"] != manifest.digest:
        return f"it agreed to another study manifest: {about['manifest'][:16]}, not {manifest.digest[:16]}"
    return _find_other_fact(about, statement)


def _find_other_fact(about: dict[str, Any], statement: Statement) -> str:
    """Return the first fact that a hospital states in its introduction otherwise than in the manifest, or ""."""
    stated = "and stated in the study manifest"
    for field in sorted(statement.spec.keys() | about["spec"].keys()):
        now, before = about["spec"].get(field), statement.spec.get(field)
        if canonical(now) != canonical(before):
            return f"it says that it was sealed with {field} {now!r}, {stated} {before!r}"
    if about["classes"] != list(statement.classes):
        return f"its classes are not those that it {stated.removeprefix('and ')}"
    for split in SPLITS:
        facts, row = statement.sets.of(split), about["splits"][split]
        pairs = {
            "images": (row["rows"], facts.images),
            "key id": (row.get("key_id"), statement.key_id),
            "digest": (row.get("digest"), facts.digest),
        }
        for what, (now, before) in pairs.items():
            if now != before:
                return f"its {what} of {split} is {now}, {stated} {before}"
    return ""
