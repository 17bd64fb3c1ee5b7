"""Run a study on a federation's server: submit the app, follow the rounds, and submit again what the server lost.

Flower ends a run for good when its SuperLink or its ServerApp is killed. The round loop resumes from its checkpoint
(coordinator/federation/rounds.py), so the study is submitted again and goes on with the next round. An error of ours
ends it: it would come again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.deployment.approvals import missing_approvals
from coordinator.deployment.bundle import bundle_digest
from coordinator.deployment.control import Control, Run
from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.running import connect_to
from coordinator.deployment.status import describe_absent
from coordinator.exchange.console import Log
from coordinator.exchange.manifest import read_manifest
from coordinator.exchange.plan import FILE, Plan, placed_text, read_plan
from coordinator.exchange.training_result import read_training
from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_lines, write_bytes, write_text
from crypto.plural import counted

#: Seconds between two looks at the run; the longest wait for a server that has ended; and for one that this command
#: never saw: it may be starting, but most likely nobody started it. Chosen by hand.
_LOOK_S, _SERVER_AWAY_S, _SERVER_UNSEEN_S = 1.0, 600.0, 60.0
#: How often a run is submitted again without a further round in between. Chosen by hand.
_MAX_RESTARTS = 5
#: What the ServerApp says if too few hospitals are there (coordinator/federation/participants.py).
_TOO_FEW = ("parties are usable", "parties came within", "usable replies in", "parties evaluated round")
#: What a hospital's SuperNode answers if no signature that it trusts comes with the app bundle: Flower's own words.
_UNSIGNED = "FAB could not be verified"


@dataclass
class _Progress:
    """What has happened so far.

    Attributes:
        rows: how many lines of the journal were shown.
        restarts: how often the run was submitted again since the last line.
        was_away: whether the server was away since the last line of a round that counts.
        absent: which hospitals were not online when it was last said, and why.
    """

    rows: int = 0
    restarts: int = 0
    was_away: bool = False
    absent: str = ""


def prepare(
    place: DeploymentFolder, plan_file: Path | None, log: Log = lambda _: None
) -> tuple[Path, Plan]:
    """Make the folder of a study, and return it with its plan.

    Args:
        place: the deployment's folder.
        plan_file: the plan; None for the provisioned one.
        log: takes the line that says how many tensors the plan's weights file gave.

    Raises:
        CipherwardError: if a new study's model cannot be built or its weights do not fit, if the plan is for another
            number of hospitals, or if the study was begun with another plan.
    """
    source = plan_file or place.plan
    plan = read_plan(source, needs_images=False)
    hospitals = place.settings.hospitals
    if plan.parties != len(hospitals):
        raise CipherwardError(
            f"the plan is for {counted(plan.parties, 'hospital')}, and this federation has {len(hospitals)}",
            "change one of the two, and provision again",
        )
    study = place.study_folder(plan.study)
    if not (study / FILE).exists():
        # Imported here: torch takes seconds to load.
        from coordinator.model.check_model import check_model

        check_model(plan, log)
    with disk_errors(study):
        (study / "cloud").mkdir(parents=True, exist_ok=True, mode=0o700)
    if (study / FILE).exists() and read_plan(study / FILE, needs_images=False) != plan:
        raise CipherwardError(
            f"{study} was begun with another plan", "give the study another name, or remove its folder"
        )
    if place.study.exists():
        _require_same_manifest(study / "cloud" / "training.json", read_manifest(place.study).digest)
    write_bytes(study / FILE, placed_text(source, plan))
    if place.study.exists():
        write_bytes(study / "study.json", place.study.read_bytes())
    return study, plan


def _require_same_manifest(result: Path, digest: str) -> None:
    """Raise CipherwardError if a finished study was trained under another study manifest than this one."""
    if result.exists() and read_training(result.parent).get("manifest_sha256") != digest:
        raise CipherwardError(
            f"{result} is of a training under another study manifest: with other keys, sets or hospitals",
            "give the new study another name in its plan, or remove the folder's cloud/ to train anew",
        )


def run_study(
    place: DeploymentFolder, plan_file: Path | None, log: Log, on_round: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run a study to its end, from where it stopped, and return the content of training.json.

    Args:
        place: the deployment's folder. Its server must be running.
        plan_file: the plan; None for the provisioned one.
        log: takes one line for each event.
        on_round: takes each line of the journal.

    Raises:
        CipherwardError: if the run fails by an error of ours, if it was stopped, if the server does not come back, or
            if the run was lost five times without a further round.
    """
    study, plan = prepare(place, plan_file, log)
    result = study / "cloud" / "training.json"
    if plan.rounds == 0:
        raise CipherwardError("this plan has no rounds", "set rounds: 1 or more")
    if missing := missing_approvals(place):
        log(
            f"no approval of this app bundle came from {', '.join(missing)}: their SuperNodes refuse it until you "
            f"carry it ({_carry(place)})"
        )
    if result.exists():
        log(f"{plan.study} is trained already: {result}")
    progress = _Progress(rows=len(read_lines(study / "cloud" / "rounds.jsonl")))
    patience_s = _SERVER_UNSEEN_S
    while not result.exists():
        run_id = _submit(place, study, log, patience_s)
        patience_s = _SERVER_AWAY_S
        run = _follow(place, study, run_id, progress, log, on_round)
        if result.exists():
            break
        _require_restart(place, run, place.log(f"run-{run_id}"), progress)
        log(f"run {run_id} ended as {run.status if run else 'unknown'}: it is submitted again")
    return read_training(result.parent)


def stop_runs(place: DeploymentFolder) -> list[int]:
    """Stop all runs that have not ended, and return their ids."""
    with connect_to(place) as control:
        unfinished = [run.run_id for run in control.runs() if not run.is_finished]
        for run_id in unfinished:
            control.stop_run(run_id)
    return unfinished


def _submit(place: DeploymentFolder, study: Path, log: Log, patience_s: float) -> int:
    """Return the id of this study's run: one that is under way, or else a new one."""
    with _connect_patiently(place, log, patience_s) as control:
        unfinished = [run for run in control.runs() if not run.is_finished]
        for run in unfinished:
            if run.study == str(study):
                log(f"run {run.run_id} of this study is under way: its rounds are shown")
                return run.run_id
        if unfinished:
            raise CipherwardError(
                f"run {unfinished[-1].run_id} of another study is under way ({unfinished[-1].study})",
                f"wait, or end it: cipherward-coordinator stop {place.root}",
            )
        bundle = place.read_bundle()
        run_id = control.start_run(bundle, bundle_digest(bundle), {"study-dir": str(study)})
    log(f"run {run_id} is submitted")
    return run_id


@contextlib.contextmanager
def _connect_patiently(place: DeploymentFolder, log: Log, patience_s: float) -> Iterator[Control]:
    """Connect to the server; wait for one that has ended to come back, and say so.

    Args:
        place: the deployment's folder.
        log: takes the line that says what is waited for.
        patience_s: the longest wait, in seconds.

    Raises:
        CipherwardError: if it does not come back.
    """
    deadline, has_said = time.monotonic() + patience_s, False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                control = stack.enter_context(connect_to(place))
                control.runs()
            except CipherwardError as error:
                if time.monotonic() > deadline:
                    raise
                if not has_said:
                    has_said = True
                    log(f"{error.message}; waiting for it, at most {patience_s:.0f} s ({error.hint})")
            else:
                yield control
                return
        time.sleep(_LOOK_S)


def _follow(
    place: DeploymentFolder,
    study: Path,
    run_id: int,
    progress: _Progress,
    log: Log,
    on_round: Callable[[dict[str, Any]], None],
) -> Run | None:
    """Show the rounds until the run ends; return the run as the server knows it, None if it does not."""
    away_since: float | None = None
    while True:
        run: Run | None = None
        printed = ""
        try:
            with connect_to(place) as control:
                run = next((r for r in control.runs() if r.run_id == run_id), None)
                if run is not None and run.is_finished:
                    printed = control.read_log(run_id)
                elif run is not None:
                    _say_who_is_absent(describe_absent(place, control.nodes()), progress, log)
            if away_since is not None:
                log(f"the server is back after {time.monotonic() - away_since:.0f} s")
            away_since = None
        except CipherwardError as error:
            if away_since is None:
                away_since, progress.was_away = time.monotonic(), True
                log("the server does not answer; waiting for it")
            if time.monotonic() - away_since > _SERVER_AWAY_S:
                raise CipherwardError(
                    f"the server was away for {_SERVER_AWAY_S:.0f} s: {error.message}",
                    f"start it: cipherward-coordinator serve {place.root}; then run this again",
                ) from None
        rows = read_lines(study / "cloud" / "rounds.jsonl")
        for row in rows[progress.rows :]:
            on_round(row)
            if row.get("aggregated", True):
                progress.restarts, progress.was_away = 0, False
        progress.rows = len(rows)
        if away_since is None and (run is None or run.is_finished):
            log_file = place.log(f"run-{run_id}")
            with disk_errors(log_file):
                log_file.parent.mkdir(exist_ok=True, mode=0o700)
            write_text(log_file, printed)
            return run
        time.sleep(_LOOK_S)


def _say_who_is_absent(absent: str, progress: _Progress, log: Log) -> None:
    """Say which hospitals are not online, each time that it changes: who waits for them sees no other sign."""
    if absent != progress.absent:
        log(f"not online: {absent}" if absent else "all hospitals are online")
    progress.absent = absent


def _carry(place: DeploymentFolder) -> str:
    """Return the command that takes the hospitals' approvals."""
    return f"cipherward-coordinator carry {place.root} APPROVAL.json"


def _require_restart(place: DeploymentFolder, run: Run | None, log_file: Path, progress: _Progress) -> None:
    """Raise CipherwardError unless submitting the run again may help.

    Args:
        place: the deployment's folder.
        run: the run that ended, as the server knows it.
        log_file: what its ServerApp printed.
        progress: counts the restarts.
    """
    if run is not None and run.status == "finished:stopped":
        raise CipherwardError(f"run {run.run_id} was stopped", "run the same command again to go on")
    text = log_file.read_text() if log_file.exists() else ""
    error = _own_error(text)
    # After a loss of the server the hospitals may not be back yet.
    is_early = (progress.restarts > 0 or progress.was_away) and any(words in error for words in _TOO_FEW)
    if error and not (is_early and progress.restarts < _MAX_RESTARTS):
        hint = f"see {log_file}; run again to go on from the last round"
        if _UNSIGNED in error:
            missing = ", ".join(missing_approvals(place)) or "the hospital that says so"
            hint = (
                f"no approval that fits came from {missing}: ask for approval.json (cipherward-party approve "
                f"writes it), carry it ({_carry(place)}), and run again"
            )
        raise CipherwardError(error, hint)
    if progress.restarts >= _MAX_RESTARTS:
        details = run.details if run is not None else "the server does not know it"
        raise CipherwardError(
            f"the run was lost {counted(progress.restarts + 1, 'time')} without a further round: {details[:300]}",
            f"see {log_file}",
        )
    progress.restarts += 1


def _own_error(text: str) -> str:
    """Return our own last error in what a ServerApp printed, or ""."""
    # At the start of a line: other lines hold texts of hospitals, which could end a study with words of their own.
    errors = re.findall(r"^(?:\w+\.)*CipherwardError:[ \t]*(\S.*)$", text, re.MULTILINE)
    return errors[-1].strip() if errors else ""
