"""The command of cipherward-party that accepts a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coordinator.exchange.console import result, talk
from crypto.errors import CipherwardError
from crypto.files import folder_lock
from parties.cli.keys import Hospital


def accept(
    plan: Annotated[Path, typer.Argument(help="The study's plan, as the coordinator proposes it.")],
    hospital: Hospital,
    weights: Annotated[
        Path | None, typer.Option(help="This hospital's own copy of the plan's public weights.")
    ] = None,
    privacy_budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="This hospital's own epsilon over all its trainings; 0: none. Default: as before, or the plan's.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept without a question.")] = False,
) -> None:
    """Show what taking part in a study means, and accept it. The hospital's client obeys nothing else.

    What was accepted is in HOSPITAL/policy.yaml. The limits in that file, such as test_reads, can be changed there.
    """
    from coordinator.exchange.plan import load_plan
    from parties.agent.accept import accept as accept_policy
    from parties.agent.accept import propose
    from parties.sealing.place import Place

    place = Place.open(hospital)

    def confirm(rows: list[tuple[str, str]], before: dict[str, str]) -> bool:
        table = Table("", "this hospital would accept", *(["it accepted before"] if before else []))
        for name, text in rows:
            table.add_row(name, text, *([before.get(name, "the same")] if before else []))
        talk.print(table)
        return yes or _ask(place.settings.party)

    with folder_lock(place.folder):
        policy = propose(place, load_plan(plan), weights, privacy_budget)
        is_new = accept_policy(place, policy, confirm)
    result.print(f"{place.policy_file}: {policy.study} accepted{'' if is_new else ' already'}")


def _ask(party: str) -> bool:
    """Ask on the terminal. Without a terminal nobody can answer, and --yes must be said."""
    if not sys.stdin.isatty():
        raise CipherwardError(
            "accepting a plan is a decision, and there is no terminal to ask on", "add --yes"
        )
    return typer.confirm(f"Does {party} accept this?", default=False, err=True)
