"""The benchmark of stem modes: what runs are compared with, and how the page shows it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.pages.accuracy import stem_accuracy as page
from benchmarks.stem_accuracy import CENTRAL, PLAIN, summarise


def record(run: str, seed: int, rate: float) -> dict[str, Any]:
    """Return the figures of one run."""
    return {
        "run": run,
        "seed": seed,
        "test accuracy": rate,
        "low": 0.8,
        "high": 0.99,
        "val by round": "0.9, 0.95",
    }


@pytest.mark.parametrize("base", [CENTRAL, PLAIN])
def test_runs_are_compared_seed_by_seed_with_plain_training(base: str) -> None:
    records = [record("federated, stem private", seed, 0.96 + seed / 100) for seed in range(3)]
    records += [record(base, seed, 0.95) for seed in range(2)]
    private, plain = summarise(records)
    assert (private["seeds"], plain["seeds"]) == (3, 2)
    assert private["test accuracy"] == "0.9700 ± 0.0100 (0.9600–0.9800)"
    assert private[f"minus {base}"] == "0.0150 ± 0.0071 (0.0100–0.0200)"  # of the two seeds that both have
    assert not any(name.startswith("minus") for name in plain)
    text = "\n".join(page({"summary": [private, plain], "records": records, "protocol": "3 hospitals"}))
    assert f"| minus {base} |" in text
    assert "| federated, stem private | 1 | 0.97 (0.8000–0.9900) |" in text and "| 0.9, 0.95 |" in text


def test_with_both_a_run_is_compared_with_each() -> None:
    private = record("federated, stem private", 0, 0.97)
    line = summarise([private, record(PLAIN, 0, 0.96), record(CENTRAL, 0, 0.95)])[0]
    assert line[f"minus {CENTRAL}"].startswith("0.0200") and line[f"minus {PLAIN}"].startswith("0.0100")


def test_central_training_is_compared_with_nothing() -> None:
    lines = summarise([record(run, 0, 0.9) for run in (PLAIN, CENTRAL)])
    assert lines[0][f"minus {CENTRAL}"].startswith("0.0000") and f"minus {PLAIN}" not in lines[1]
