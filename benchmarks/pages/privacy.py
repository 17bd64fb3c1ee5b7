"""The page of differential privacy: its noise, what it costs, and what an audit proves of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.entries import Entry, of_kind
from benchmarks.pages.markdown import number, percent, rate, table

Record = Mapping[str, Any]
_ADAPTERS = (
    "Share `lora` has adapters in the last block only, in {layers}; those in all blocks were not measured."
)
#: A step of so many images takes all that a hospital has (533 or 534).
_ALL_IMAGES = 534

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
        ("accuracy", "Accuracy by ε: brain MRI, frozen stem, public encoder", _accuracy),
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
    grouped: dict[tuple[str, float | None], list[Record]] = {}
    for record in result["accuracy"]:
        grouped.setdefault((record["share"], record["epsilon"]), []).append(record)
    rows = []
    for (share, epsilon), records in grouped.items():
        mean = statistics.mean(r["test"]["rate"] for r in records)
        plain = statistics.mean(r["test"]["rate"] for r in grouped[share, None])
        tests = "; ".join(rate(record["test"]) for record in records)
        difference = "" if epsilon is None else percent(mean - plain)
        rows.append(
            [f"`{share}`", _bound(epsilon), f"{percent(mean)} %", difference, tests, _recipe(records[0])]
        )
    settings = result["settings"]
    adapters = settings["adapters"]
    layers = ", ".join(f"`{layer}`" for layer in adapters["lora_layers"])
    headers = ["share", "ε", "test accuracy, mean", "points from none", "each seed (95 % bounds)", "recipe"]
    return [
        *table(headers, rows),
        f"{settings['hospitals']} hospitals, δ = {settings['delta']:g}, unit image, {settings['rounds']} rounds. "
        "Recipes, with privacy and without, were chosen on validation images, which ε does not cover. The head "
        "begins at zero. "
        + (_ADAPTERS.format(layers=layers) if ("lora", None) in grouped else "Share `lora` was not run."),
        "",
        *_tried(result["tried"]),
    ]


def _tried(records: Sequence[Record]) -> list[str]:
    """Return every recipe that was tried, with its accuracy on the validation images."""
    headers = ["share", "ε", "recipe", "accuracy on val, mean", "trainings"]
    rows = [
        [f"`{r['share']}`", _bound(r["epsilon"]), _recipe(r), f"{percent(r['val'])} %", r["trainings"]]
        for r in records
    ]
    return ["All recipes that were tried:", "", *table(headers, rows)]


def _bound(epsilon: float | None) -> str:
    return "none" if epsilon is None else number(epsilon)


def _recipe(record: Record) -> str:
    """Return how a training stepped, in words."""
    name = "clip" if record["epsilon"] is None else "max_grad_norm"
    images = "all images" if record["batch"] >= _ALL_IMAGES else f"{record['batch']} images"
    return (
        f"{images} a step, {record['passes']} passes a round, {name} {record['norm']:g}, "
        f"lr {number(record['lr'])}"
    )


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
