"""The folder of a simulated study, and the processes that work in it.

runs/demo/
  plan.yaml
  study.json               what the hospitals stated and agreed on
  parties/hospital-0/…     each hospital's own folder (parties/sealing/place.py): its key, its plain images' path
  cloud/                   what the cloud holds: rounds, checkpoint, model, guesses
  report.json report.html  the coordinator's report
  logs/                    what each step printed
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.exchange.console import BEATS
from coordinator.exchange.plan import Plan
from coordinator.exchange.quiet import QUIET, without_proxies
from crypto.errors import CipherwardError
from crypto.files import disk_errors, open_log

Log = Callable[[str], None]
#: Takes all lines of the journal that there are.
OnRounds = Callable[[Sequence[dict[str, Any]]], None]
#: Seconds that a command may take to end when it is told to. Chosen by hand.
_STOP_S = 5.0


def ignore(_line: str) -> None:
    """Drop a line."""


def ignore_rounds(_rows: Sequence[dict[str, Any]]) -> None:
    """Drop the lines of a journal."""


@dataclass(frozen=True)
class Talk:
    """Where a study's lines go.

    Attributes:
        log: lines that stay: one a step, and one a round.
        status: what the study is doing now.
        detail: what a step's program prints. The step's log file has it, too.
        rounds: all lines of the training's journal, whenever one was written; none when the training has ended.
    """

    log: Log
    status: Log = ignore
    detail: Log = ignore
    rounds: OnRounds = ignore_rounds


#: The names of the engines.
ENGINES = ("processes", "ray")


@dataclass(frozen=True)
class Engine:
    """What runs the hospitals of a training on this machine.

    Attributes:
        name: "processes" for processes of our own (processes/federate.py), or "ray" for Flower's simulation on Ray.
        workers: how many hospitals may have a process at a time, under "processes". 0 for the default.
    """

    name: str = ENGINES[0]
    workers: int = 0


@dataclass(frozen=True)
class Study:
    """One study on this machine.

    Attributes:
        plan: its plan.
        out: its folder, absolute.
        talk: where its lines go.
        engine: what runs its hospitals in training.
    """

    plan: Plan
    out: Path
    talk: Talk
    engine: Engine = Engine()

    @property
    def cloud(self) -> Path:
        """What the cloud holds."""
        return self.out / "cloud"

    @property
    def guesses(self) -> Path:
        """The guesses of the attacks."""
        return self.cloud / "guesses"

    def hospital(self, index: int) -> Path:
        """Return the folder of a hospital."""
        return party_folder(self.out, index)

    def log_file(self, step: str) -> Path:
        """Return the file that gets what a step of the cloud prints."""
        return self.out / "logs" / f"{step}.log"

    def hospital_log(self, index: int) -> Path:
        """Return a hospital's own log. It may name files that could not be read, and so patients: it stays there."""
        folder, log_file = self.hospital(index), hospital_log_file(self.out, index)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # On one machine nobody takes a set out of this folder but the study: other users need no access.
            folder.chmod(0o700)
            with open_log(log_file, 0o600) as log:
                os.fchmod(log.fileno(), 0o600)
        return log_file

    def run_hospital(self, index: int, words: Sequence[str]) -> None:
        """Run a command of cipherward-party in a process of its own."""
        run_command("parties.cli.app", words, self.hospital_log(index), self.talk.detail)

    def run_coordinator(self, step: str, words: Sequence[str], on_line: Log | None = None) -> None:
        """Run a command of cipherward-coordinator in a process of its own."""
        run_command("coordinator.cli.app", words, self.log_file(step), on_line or self.talk.detail)


def party_folder(out: Path, index: int) -> Path:
    """Return the folder of a hospital in a study's folder."""
    return out / "parties" / f"hospital-{index}"


def hospital_log_file(out: Path, index: int) -> Path:
    """Return the file that gets what a hospital's processes print."""
    return party_folder(out, index) / "hospital.log"


#: A row of a table, which says nothing without the others: it begins with a line of its frame.
_TABLE_ROW = re.compile("\\s*[\u2500-\u257f]")


def run_command(module: str, words: Sequence[str], log_file: Path, on_line: Log) -> None:
    """Run one of our command lines in a process of its own.

    Args:
        module: the module with the program's `main`.
        words: the command and its arguments.
        log_file: gets everything that the command prints.
        on_line: gets each line that the command prints on stderr, except for errors, hints and rows of tables.

    Raises:
        CipherwardError: the command's own last error, if it fails.
    """
    program = [sys.executable, "-c", f"from {module} import main; main()", *words]
    # Wide, so that a line of the log is one line of the output.
    environment = {**without_proxies(os.environ), **QUIET, "NO_COLOR": "1", "COLUMNS": "200", BEATS: "0"}
    # What it prints is read here, not by a terminal: the terminal's encoding does not matter.
    environment["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    errors, hints = [], []
    with io.TextIOWrapper(open_log(log_file), encoding="utf-8", errors="backslashreplace") as sink:
        running = subprocess.Popen(
            program,
            stdout=sink,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        assert running.stderr is not None
        try:
            for line in running.stderr:
                sink.write(line)
                if ": error: " in line:
                    errors.append(line.split(": error: ", 1)[1].strip())
                elif line.startswith("hint: "):
                    hints.append(line.removeprefix("hint: ").strip())
                elif line.strip() and not _TABLE_ROW.match(line):
                    on_line(line.strip())
            status = running.wait()
        finally:
            if running.poll() is None:
                running.terminate()
                try:
                    running.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    running.kill()
                    running.wait()
    if status:
        message = errors[-1] if errors else f"{words[0]} ended with status {status}"
        raise CipherwardError(message, hints[-1] if errors and hints else f"see {log_file}")
