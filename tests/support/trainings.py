"""A small study that trains for some seconds by the real command, for tests that look at it or stop it meanwhile."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types

from coordinator.exchange.end_with_us import MARK, find_processes
from coordinator.federation.rounds import State
from tests.support.study import PLAN, command
from tests.support.waiting import wait_until

ROUNDS = 8


@dataclass(frozen=True)
class Training:
    """A command that trains a study.

    Attributes:
        running: the command.
        folder: the study's folder.
        runs: the temporary folders whose marks the command's processes carry.
        tree: all processes below the command when the first round was over, found by their parents alone.
        engine: what runs the hospitals.
        plan: the plan's file.
    """

    running: subprocess.Popen[str]
    folder: Path
    runs: list[Path]
    tree: list[psutil.Process]
    engine: str
    plan: Path

    @property
    def processes(self) -> list[psutil.Process]:
        """All living processes of the run, without the command itself."""
        return [process for run in self.runs for process in find_processes(run)]

    @property
    def rounds_done(self) -> int:
        """The round of the last checkpoint."""
        return State.load(self.folder / "cloud" / "checkpoint.safetensors").round

    @property
    def talk(self) -> str:
        """What the command said, on one line."""
        return " ".join((self.folder / "talk.txt").read_text().split())


def seal_small(folder: Path) -> Path:
    """Seal the images of a small study in a new folder; return that folder, which gets plan and study."""
    plan = PLAN.replace("rounds: 1", f"rounds: {ROUNDS}").replace("[220, 24, 24]", "[440, 24, 24]")
    (folder / "small.yaml").write_text(plan)
    words = ["simulate", folder / "small.yaml", "--out", folder / "run", "--until", "seal"]
    done = command("cipherward-coordinator", *words)
    assert done.returncode == 0, done.stderr
    return folder


def start_training(sealed: Path, folder: Path, engine: str, settings: list[str] | None = None) -> Training:
    """Train in a copy of a sealed study until a round is over."""
    shutil.copytree(sealed / "run", folder)
    program = str(Path(sys.executable).parent / "cipherward-coordinator")
    words = ["simulate", str(sealed / "small.yaml"), "--out", str(folder), "--until", "train"]
    words += ["--engine", engine, *(settings or [])]
    with open(folder / "talk.txt", "w") as talk:
        running = subprocess.Popen([program, *words], stderr=talk, text=True, start_new_session=True)
    checkpoint = folder / "cloud" / "checkpoint.safetensors"
    assert wait_until(lambda: checkpoint.exists() or running.poll() is not None, 200)
    assert running.poll() is None, (folder / "talk.txt").read_text()
    marks, tree = set(), psutil.Process(running.pid).children(recursive=True)
    for process in tree:
        with contextlib.suppress(psutil.Error):
            marks.add(process.environ().get(MARK))
    runs = [Path(mark) for mark in marks if mark]
    training = Training(running, folder, runs, tree, engine, sealed / "small.yaml")
    names = {process.name() for process in training.processes}
    assert ({"raylet", "gcs_server", "ray::RuntimeEnvAgent"} <= names) == (engine == "ray"), names
    assert len(training.processes) >= 3
    return training


def require_ended(training: Training, seconds: float) -> None:
    """Assert that no process of the run is alive after that time, and no temporary folder is left."""
    assert wait_until(lambda: not training.processes, seconds), training.processes
    # Ray's agents carry no mark that can be read, so they are looked for without the product's own search, too.
    assert wait_until(lambda: not any(map(_lives, training.tree)), 5), training.tree
    assert wait_until(lambda: not any(run.exists() for run in training.runs), 5)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def require_goes_on(training: Training) -> None:
    """Run the same command again, and assert that it goes on after the last checkpoint."""
    journal, done = training.folder / "cloud" / "rounds.jsonl", training.rounds_done
    before = len(journal.read_text().splitlines())
    assert 1 <= done < ROUNDS
    words = ["simulate", training.plan, "--out", training.folder, "--until", "train"]
    again = command("cipherward-coordinator", *words, "--engine", training.engine)
    assert again.returncode == 0, again.stderr
    rounds = [json.loads(line)["round"] for line in journal.read_text().splitlines()]
    assert rounds[before:] == list(range(done + 1, ROUNDS + 1))
