"""Commands for whole studies on one machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.exchange.console import live_line, result, talk
from crypto.errors import CipherwardError, unknown
from crypto.files import require_replaceable
from crypto.plural import counted

if TYPE_CHECKING:
    from coordinator.exchange.plan import Plan
    from coordinator.report.records import Report
    from coordinator.study.study import Engine


def simulate(
    plan: Annotated[Path, typer.Argument(help="The study's plan, such as configs/demo.yaml.")],
    out: Annotated[Path | None, typer.Option(help="The study's folder. Default: runs/STUDY.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images.", show_default="the plan's `images`")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="File of weights.", show_default="the plan's `weights`")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value: replaces one setting of the plan. Can be repeated.",
            show_default="none",
        ),
    ] = None,
    until: Annotated[
        str, typer.Option(help="The last step to run: seal, train, baseline, attack, score or report.")
    ] = "report",
    engine: Annotated[
        str,
        typer.Option(
            help="What runs the hospitals in training: processes (of this command, without a port), or ray (Flower's "
            "simulation, which opens ports on this machine)."
        ),
    ] = "processes",
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many hospitals have a process at a time, with --engine processes. Default: one a core; one in "
            "all with an NVIDIA GPU.",
        ),
    ] = 0,
) -> None:
    """Run a whole study on this machine: seal, train by Flower's apps, attack, score and report.

    Run the same command again to continue an interrupted study. Each step's output is in STUDY/logs. The exit status
    is 1 if a control failed, because the report is then invalid.
    """
    import time

    from coordinator.report.verdict_text import require_valid, summary_lines
    from coordinator.study.steps import STEPS
    from coordinator.study.study import ENGINES, Engine

    if until not in STEPS:
        raise unknown("step", until, STEPS)
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if workers and engine == "ray":
        raise CipherwardError(
            "--workers is for --engine processes", "Ray runs one hospital at a time, on all cores"
        )
    stated = _parse_settings(settings or [])
    paths = {k: str(v) for k, v in (("images", images), ("weights", weights)) if v is not None}
    for name in paths.keys() & stated.keys():
        raise CipherwardError(f"--{name} and --set {name} state one setting", "leave one of them out")
    overrides = stated | paths
    full_plan = _read_checked_plan(plan, overrides)
    folder = (out or Path("runs") / full_plan.study).resolve()
    started = time.monotonic()
    report = _run_study(full_plan, folder, until, Engine(engine, workers))
    if report is None:
        result.print(str(folder))
        return
    for line in summary_lines(report):
        result.print(line)
    result.print(f"{time.monotonic() - started:.0f} s in this run")
    result.print(f"report: {folder / 'report.html'}")
    require_valid(report)


def _run_study(plan: Plan, folder: Path, until: str, engine: Engine) -> Report | None:
    """Run the study. On a terminal, what it is doing now is one live line; without one, lines of their own."""
    from coordinator.study.round_table import round_table
    from coordinator.study.simulate import simulate as run_study

    def log(line: str) -> None:
        talk.print(f"· {line}")

    rows: Sequence[dict[str, Any]] = []

    def take_rounds(all_rows: Sequence[dict[str, Any]]) -> None:
        nonlocal rows
        rows = all_rows

    hospitals = [f"hospital-{index}" for index in range(plan.parties)]
    with live_line(lambda: round_table(rows, hospitals)) as show:
        step = ""

        def set_step(line: str) -> None:
            nonlocal step
            step = line
            if not talk.is_terminal:
                log(line)
            show(line, is_printed=True)

        def show_detail(line: str) -> None:
            if any(character.isalnum() for character in line):  # the border of a table names nothing
                show(line if talk.is_terminal or not step else f"{step}: {line}")

        return run_study(plan, folder, until, log, set_step, show_detail, engine, take_rounds)


def _parse_settings(words: list[str]) -> dict[str, Any]:
    """Return key=value words as a dict, with the values read as YAML."""
    from coordinator.exchange.settings import parse_assignments

    return parse_assignments(words, "--set", "key=value", "for example: --set rounds=3")


def _read_checked_plan(path: Path, overrides: dict[str, Any]) -> Plan:
    """Read a plan, and raise CipherwardError for an attack that no audit takes: it would end after the training."""
    from coordinator.adversary.run.suite import check_attacks
    from coordinator.exchange.plan import read_plan

    plan = read_plan(path, overrides)
    check_attacks(plan.attacks, has_study=plan.rounds > 0)
    return plan


def manifest(
    plan: Annotated[Path, typer.Argument(help="The study's plan, which the hospitals accepted.")],
    statements: Annotated[
        list[Path], typer.Argument(help="Each hospital's statement, from `cipherward-party declare`.")
    ],
    out: Annotated[Path, typer.Option(help="The study manifest to write.")] = Path("study.json"),
) -> None:
    """Put the hospitals' statements and the plan into one study manifest, after checking that they fit together.

    Send it to every hospital: each checks it and agrees to it (`cipherward-party agree`).
    """
    from coordinator.adversary.run.suite import check_attacks
    from coordinator.exchange.manifest import SCHEMA, assemble, write_manifest
    from coordinator.exchange.plan import load_plan
    from coordinator.exchange.statement import read_statement

    require_replaceable(out, SCHEMA)
    planned = load_plan(plan)
    check_attacks(planned.attacks, has_study=planned.rounds > 0)
    study = assemble(planned, [read_statement(path) for path in statements])
    before = out.read_bytes() if out.exists() else None
    write_manifest(out, study)
    for name, public in study.roster.items():
        talk.print(f"{name}: {public.fingerprint}", soft_wrap=True)
    if before is not None and before != out.read_bytes():
        talk.print(f"{out} was another one and is replaced: every hospital has to agree to the new one")
    result.print(f"{out}: study manifest {study.digest} of {counted(len(study.hospitals), 'hospital')}")


def export(
    study: Annotated[Path, typer.Argument(help="The study's folder, or the cloud folder of a training.")],
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write events for TensorBoard into this folder.", show_default="none"
        ),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Write a run to this MLflow server or store.", show_default="none"
        ),
    ] = None,
) -> None:
    """Write a training's rounds for TensorBoard or MLflow: the numbers of rounds.jsonl, and no hospital's name.

    Run it again while a study trains: the earlier events are replaced, and an MLflow run gets the new rounds.
    """
    from coordinator.study.loggers import (
        read_rounds,
        study_name,
        without_login,
        write_mlflow,
        write_tensorboard,
    )

    if tensorboard is None and mlflow is None:
        raise CipherwardError("nothing to write to", "name --tensorboard FOLDER or --mlflow URI")
    rounds = read_rounds(study)
    if tensorboard is not None:
        write_tensorboard(rounds, tensorboard)
        result.print(f"{tensorboard}: {counted(len(rounds), 'round')}")
    if mlflow is not None:
        count = write_mlflow(rounds, mlflow, study_name(study))
        result.print(f"{without_login(mlflow)}: {counted(count, 'new round')} of {len(rounds)}")


def env() -> None:
    """Print the variables that keep Flower and Ray quiet and offline: eval "$(cipherward-coordinator env)"."""
    import os
    import shlex

    from coordinator.exchange.quiet import QUIET, proxy_exceptions

    for name, value in (QUIET | proxy_exceptions(os.environ)).items():
        result.print(f"export {name}={shlex.quote(value)}")
