"""The commands of cipherward-party for joining a study: accept, declare, agree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Column, Table

from coordinator.exchange.console import result, talk
from crypto.errors import CipherwardError
from crypto.files import folder_lock, require_replaceable
from crypto.printable import printable
from parties.cli.keys import Hospital


def accept(
    plan: Annotated[Path, typer.Argument(help="The study's plan, as the coordinator proposes it.")],
    hospital: Hospital,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="This hospital's own copy of the plan's public weights.", show_default="the plan's path"
        ),
    ] = None,
    privacy_budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="This hospital's own epsilon over all its trainings; 0: none. Default: as before, or the plan's.",
        ),
    ] = None,
    privacy_delta: Annotated[
        float | None,
        typer.Option(
            min=1e-12,
            max=0.1,
            help="The delta of --privacy-budget. Default: as before, or 1e-5, whatever the plan says.",
        ),
    ] = None,
    privacy_unit: Annotated[
        Literal["patient", "image"] | None,
        typer.Option(help="Whom --privacy-budget protects. Default: as before, or as the plan says."),
    ] = None,
    max_parameters: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most parameters that the plan's model may have: a training takes 16 bytes of memory for each, "
            "and more.",
            show_default="400,000,000",
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
        policy = propose(
            place, load_plan(plan), weights, privacy_budget, talk.print, privacy_delta, privacy_unit,
            max_parameters,
        )  # fmt: skip
        is_new = accept_policy(place, policy, confirm)
    result.print(f"{place.policy_file}: {policy.study} accepted{'' if is_new else ' already'}")


def declare(
    hospital: Hospital,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: HOSPITAL/statement.json.")
    ] = None,
) -> None:
    """State, signed, which sealed sets this hospital brings into the study that it accepted.

    The statement holds names and numbers, no images and no key. Send it to the coordinator.
    """
    from coordinator.exchange.statement import SCHEMA, SPLITS, write_statement
    from parties.agent.declare import make_statement
    from parties.agent.identity_file import ensure_identity
    from parties.sealing.place import Place
    from parties.training.policy_file import read_policy

    place = Place.open(hospital)
    path = out or place.folder / "statement.json"
    require_replaceable(path, SCHEMA)
    with folder_lock(place.folder):
        policy = read_policy(place)
        statement = make_statement(place, policy, ensure_identity(place))
        write_statement(path, statement)
    counts = ", ".join(f"{statement.sets.of(split).images} in {split}" for split in SPLITS)
    talk.print(
        f"{statement.hospital} states for the study {statement.study}: images: {counts}; its classes, its"
    )
    talk.print(f"scheme, its key's id {statement.key_id} and its identity {statement.public.fingerprint}")
    talk.print("send the coordinator this file alone: the hospital's folder holds secrets")
    result.print(str(path))


def agree(
    study: Annotated[
        Path, typer.Argument(help="The study manifest that the coordinator made: study.json.")
    ],
    hospital: Hospital,
    yes: Annotated[bool, typer.Option("--yes", help="Agree without a question.")] = False,
) -> None:
    """Show who takes part in a study with what, and agree to it. The hospital's client then answers for it alone.

    Compare every fingerprint with the one that the hospital itself tells you, by telephone or in person. The study
    manifest came through the coordinator, which could have exchanged an identity.
    """
    from coordinator.exchange.manifest import read_manifest
    from coordinator.exchange.statement import SPLITS
    from parties.agent.agree import CHANGED, Member, overlapping_studies
    from parties.agent.agree import agree as agree_to
    from parties.agent.identity_file import read_identity
    from parties.sealing.place import Place
    from parties.training.policy_file import read_policy

    place, manifest = Place.open(hospital), read_manifest(study)

    def confirm(members: list[Member]) -> bool:
        # Three columns of a few lines each: what is compared by telephone is in one piece on 80 columns, too.
        fingerprint = Column("fingerprint of its identity, id of its key", no_wrap=True)
        table = Table("hospital", fingerprint, "images", show_lines=True)
        for member in members:
            counts = ", ".join(f"{n} {split}" for n, split in zip(member.images, SPLITS, strict=True))
            table.add_row(
                f"{member.name}\n({member.standing})",
                f"{member.fingerprint}\nkey {printable(member.key_id)}",
                f"{counts}\nweight {member.weight:.1%}",
            )
        talk.print(table)
        for member in members:
            if member.standing == CHANGED:
                talk.print(
                    f"warning: {member.name} comes with another identity than this hospital agreed to before; agree "
                    "only if it tells you itself why"
                )
        for name, shared in overlapping_studies(place, manifest):
            talk.print(
                f"warning: this hospital agreed to {printable(name)} with the same training images and "
                f"{', '.join(shared)}; sums of two studies over other hospitals can give an update away"
            )
        talk.print(
            "compare every fingerprint with the one that the hospital itself tells you, by telephone or in person"
        )
        return yes or _ask(place.settings.party, "agreeing to a study")

    with folder_lock(place.folder):
        is_new = agree_to(place, read_policy(place), manifest, read_identity(place), confirm)
    result.print(
        f"{place.policy_file}: study manifest {manifest.digest} agreed to{'' if is_new else ' already'}"
    )


def _ask(party: str, what: str = "accepting a plan") -> bool:
    """Ask on the terminal. Without a terminal nobody can answer, and --yes must be said."""
    if not sys.stdin.isatty():
        raise CipherwardError(f"{what} is a decision, and there is no terminal to ask on", "add --yes")
    return typer.confirm(f"Does {party} accept this?", default=False, err=True)
