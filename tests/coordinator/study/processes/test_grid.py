"""Hospitals' processes behind a Flower grid: their number, their memory, their faults, and their end."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from coordinator.study.processes.federate import CLIENT_APP
from tests.support.paths import ROOT
from tests.support.waiting import wait_until


def run(program: str, folder: Path) -> Any:
    """Run a program of tests/support/process_grid.py, and return what it printed."""
    words = [sys.executable, "-m", "tests.support.process_grid", program, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_hospitals_take_turns_in_few_processes_and_share_no_memory(tmp_path: Path) -> None:
    result = run("turns", tmp_path)
    for answers in (result["first"], result["second"]):
        assert [a["weights"] for a in answers] == [[i + 1.0] * 5 for i in range(5)]
        assert [a["folder"] for a in answers] == [str(tmp_path / f"h{i}") for i in range(5)]
        # A process was one hospital alone, and was told of one folder alone.
        assert all(set(a["memory"]) == {100 + i} for i, a in enumerate(answers))
        assert all(a["config"] == ["party-dir"] for a in answers)
    pids = [a["pid"] for a in result["first"]]
    assert len(set(pids)) == 5 and max(result["counts"]) <= 2
    # A hospital that is asked again keeps its process.
    assert result["alone"][0]["pid"] == result["alone"][1]["pid"]
    sent, received = result["bytes"]
    assert sent > 12 * 20 and received > 12 * 20
    assert result["nursery"] is False


def test_a_hospital_that_fails_loses_its_message_alone(tmp_path: Path) -> None:
    result = run("faults", tmp_path)
    raised, exited, killed, kept = (answer["error"] for answer in result["bad"])
    assert "a fault on purpose" in raised and "ValueError" in raised
    assert exited == "no reply: its process ended with status 7"
    assert killed == "no reply: its process was ended by SIGKILL"
    assert "keeps a state in its Context, which this engine would lose" in kept
    assert "a fault on purpose" in (tmp_path / "h0.log").read_text()
    hung = result["hung"].pop(3)
    assert all("weights" in answer for answer in result["hung"])
    assert hung["error"] == "no reply: it took too long, and was ended"
    assert all("weights" in answer for answer in result["well"])
    # Those that lost messages come after those that lost none, from then on.
    times = [answer["at"] for answer in result["well"]]
    assert max(times[0], times[4]) < min(times[1], times[2], times[3])


def test_a_reply_that_cannot_be_read_costs_its_message_and_no_place(tmp_path: Path) -> None:
    *unread, too_long = run("unreadable", tmp_path)
    assert unread == ["no reply: it cannot be read (DecodeError)"] * 4
    # Why a message was not sent is said, not how the process ended that waits for it.
    assert "longer than the 2 GiB" in too_long


def test_replies_come_one_by_one(tmp_path: Path) -> None:
    assert run("streamed", tmp_path) == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_all_processes_die_with_the_one_that_started_them(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.support.process_grid", "wait", str(tmp_path)]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert running.stdout is not None
    pids = json.loads(running.stdout.readline())
    assert len(pids) == 3 and all(psutil.pid_exists(pid) for pid in pids)
    running.kill()
    running.wait(10)
    assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10)


def test_the_hospitals_app_is_the_one_that_flower_runs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["components"]["clientapp"] == CLIENT_APP
