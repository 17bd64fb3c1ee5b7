"""The page of faults: every fault is on it, what was skipped is named, and a loss is not hidden."""

from __future__ import annotations

from typing import Any

from benchmarks.faults.observe import Record
from benchmarks.pages import faults
from benchmarks.pages.entries import Entry


def make_page(*records: Record) -> str:
    run: dict[str, Any] = {"load": 1.5, "left_running": ["a process"], "faults": []}
    result: dict[str, Any] = {"schema": "cipherward.faults/1", "machine": {}, "hospitals": 3, "quorum": 2}
    result |= {"deadline_s": 25.0, "grace_s": 8.0, "round_seconds": 5.0, "runs": [run]}
    result["records"] = [record.to_json() for record in records]
    return "\n".join(faults.page([Entry("9-faults.json", "Faults", "command", "2026-01-01", result)]))


def test_every_fault_is_shown_and_what_was_not_run_is_named() -> None:
    text = make_page(
        Record("a kill", "training", "absent: a|b", 1, 0, 12.5, 30.0, "none"),
        Record("a loss", "evaluation", "NOT BACK: never", data_lost="the checkpoint is at round 1"),
        Record("a wrong key", "", "refused", data_lost="none"),
        Record("clock", skipped="there is no compiler"),
    )
    assert "| a kill | training | 1 | 0 | 12.5 | 30 | none |" in text
    assert "absent: a\\|b" in text
    assert "Skipped: clock, because there is no compiler." in text
    assert "| a loss | evaluation |  |  |  |  | the checkpoint is at round 1 |" in text
    assert "NOT BACK: never" in text and "| a wrong key |  | refused |" in text
    assert "still there after all was ended: 1." in text


def test_what_was_not_run_is_called_a_calculation() -> None:
    names = (
        "relay_megabytes",
        "superlink_cpu_seconds",
        "superlink_megabytes",
        "bundle_megabytes",
        "idle_bytes",
    )
    result = dict.fromkeys(names, 60.0) | {"rounds": 3, "hospitals": 3, "run_seconds": 10.0}
    result |= {"idle_cpu_milliseconds": 2.0, "idle_superlink_megabytes": 30.0}
    text = "\n".join(faults.extrapolate(result, 1000))
    assert "Nobody ran this" in text
    assert "| traffic of a round (GB) | 10 |" in text  # 60 MB in two rounds of three hospitals
    assert "| memory of the SuperLink (GB) | 10.03 |" in text
    assert "| cores of the SuperLink that waiting hospitals take | 2 |" in text
