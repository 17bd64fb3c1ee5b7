"""The benchmark of the time to a verdict: each step gets its own seconds, and a failed audit is no figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import speed
from benchmarks.time_to_verdict import START, STEPS, Watch, measure, totals
from crypto.errors import CipherwardError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stop the clock, which then shows the one number in the list."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_each_step_gets_its_own_seconds(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        assert (
            child.stdout is not None and child.stdout.readline()
        )  # it is Python by now, with Python's memory
        watch = Watch(child.pid)
        monkeypatch.setattr(watch, "_processor_seconds", lambda: 2 * clock[0])
        lines = ["sealing 10 sets", "attacking the sealed sets, in a", "draw-0 etc", "scoring the guesses"]
        for clock[0], line in zip((1.0, 4.0, 5.0, 9.0), lines, strict=True):
            watch.read(line)
        clock[0] = 11.0
        watch.look()
        watch.end(23.0)
        assert watch.peak > 1e6
        child.communicate(b"\n")
    assert watch.clock == {START: 1.0, "seal": 3.0, "attack": 5.0, "score and report": 2.0}
    assert watch.spent == {START: 2.0, "seal": 6.0, "attack": 10.0, "score and report": 5.0}
    assert totals({"clock_seconds": watch.clock, "cpu_seconds": watch.spent}) == (11.0, 23.0)


def test_the_steps_are_those_that_the_audit_announces() -> None:
    source = (ROOT / "parties" / "scoring" / "local_audit.py").read_text()
    assert all(f'log("{begins}' in source or f'log(f"{begins}' in source for begins in STEPS.values())


@pytest.mark.long
def test_an_audit_that_fails_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="the audit of etc ended with 1") as caught:
        measure("etc", "gray", tmp_path / "absent", tmp_path / "out")
    assert "absent" in caught.value.hint


def test_the_page_shows_the_steps_and_never_a_verdict_of_an_invalid_audit() -> None:
    record: dict[str, Any] = {
        "scheme": "etc",
        "images": "gray",
        "clock_seconds": {START: 1.2, "seal": 13.1, "attack": 15.0, "score and report": 13.0},
        "cpu_seconds": {START: 1.0, "seal": 13.0, "attack": 14.0, "score and report": 12.6},
        "peak_megabytes": 442.1,
        "load_at_start": 4.8,
        "valid": True,
        "broken_from": 2,
    }
    text = "\n".join(speed.time_to_verdict({"records": [record, record | {"valid": False}]}))
    assert "| `etc`, gray | 13 + 15 + 13 | 42 | 41 | 442 | 4.8 | broken from 2 |" in text
    assert "| 442 | 4.8 | invalid |" in text
    withstood = speed.time_to_verdict({"records": [record | {"broken_from": None}]})
    assert "| no break found |" in "\n".join(withstood)
