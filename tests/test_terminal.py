"""A study on a terminal of 80 columns: what moves, what stays, and that nothing is cut, doubled or left behind."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.terminal import COLUMNS, ROWS, Screen, run_in_terminal

ROUNDS = 3
PLAN = {
    "study": "small",
    "parties": 3,
    "source": "phantom",
    "counts": [96, 24, 48],
    "image_size": 32,
    "block": 8,
    "model_args": {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "rounds": ROUNDS,
    "batch": 16,
    "warmup_steps": 0,
    "baseline": False,
    "draws": 1,
    "audit_rows": 16,
    "pools": [1, 2],
    "attacks": ["as_is", "leading_bit", "pooled_key_recovery"],
}


def test_the_screen_of_the_tests_is_one_of_a_terminal() -> None:
    screen = Screen()
    screen.play("x" * (COLUMNS + 1) + "\r\n\x1b[1mone\x1b[0m\r\ntwo\r\x1b[2K\x1b[1A\x1b[2Kthree\r\n")
    assert screen.shown() == ["x" * COLUMNS, "x", "three"]
    screen = Screen()
    screen.play("\r\n".join(map(str, range(ROWS + 5))) + "\r\x1b[99A\x1b[2Ktop")
    assert screen.shown()[:6] == ["0", "1", "2", "3", "4", "top"]  # what was scrolled off is out of reach


@pytest.mark.slow
def test_a_study_reads_well_on_a_terminal_while_it_runs_and_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    program = str(Path(sys.executable).parent / "cipherward-coordinator")
    status, pieces = run_in_terminal([program, "simulate", "plan.yaml", "--out", "study"], tmp_path)
    screen, tables = Screen(), set()
    for piece in pieces:
        screen.play(piece)
        shown = screen.shown()
        assert sum("- no answer" in line for line in shown) <= 1, shown
        tables |= {line for line in shown if re.search(r"hospital-\d +\d of \d", line)}
        # The moving line is cut by no edge: the time that it takes stands at its end.
        assert not [line for line in shown if "\u2026" in line and "rounds done" in line], shown
    lines = screen.shown()
    assert status == 0, lines
    # While it ran, each hospital had its row after each round.
    for number in range(3):
        assert any(f"hospital-{number}" in row and row.endswith("+" * ROUNDS) for row in tables), tables
    # In the end there is one line a step and one a round, in order, and nothing of what moved.
    steps = [line for line in lines if line.startswith("\u00b7 ")]
    names = ["seal", *(f"round {n} of {ROUNDS}" for n in range(1, ROUNDS + 1))]
    names += ["train", "baseline", "attack", "score", "report"]
    assert [line[2:].partition(":")[0] for line in steps] == names, lines
    assert lines[: len(steps)] == steps
    # The path, which may be longer than a line, is in one piece for whoever copies it.
    assert re.search(rf"report: +{re.escape(str(tmp_path / 'study' / 'report.html'))}$", "".join(lines))
    assert not [
        line for line in lines if "- no answer" in line or re.search("[\u2800-\u28ff\u2501]", line)
    ], lines
    # Results are read: their words are whole.
    text = " ".join(" ".join(lines).split())
    assert "Hospital and cloud were simulated on one machine; what the cloud would report is shown." in text
