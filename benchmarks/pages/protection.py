"""The tables of what each protection of the updates buys and costs, and their chart."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.markdown import number, percent, table

Record = Mapping[str, Any]
_NAMES = {"pneumonia": "PneumoniaMNIST, 28×28 pixels", "mri": "brain MRI, 224×224 pixels"}


INTRO = """Three hospitals of equal size, stem `plain`, all of what they train shared, images in plain coordinates:
the setting in which updates show most. The adversary is the cloud, which holds each update, or under
secure aggregation their mean alone. *Exactly*: one image in each hospital, and training on the picture
gives the update; a picture that is nearly it shows the patient all the same. *Confirmed*: plain images
that the adversary already has, found in the update, as candidates in the gradient's row space; *others*
did not take part. *Gradient match*: the same candidates, ordered by how far the update goes along each
one's own gradient. Under secure aggregation a confirmed image is of some hospital, and the cloud does not
learn of which. One step of SGD is the attacker's best case; a whole training has many steps."""


#: What an accuracy is to be compared with.
_CLASSES = {
    "pneumonia": " 390 of the 624 test images (62.5 %) show a pneumonia; who always says so learnt nothing.",
    "mri": "",
}


def protection(result: Record) -> list[str]:
    """Return the tables of every data set and part; a part that was not run says so."""
    lines: list[str] = [INTRO, ""]
    for name, title in _NAMES.items():
        costs = {r["protection"]: r for r in result["records"] if (r["data"], r["part"]) == (name, "cost")}
        for part, heading, rows in (
            ("step", "updates of one step", _step),
            ("training", "a whole training", _training),
        ):
            records = [r for r in result["records"] if (r["data"], r["part"]) == (name, part)]
            made = rows(records, costs) if records else ["Not run.", ""]
            lines += [f"### {title}: {heading}", "", *made]
            done = {record["protection"] for record in records}
            missing = [p for p in result["settings"]["protections"] if records and p not in done]
            lines += [f"Not run: {'; '.join(missing)}.", ""] if missing else []
    return lines


def _by_protection(records: Sequence[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record["protection"], []).append(record)
    return grouped


def _total(records: Sequence[Record], name: str, of: str) -> str:
    """Return counts over all seeds: found of all."""
    return f"{sum(r[name] for r in records)} of {sum(r[of] for r in records)}"


def _step(records: Sequence[Record], _costs: Mapping[str, Record]) -> list[str]:
    headers = [
        "protection",
        "images that the solve gives exactly",
        "SSIM of the solve, median",
        "confirmed, 1 image a hospital",
        "confirmed, 16 images a hospital",
        "others confirmed wrongly",
        "AUC of the gradient match",
    ]
    rows = []
    for name, group in _by_protection(records).items():
        wrongly = sum(r["single wrongly"] + r["batch wrongly"] for r in group)
        others = sum(r["single others"] + r["batch others"] for r in group)
        rows.append(
            [
                name,
                _total(group, "solved", "images"),
                f"{statistics.median(s for r in group for s in r['solve SSIM']):.3f}",
                _total(group, "single confirmed", "single members"),
                _total(group, "batch confirmed", "batch members"),
                f"{wrongly} of {others}",
                _auc(group, "gradient match"),
            ]
        )
    wrong = sum(r["single wrongly"] + r["batch wrongly"] for r in records)
    doubt = (
        " Inside so small a model images are alike: where others are confirmed wrongly, *confirmed* counts "
        "only as far as its share exceeds theirs."
        if wrong
        else ""
    )
    chance = sum(r.get("single by chance", 0.0) + r.get("batch by chance", 0.0) for r in records)
    if chance:
        doubt += (
            " Where decoys (the candidates mirrored and moved) lie as near to an update as images that took part, "
            "chance alone confirms candidates: about "
            f"{number(chance)} in all tests of this table, if none had taken part."
        )
    if any("calibrated" not in r and r["single confirmed"] + r["batch confirmed"] for r in records):
        doubt += (
            " Counted before a confirmation had to be nearer than all decoys (the candidates mirrored and moved), "
            "which confirms fewer; not run again since."
        )
    flat = statistics.median(s for r in records for s in r["flat SSIM"])
    return [
        *table(headers, rows),
        f"A flat picture of the right brightness has an SSIM of {flat:.3f}. {_seeds(records)}{doubt}",
        "",
    ]


def _training(records: Sequence[Record], costs: Mapping[str, Record]) -> list[str]:
    headers = [
        "protection",
        "membership AUC (95 % bounds)",
        "true positives at ≤ 1 % false",
        "test accuracy, mean",
        "each seed",
        "seconds a round (one core)",
        "MB a round",
    ]
    rows = []
    for name, group in _by_protection(records).items():
        rates = [r["accuracy"]["rate"] for r in group]
        rows.append(
            [
                name,
                _auc(group, "membership"),
                f"{percent(statistics.mean(r['membership']['tpr'] for r in group))} %",
                f"{percent(statistics.mean(rates))} %",
                ", ".join(percent(rate) for rate in rates),
                number(costs[name]["round seconds"]) if name in costs else "not measured",
                number(group[0]["round bytes"] / 1e6),
            ]
        )
    first = records[0]
    return [
        *table(headers, rows),
        *chart(_by_protection(records)),
        f"{first['parameters']:,} numbers travel; {first['members']} images in all, {first['members'] // 3} in each "
        f"hospital. {_seeds(records)}{_CLASSES[first['data']]}",
        "",
    ]


def chart(groups: Mapping[str, Sequence[Record]]) -> list[str]:
    """Return a chart of accuracy (bars) and membership AUC (line) by protection, which GitHub draws."""
    accuracy = [statistics.mean(r["accuracy"]["rate"] for r in group) for group in groups.values()]
    auc = [statistics.mean(r["membership"]["auc"] for r in group) for group in groups.values()]
    names = ", ".join(f'"{name.replace("secure aggregation", "sums")}"' for name in groups)
    return [
        "```mermaid",
        "xychart-beta",
        '    title "Test accuracy (bars) and membership AUC (line; 0.5 is chance)"',
        f"    x-axis [{names}]",
        '    y-axis "share" 0 --> 1',
        f"    bar [{', '.join(f'{value:.3f}' for value in accuracy)}]",
        f"    line [{', '.join(f'{value:.3f}' for value in auc)}]",
        "```",
        "",
    ]


def _auc(records: Sequence[Record], name: str) -> str:
    """Return the mean area, the least lower and the largest upper bound of the seeds."""
    mean = statistics.mean(r[name]["auc"] for r in records)
    low, high = min(r[name]["auc_low"] for r in records), max(r[name]["auc_high"] for r in records)
    return f"{mean:.3f} ({low:.3f}–{high:.3f})"


def _seeds(records: Sequence[Record]) -> str:
    count = len({r["seed"] for r in records})
    plural = "one seed" if count == 1 else f"{count} seeds"
    return f"{plural.capitalize()}; bounds are the widest of all seeds."
