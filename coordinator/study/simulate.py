"""A whole study on one machine: run the same commands as a real study, step by step (steps.py).

A step whose result is there is skipped, so a killed study continues where it stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from coordinator.exchange.audit.suite1 import require_enough_to_audit
from coordinator.exchange.end_with_us import MARK, ending_with_us
from coordinator.exchange.plan import FILE, Plan, read_plan, write_plan
from coordinator.exchange.temporary import require_ray
from coordinator.report.records import Report
from coordinator.report.report_file import read_report
from coordinator.study.flower_run import LOCAL_DOOR
from coordinator.study.steps import STEPS, Skipped
from coordinator.study.study import Engine, Log, OnRounds, Study, Talk, ignore, ignore_rounds
from crypto.errors import CipherwardError
from crypto.files import (
    disk_errors,
    folder_lock,
    parse_json,
    read_json,
    require_output_folder,
    require_outside,
    write_json,
)
from crypto.ownership import is_shared
from crypto.sets.dataset import SealedDataset

#: The steps that need an audit's sets.
_ATTACKING = ("attack", "score", "report")


def simulate(
    plan: Plan,
    out: Path,
    until: str,
    log: Log,
    status: Log | None = None,
    detail: Log = ignore,
    engine: Engine = Engine(),  # noqa: B008 - it is frozen
    rounds: OnRounds = ignore_rounds,
) -> Report | None:
    """Run a study up to a step.

    Args:
        plan: the study's plan.
        out: the study's folder.
        until: the last step to run, a name in `STEPS`.
        log: gets the lines that stay: one a step, and one a round.
        status: gets what the study is doing now; `log` by default.
        detail: gets what the steps' programs print. The log files have it in any case.
        engine: what runs the hospitals in training.
        rounds: gets all lines of the training's journal, whenever one was written; none when the training has ended.

    Returns:
        The report if it was reached, otherwise None.

    Raises:
        CipherwardError: if the plan's model cannot be built, its weights do not fit, or Ray cannot work here, before
            anything is written; if `out` holds a study with another plan, or a step fails.
    """
    study = Study(plan, out.resolve(), Talk(log, log if status is None else status, detail, rounds), engine)
    if engine.name == "ray":
        require_ray("leave --engine ray out: --engine processes trains the same model without it")
    if plan.rounds and not (study.cloud / "training.json").exists():
        # Imported here: torch takes seconds to load, and a study that is resumed may not need it.
        from coordinator.model.check_model import check_model

        study.talk.status("the model is checked")
        check_model(plan, log)
    if plan.source == "folder" and not plan.labels:
        require_outside(study.out, Path(plan.images))
    require_output_folder(study.out, (FILE, "parties", "cloud"), "choose another --out")
    with disk_errors(study.out):
        study.cloud.mkdir(parents=True, exist_ok=True)
        (study.out / "logs").mkdir(exist_ok=True)
        if is_shared(study.out.stat()):
            log(
                f"warning: other users of this machine can swap the files in {study.out}: chmod go-w {study.out}"
            )
    try:
        with _ending_cleanly(), folder_lock(study.out), _marking_children():
            _check_plan(study)
            is_public = plan.source == "phantom"
            if engine.name == "ray" and not is_public and plan.train == "federated" and plan.rounds:
                log(LOCAL_DOOR)
            _run_steps(study, until)
    except (KeyboardInterrupt, SystemExit) as stop:
        log(f"{_how_far(study)}; run the same command to go on")
        raise SystemExit(stop.code if isinstance(stop, SystemExit) else 130) from None
    report = study.out / "report.json"
    return read_report(report) if report.exists() and until == "report" else None


@contextlib.contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Turn the signals that end a process into SystemExit, so that a study ends what it started."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: sys.exit(143)) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _marking_children() -> Iterator[None]:
    """End all that the steps start when this process ends, in whatever way."""
    with ending_with_us() as folder:
        before = os.environ.get(MARK)
        os.environ[MARK] = str(folder)
        try:
            yield
        finally:
            os.environ.pop(MARK)
            if before is not None:
                os.environ[MARK] = before


def _how_far(study: Study) -> str:
    """Return how far a study came that is being stopped, by the checkpoint that it will go on from."""
    from safetensors import SafetensorError, safe_open

    checkpoint = study.cloud / "checkpoint.safetensors"
    if (study.cloud / "training.json").exists() or not checkpoint.exists():
        return "stopped"
    try:
        with safe_open(str(checkpoint), framework="numpy") as file:
            done = parse_json(file.metadata()["state"])["round"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return "stopped"
    return f"stopped after round {done} of {study.plan.rounds}"


def _check_plan(study: Study) -> None:
    """Write the plan into a new study's folder; raise CipherwardError if the folder's study has another plan."""
    if not (study.out / FILE).exists():
        # Whatever was sealed and trained there would be taken for the work of this plan.
        if (study.out / "parties").exists():
            raise CipherwardError(
                f"{study.out} holds a study, and its {FILE} is gone",
                f"restore {FILE} from your backup, choose another --out, or remove that folder",
            )
        write_plan(study.plan, study.out)
    elif read_plan(study.out / FILE) != study.plan:
        raise CipherwardError(
            f"{study.out} holds a study with another plan", "choose another --out, or remove that folder"
        )


def _require_enough_images(study: Study) -> None:
    """Raise CipherwardError if the first hospital, whose sets are audited, has too few images."""
    folder = study.hospital(0) / "sealed"
    for path in [folder / "train", *sorted(folder.glob("audit-*"))]:
        require_enough_to_audit(len(SealedDataset.open(path)), str(path))


def _read_seconds(path: Path) -> dict[str, float]:
    """Return the seconds of the steps of earlier runs."""
    if not path.exists():
        return {}
    remedy = "remove it, and run the same command again: only the times of earlier steps are lost"
    value = read_json(path, "step times", remedy=remedy)
    if not isinstance(value, dict):
        raise CipherwardError(f"the step times {path} are damaged: it is no JSON object", remedy)
    return value


def _run_steps(study: Study, until: str) -> None:
    """Run the steps in order, and write down the seconds of those that did something."""
    path = study.out / "logs" / "seconds.json"
    seconds = _read_seconds(path)
    for name, step in STEPS.items():
        started = time.monotonic()
        summary = step(study)
        if summary is None:
            study.talk.log(f"{name}: there already")
        elif isinstance(summary, Skipped):
            study.talk.log(f"{name}: {summary}")
        else:
            seconds[name] = round(time.monotonic() - started, 1)
            write_json(path, seconds)
            study.talk.log(f"{name}: {summary}, {seconds[name]:.1f} s")
        if name == until:
            break
        if name == "seal" and until in _ATTACKING:
            _require_enough_images(study)
