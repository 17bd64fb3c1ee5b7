"""The page of differential privacy: its noise, what it costs, and what an audit proves of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.entries import Entry, of_kind
from benchmarks.pages.markdown import number, percent, rate, table

Record = Mapping[str, Any]

INTRO = """# Differential privacy

What DP-SGD in the hospitals costs, and what an adversary proves of it.
[privacy.md](../privacy.md) says what ε covers.
"""


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/privacy.md."""
    lines = [INTRO]
    for entry in of_kind(entries, "privacy"):
        lines += [*entry.heading(), *privacy(entry.result), ""]
    return lines


def privacy(result: Record) -> list[str]:
    """Return every part of a run; a part that was not run says so."""
    sections = (
        ("accuracy", "Accuracy by ε: brain MRI, share `head`, frozen public encoder", _accuracy),
        ("cost", "Seconds a step, with privacy and without", _cost),
        ("audit", "What a one-run audit proves", _audit),
        ("noise", "The noise multiplier beside an independent accountant", _noise),
    )
    lines: list[str] = []
    for name, title, section in sections:
        records = result.get(name)
        lines += [f"### {title}", "", *(section(result) if records else ["Not run.", ""])]
    return lines


def _accuracy(result: Record) -> list[str]:
    by_epsilon: dict[str, list[Record]] = {}
    for record in result["accuracy"]:
        name = "none" if record["epsilon"] is None else number(record["epsilon"])
        by_epsilon.setdefault(name, []).append(record)
    plain = statistics.mean(r["test"]["rate"] for r in by_epsilon["none"])
    rows = []
    for name, records in by_epsilon.items():
        rates = [record["test"]["rate"] for record in records]
        mean = statistics.mean(rates)
        rows.append(
            [
                name,
                f"{percent(mean)} %",
                f"{percent(mean - plain)}",
                "; ".join(rate(record["test"]) for record in records),
                number(records[0]["lr"]),
            ]
        )
    settings = result["settings"]
    return [
        *table(
            ["ε", "test accuracy, mean", "points from none", "each seed (95 % bounds)", "learning rate"],
            rows,
        ),
        f"{settings['hospitals']} hospitals, δ = {settings['delta']:g}, unit image, {settings['rounds']} rounds of "
        f"{settings['epochs']} passes, batches of {settings['batch']} on average. The learning rate was chosen on "
        "validation images, which ε does not cover.",
        "",
    ]


def _cost(result: Record) -> list[str]:
    names = {
        "share": "share",
        "trained weights": "trained weights",
        "batch": "images a step",
        "seconds a step": "seconds a step, without privacy",
        "seconds a private step": "with privacy",
        "ratio": "ratio",
    }
    return table(list(names.values()), [[number(r[name]) for name in names] for r in result["cost"]])


def _audit(result: Record) -> list[str]:
    names = {
        "promised": "promised ε",
        "proved": "proved: ε is at least",
        "sampling rate": "sampling rate",
        "steps": "steps",
        "canaries": "canaries",
        "correct": "correct guesses",
        "guesses": "guesses",
    }
    return [
        *table(list(names.values()), [[number(r[name]) for name in names] for r in result["audit"]]),
        "White-box canaries, each put in by a fair coin; the bound is wrong in at most one of "
        f"{1 / result['audit'][0]['error rate']:.0f} audits. A low bound proves no privacy.",
        "",
    ]


def _noise(result: Record) -> list[str]:
    names = {
        "epsilon": "ε",
        "delta": "δ",
        "sampling rate": "sampling rate",
        "steps": "steps",
        "PRV": "noise multiplier (Opacus, PRV)",
        "PLD": "dp_accounting (PLD)",
        "ratio": "ratio",
    }
    return table(list(names.values()), [[number(r[name]) for name in names] for r in result["noise"]])
