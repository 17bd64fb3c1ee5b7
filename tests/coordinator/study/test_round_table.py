"""The live table of a training: who took part in which round, in 80 columns, whatever the number of hospitals."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from coordinator.cli import deployment
from coordinator.exchange import console
from coordinator.exchange.console import SafeConsole
from coordinator.study.round_table import LATEST_ROUNDS, MOST_HOSPITALS, attendance, round_table
from coordinator.study.steps import round_summary
from tests.support.terminal import Screen


def row(number: int, parties: list[str], **changes: Any) -> dict[str, Any]:
    """Return a line of the journal."""
    figures = {"val": {"accuracy": 0.5}, "seconds": 4.0, "bytes_down": 10**6, "bytes_up": 2 * 10**6}
    about = {"round": number, "attempt": 0, "parties": parties, "absent": [], "refused": {}}
    return {**about, "aggregated": True, **figures, **changes}


def draw(rows: list[dict[str, Any]], hospitals: list[str]) -> list[str]:
    """Return the table's lines on a terminal of 80 columns whose locale is ASCII."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    Console(file=out, width=80, color_system=None, force_terminal=True).print(round_table(rows, hospitals))
    out.seek(0)
    return [line.rstrip() for line in out.read().splitlines()]


def test_a_round_counts_by_its_last_attempt_and_each_hospital_has_its_mark() -> None:
    rows = [
        row(1, ["a", "b", "c"]),
        row(2, ["a"], absent=["b"], refused={"c": "not finite"}, aggregated=False),
        row(2, ["a", "c"], attempt=1, absent=["b"]),
        row(3, ["a"], absent=["b"], refused={"c": "not finite"}),
    ]
    assert attendance(rows, ["a", "b", "c"]) == {"a": "+++", "b": "+--", "c": "++x"}
    lines = draw(rows, ["a", "b", "c"])
    assert any(line.replace("|", " ").split() == ["b", "1", "of", "3", "+--"] for line in lines), lines
    assert any("rounds 1 to 3" in line for line in lines) and "x refused" in lines[-1]


def test_many_rounds_and_hospitals_fit_into_80_columns_and_24_lines() -> None:
    hospitals = [f"Universitaetsklinikum-{i:03d}-Abteilung" for i in range(50)]
    rows = [row(n, hospitals[:-1], absent=hospitals[-1:]) for n in range(1, 101)]
    lines = draw(rows, hospitals)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80 and len(lines) <= 20
    assert "rounds 81 to 100" in text and "-" * LATEST_ROUNDS in text
    assert hospitals[-1][:20] in text  # the one that misses rounds is among those that are shown
    assert f"{50 - MOST_HOSPITALS} others missed no more" in text


def test_before_the_first_round_there_is_no_table() -> None:
    assert round_table([], ["a"]) is None


def test_the_line_of_a_round_names_who_is_missing_and_why() -> None:
    complete = round_summary(row(1, ["a", "b"]), 5)
    assert complete == "round 1 of 5: val accuracy 0.500, 4 s, 3.0 MB"
    partly = round_summary(row(2, ["a"], absent=["b"], refused={"c": "it is not finite"}), 5)
    assert partly.endswith("3.0 MB; b did not answer; c: it is not finite")
    lost = round_summary(row(3, [], absent=["a"], aggregated=False), 5)
    assert lost == "round 3 of 5: no quorum; a did not answer"


class Recorder(io.StringIO):
    """A terminal's other end: keeps what was written, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


@pytest.mark.parametrize("hospitals", [3, 50])
def test_a_followed_run_reads_well_on_a_terminal_and_leaves_its_rounds(
    monkeypatch: pytest.MonkeyPatch, hospitals: int
) -> None:
    recorder, names = Recorder(), [f"hospital-{i}" for i in range(hospitals)]
    for name in ("talk", "result"):
        terminal = SafeConsole(file=recorder, force_terminal=True, width=80, height=24, highlight=False)
        monkeypatch.setattr(console, name, terminal)
        monkeypatch.setattr(deployment, name, terminal)

    def follow(log: Any, on_round: Any) -> dict[str, Any]:
        log("run 1 is submitted")
        for number in range(1, 31):
            on_round(row(number, names[:-1], absent=names[-1:]))
            time.sleep(0.005)  # the table is drawn by another thread; what is left does not depend on it
        return {"model": 1}

    assert deployment._follow_rounds(names, follow) == {"model": 1}
    screen, most = Screen(), 0
    for piece in recorder.pieces:
        screen.play(piece.replace("\n", "\r\n"))
        most = max(most, sum("- no answer" in line for line in screen.lines))
    assert most <= 1  # no second copy of the table is ever left above the first
    expected = [f"round {number}: val accuracy 0.500, 4 s, 3.0 MB; " for number in range(1, 31)]
    last = f"hospital-{hospitals - 1} did not answer"
    assert screen.shown() == ["· run 1 is submitted", *(line + last for line in expected)]
