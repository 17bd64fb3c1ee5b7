"""The benchmark of silences: it hears a silence in the middle, before the first line and after the last."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.pages import speed
from benchmarks.silence import WAYS, Silences, listen, merge


@pytest.mark.parametrize(
    ("times", "longest", "after"),
    [((3.0, 4.0, 4.5), 3.0, "its start"), ((1.0, 3.5, 4.0), 2.5, "one"), ((0.5, 1.0, 5.0), 4.0, "two")],
)
def test_the_longest_silence_and_what_was_said_before_it(
    times: tuple[float, float, float], longest: float, after: str
) -> None:
    silences = Silences(0.0)
    for now, data in zip(times, (b"one\r\n", b"\x1b[2K\x1b[1mtwo\x1b[0m\r\n", b""), strict=True):
        silences.hear(now, data)
    assert (silences.longest, silences.after, silences.lines) == (longest, after, 2)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_command_prints_is_heard_to_its_end(way: str, tmp_path: Path) -> None:
    row = listen([sys.executable, "-I", "-S", "-c", "print('one'); print('two')"], way, tmp_path)
    assert (row["status"], row["lines"], row["way"]) == (0, 2, way)
    assert 0 <= row["longest_silence"] <= row["seconds"] + 0.1


def test_a_terminal_is_one_of_80_columns_and_a_pipe_is_none(tmp_path: Path) -> None:
    program = "import os, sys; sys.exit(os.get_terminal_size(1).columns if sys.stdout.isatty() else 7)"
    assert [listen([sys.executable, "-I", "-c", program], way, tmp_path)["status"] for way in WAYS] == [
        80,
        7,
    ]


def test_the_page_names_every_command_and_its_longest_silence() -> None:
    row = {
        "command": "seal",
        "way": "pipe",
        "status": 0,
        "seconds": 9.0,
        "longest_silence": 6.5,
        "after": "x|y",
    }
    text = "\n".join(speed.silence({"plan": "demo.yaml", "rows": [row | {"lines": 3}]}))
    assert "| `seal` | pipe | 9.0 | **6.50** | 3 | x\\|y |" in text


def test_a_new_row_replaces_that_of_the_same_command_and_way() -> None:
    rows = [{"command": "simulate", "way": "pipe", "n": 1}, {"command": "seal", "way": "terminal", "n": 2}]
    merged = merge(rows, {"command": "simulate", "way": "pipe", "n": 3})
    assert [row["n"] for row in merge(merged, {"command": "check", "way": "pipe", "n": 4})] == [2, 4, 3]
