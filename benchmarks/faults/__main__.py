"""What faults cost a deployed federation: a table of what happened, the time lost and the data lost.

    python -m benchmarks.faults [--only NAME …] [--moments 3] [--set key=value …] --lines FILE
    python -m benchmarks.faults --collect FILE … --json FILE

Three hospitals and a coordinator run as real processes on the loopback interface, with the product's own
commands. They train a small model, and fault after fault strikes one hospital, `hospital-1`, or the coordinator.
Each record is a line of FILE as soon as it is there; the same command goes on where it was ended. The figures are
made of such files alone, and name what has no record. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_json, make_parser, parse_settings, write_figures
from benchmarks.faults import same_model
from benchmarks.faults.at_the_door import DOOR_FAULTS, try_door
from benchmarks.faults.deployment import PLAN, Deployment, TimedOutError
from benchmarks.faults.ledger import Ledger, Trial, make_figures
from benchmarks.faults.machine_faults import CLOUD_DISK, HOSPITAL_DISK, MACHINE_FAULTS, small_disk
from benchmarks.faults.observe import VICTIM, NotReadyError, Observer
from benchmarks.faults.record import Record
from benchmarks.faults.striking import FAULTS, Fault, join_late
from coordinator.exchange.plan import Plan
from coordinator.study.study import party_folder

_console = Console()
#: Prefix of the federations' folders. A program that was killed may write into one while it is removed: a table that
#: takes hours is not ended for that.
_PREFIX = "cipherward-faults-"
#: The fault of a hospital that is not there when the study begins, and the comparison of two whole studies.
ABSENT, SAME_MODEL = "absent", "same-model"
STRIKING: dict[str, Fault] = {**FAULTS, **{name: fault for name, (fault, _) in MACHINE_FAULTS.items()}}
NAMES = (SAME_MODEL, ABSENT, *STRIKING, *DOOR_FAULTS)
#: What a fault that cannot be gone through with raises.
_FAILURES = (TimedOutError, AssertionError, psutil.Error, subprocess.TimeoutExpired)
#: How many federations may fail before a fault strikes, until the harness gives up. Chosen by hand.
_MAX_FAILURES = 20
_SHOWN = ("fault", "moment", "rounds_missed", "seconds_lost", "back_after_s", "data_lost", "skipped")


def list_trials(names: Sequence[str] = NAMES, moments: int = 3) -> dict[Trial, str]:
    """Return the faults and moments of the table with their titles: every fault once, then at its other moments.

    Args:
        names: what is tried, of NAMES, in this order.
        moments: at how many moments a fault strikes that has several.
    """
    trials: dict[Trial, str] = {}
    for turn in range(moments):
        for name in names:
            if name in STRIKING:
                # The middle one first: it is the only one of most faults.
                own = sorted(STRIKING[name].moments, key=lambda moment: moment != "in training")
                for moment in own[turn : turn + 1]:
                    trials[name, moment] = STRIKING[name].title
            elif name in DOOR_FAULTS:
                trials[name, ""] = DOOR_FAULTS[name][0]
            else:
                trials[name, ""] = (
                    same_model.TITLE if name == SAME_MODEL else "absent from the start, joins later"
                )
    return trials


@dataclass
class Harness:
    """Tries faults and keeps their records.

    Attributes:
        ledger: keeps the records.
        settings: changes of the plan.
        lock: a file that is locked, as others may do, while a fault is tried.
        before: a command that is run before each fault, and waited for.
        failures: how many federations were not whole before a fault could strike.
    """

    ledger: Ledger
    settings: dict[str, Any] = field(default_factory=dict)
    lock: Path | None = None
    before: str = ""
    failures: int = 0

    def run(self, trials: dict[Trial, str]) -> None:
        """Try what has no record yet. A study that does not recover is ended, and the rest goes on in another."""
        for trial, title in trials.items():
            is_open = trial[0] in MACHINE_FAULTS and not self.ledger.is_done(trial)
            if is_open and (why := MACHINE_FAULTS[trial[0]][1]()):
                self._keep(trial, title, Record(skipped=why))
        if todo := self._left(trials, (SAME_MODEL,)):
            with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
                self._try(*todo[0], lambda: same_model.compare_models(Path(folder)))
        while todo := self._left(trials, (ABSENT, *STRIKING, *DOOR_FAULTS)):
            self._run_federation(todo)

    def _left(self, trials: dict[Trial, str], names: Sequence[str]) -> list[tuple[Trial, str]]:
        """Return what of these faults has no record yet, with its title."""
        return [(t, title) for t, title in trials.items() if t[0] in names and not self.ledger.is_done(t)]

    def _run_federation(self, todo: list[tuple[Trial, str]]) -> None:
        """Try faults in one federation until all were tried, or until its study does not recover."""
        names = {name for (name, _), _ in todo}
        with (
            tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as temporary,
            contextlib.ExitStack() as disks,
        ):
            folder = Path(temporary) / "f"
            if names & {"full-hospital", "full-cloud"}:
                place = party_folder(folder / "study", int(VICTIM.rpartition("-")[2]))
                disks.enter_context(small_disk(place, HOSPITAL_DISK))
                disks.enter_context(small_disk(folder / "cloud", CLOUD_DISK))
            deployment = Deployment(folder, Plan.model_validate({**PLAN, **self.settings}))
            figures: dict[str, Any] = {}
            try:
                figures["server_start_seconds"] = deployment.start_server()
                at_work = [(t, title) for t, title in todo if t[0] not in DOOR_FAULTS]
                if at_work:
                    self._strike(deployment, at_work, figures)
                for trial, title in todo:
                    if trial[0] in DOOR_FAULTS:
                        door = functools.partial(try_door, deployment, trial[0])
                        self._try(trial, title, door, deployment)
            finally:
                left = deployment.close()
                self.ledger.add_run({**figures, "left_running": left, "load": os.getloadavg()[1]})

    def _strike(
        self, deployment: Deployment, todo: list[tuple[Trial, str]], figures: dict[str, Any]
    ) -> None:
        """Try the faults that strike a study, until it does not recover; then end it in good order."""
        watch = Observer(deployment)
        is_late = any(name == ABSENT for (name, _), _ in todo)
        here = [name for name in deployment.names if not (is_late and name == VICTIM)]
        figures["join_seconds"] = deployment.join(*here)
        deployment.start_run()
        # Who is not there in the beginning comes first.
        for trial, title in sorted(todo, key=lambda item: item[0][0] != ABSENT):
            name, moment = trial
            strike = STRIKING[name].strike if name != ABSENT else join_late
            action = functools.partial(strike, watch, moment)
            try:
                if self._try(trial, title, action, deployment).is_failed:
                    break
            except NotReadyError as error:
                figures["given_up"] = f"before {name}: {error}"
                self.failures += 1
                if self.failures > _MAX_FAILURES:
                    raise
                break
        with contextlib.suppress(Exception):
            figures |= {"round_seconds": watch.undisturbed_s}
        figures["rounds"] = len(deployment.rows)
        try:
            deployment.end_study()
        except (*_FAILURES, OSError) as error:
            figures["end"] = f"`stop` and SIGTERM to all agents: {error}"

    def _try(
        self, trial: Trial, title: str, action: Callable[[], Record], deployment: Deployment | None = None
    ) -> Record:
        """Try a fault and keep its record; a harness that cannot go through with it says so."""
        if self.before:
            subprocess.run(self.before, shell=True, check=True)
        # Whole studies take long, and are not about time: they hold nobody up.
        with _locked(self.lock if deployment is not None else None):
            try:
                record = action()
            except _FAILURES as error:
                record = Record(
                    happened=f"NOT OBSERVED: {type(error).__name__}: {error}", data_lost="not known"
                )
            if deployment is not None:
                record = replace(record, left_running=deployment.find_orphans())
        return self._keep(trial, title, record)

    def _keep(self, trial: Trial, title: str, record: Record) -> Record:
        """Keep a record and print it."""
        record = replace(record, name=trial[0], fault=title, moment=trial[1])
        self.ledger.add(record)
        shown = {key: value for key, value in record.to_json().items() if value not in ("", None, [], {})}
        _console.print(time.strftime("%H:%M:%S"), shown)
        return record


@contextlib.contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    """Hold a file's lock, if one is named, together with others that want it so."""
    if path is None:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def run_faults(names: Sequence[str], moments: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Try faults in memory, and return their records and the figures of the federations."""
    ledger = Ledger(None)
    Harness(ledger).run(list_trials(names, moments))
    return ledger.records, ledger.runs


def show(figures: dict[str, Any]) -> None:
    """Print the table and the targets."""
    table = Table(*(name.replace("_", " ") for name in _SHOWN), title="faults")
    for row in figures["records"]:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in _SHOWN))
    _console.print(table)
    targets = Table("target", "measured", "holds")
    for target in figures["targets"]:
        word = {True: "yes", False: "NO", None: "not measured as a whole"}[target["holds"]]
        targets.add_row(target["promise"], target["measured"], word)
    _console.print(targets)


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="only these faults")
    parser.add_argument("--moments", type=int, choices=(1, 2, 3), default=3, help="moments of a round")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the plan")
    parser.add_argument("--lines", type=Path, help="the file of JSON lines that records are added to")
    parser.add_argument(
        "--lock", type=Path, help="hold this file's shared lock (flock) while a fault is tried"
    )
    parser.add_argument("--before", default="", metavar="COMMAND", help="run this before each fault")
    parser.add_argument(
        "--collect", nargs="+", type=Path, help="try nothing; make the figures of these files"
    )
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    if not args.collect:
        if args.lines is None:
            parser.error("--lines FILE is needed, so that no record is lost")
        # Ended from outside, it still ends what it started.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))
        harness = Harness(Ledger(args.lines), parse_settings(args.set), args.lock, args.before)
        harness.run(list_trials(args.only, args.moments))
    files = args.collect or [args.lines]
    trials = list_trials() if args.collect else list_trials(args.only, args.moments)
    figures = make_figures(files, trials)
    show(figures)
    write_figures(args.json, figures)


if __name__ == "__main__":
    main()
