"""The comparison of schemes, networks and data: accuracy from its cells, security from the audit's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from benchmarks.pages.entries import verdict_of
from benchmarks.pages.markdown import percent, table

Record = Mapping[str, Any]

#: The data sets' names.
DATA_NAMES = {"pneumonia": "PneumoniaMNIST", "cifar": "CIFAR-10", "mri": "brain MRI"}
#: The networks' names.
NETWORK_NAMES = {"vit": "ViT", "resnet18": "ResNet-18", "shake_pyramidnet": "ShakeDrop PyramidNet"}
#: Mean AUC on ciphertext counts as close if it differs from that on plain images by no more than this.
CLOSE = 0.01
#: The audit's name of a data set's images at a size.
AUDITED = {
    ("mri", 224): "mri",
    ("mri", 64): "mri64",
    ("cifar", 32): "cifar",
    ("cifar", 224): "cifar224",
    ("pneumonia", 28): "pneumonia",
}


def sized_name(data: str, size: int) -> str:
    """Return the name of a data set at a size of its images: "CIFAR-10, 32×32"."""
    return f"{DATA_NAMES[data]}, {size}×{size}"


def security(row: str, sections: Sequence[Record], audited: Sequence[Record]) -> str:
    """Return how many sealed images break a row's scheme, at every size and block of a data set's sections.

    Args:
        row: A row of the comparison: a scheme, or a scheme and `private`.
        sections: The sections of one data set.
        audited: The result of `audited_images`. What is not among them is called "not audited".
    """
    scheme = row.split(maxsplit=1)[0]
    if scheme == "plain":
        return "not sealed"
    shapes = {
        (s["data"], s["plan"]["image_size"], s["plan"]["block"]): options_of(s, row)
        for s in sections
        if s["cells"] and row not in s.get("none", ())
    }
    texts = []
    for (data, size, block), options in shapes.items():
        verdict = verdict_of(audited, scheme, "consortium", AUDITED.get((data, size)), block, options)
        texts.append(f"{verdict or 'not audited'} (at {size}×{size}, blocks of {block})")
    return "; ".join(texts) or "not audited"


#: What the page calls a setting of a row.
_SETTINGS = {
    "optimizer": "{}",
    "lr": "learning rate {:g}",
    "momentum": "momentum {}",
    "weight_decay": "weight decay {:g}",
    "warmup_steps": "{} steps of warm-up",
    "clip": "gradients clipped at {:g}",
}
#: What others reached on plain images of the same size, by data set.
_PUBLISHED = {
    "pneumonia": "- Published for plain images of 28×28: ResNet-18 reaches 85.4 %, AUC 0.944 (Yang et al. 2023, "
    "MedMNIST v2).",
}


def options_of(section: Record, row: str) -> Record:
    """Return the options of a row's scheme that are not its defaults."""
    options: Record = section.get("options", {}).get(row, {})
    return options


def find_cell(section: Record, row: str, seed: int = 0) -> Record | None:
    """Return the finished cell of a row and seed, or None."""
    return next((c for c in section["cells"] if (c["row"], c["seed"]) == (row, seed)), None)


def accuracy(section: Record, row: str, seed: int = 0) -> str:
    """Return a cell's test accuracy with its 95 % bounds and AUC, or why there is none."""
    if row in section["none"]:
        return "no such cell"
    cell = find_cell(section, row, seed)
    if cell is not None:
        if "diverged" in cell:
            return f"diverged in epoch {cell['diverged']}"
        test = cell["test"]
        text = f"{percent(test['rate'])} % ({percent(test['low'])}–{percent(test['high'])})"
        rates = [c["test"]["rate"] for c in section["cells"] if c["row"] == row and "diverged" not in c]
        mean = (
            f"; mean of {len(rates)} seeds {percent(sum(rates) / len(rates))} %" if len(rates) > 1 else ""
        )
        return text + (f", AUC {test['auc']:.3f}" if test["auc"] is not None else "") + mean
    for part in section["begun"]:
        if (part["row"], part["seed"]) == (row, seed):
            return f"not finished: {part['epochs']} of {section['plan']['rounds']} epochs"
    return "not run"


def settings(section: Record) -> str:
    """Return one line that says how a section's networks were trained."""
    plan, cells = section["plan"], section["cells"]
    model = plan["model"] + "".join(f", {k} {v}" for k, v in plan.get("model_args", {}).items())
    parts = [
        f"- {NETWORK_NAMES[section['network']]}: {model}",
        f"{plan['image_size']}×{plan['image_size']}, blocks of {plan['block']}",
        f"{plan['rounds']} epochs of {plan['optimizer']}, learning rate {plan['lr']:g}, batch {plan['batch']}",
        "from public weights" if plan.get("weights") else "from scratch",
    ]
    for row, own in section.get("row_plans", {}).items():
        parts.append(f"{row}: " + ", ".join(_SETTINGS[name].format(value) for name, value in own.items()))
    if any(pair != "none" for pair in section["pairs"].values()):
        rows = [row for row in section["rows"] if row not in section["none"]]
        parts.append("adaptation " + ", ".join(f"{row}: {section['pairs'][row]}" for row in rows))
    if cells:
        train, val, test = cells[0]["images"]
        seconds = [c["seconds"] for c in cells]
        parts.append(f"{train} training, {val} val, {test} test images")
        parts.append(f"{min(seconds):.0f}–{max(seconds):.0f} s a cell")
    return "; ".join(parts) + "."


def seeds(section: Record) -> list[str]:
    """Return a table of AUC over several seeds, on ciphertext and on plain images.

    Only rows with every seed are shown. Without such rows there is no table.
    """
    aucs: dict[str, list[float]] = {}
    for cell in sorted(section["cells"], key=lambda c: int(c["seed"])):
        if cell["test"]["auc"] is not None:
            aucs.setdefault(cell["row"], []).append(cell["test"]["auc"])
    complete = {row: values for row, values in aucs.items() if len(values) == section["seeds"]}
    if section["seeds"] < 2 or "plain" not in complete or len(complete) < 2:
        return []
    body = [_seeds_row(row, values, complete["plain"]) for row, values in complete.items()]
    headers = [
        "sealed by",
        "AUC, seed by seed",
        "mean",
        "standard deviation",
        f"difference from plain (95 %, by seed); within {CLOSE:g}?",
    ]
    lead = f"{NETWORK_NAMES[section['network']]}, {section['seeds']} seeds, each with its own key:"
    return [lead, "", *table(headers, body)]


def _seeds_row(row: str, values: Sequence[float], plain: Sequence[float]) -> list[str]:
    """Return a row of the table of seeds; a difference is within CLOSE if its whole interval is."""
    verdict = ""
    if row != "plain":
        differences = np.subtract(values, plain)
        mean = float(np.mean(differences))
        reach = float(stdtrit(len(values) - 1, 0.975) * np.std(differences, ddof=1) / np.sqrt(len(values)))
        low, high = mean - reach, mean + reach
        verdict = f"{mean:+.4f} ({low:+.4f} to {high:+.4f}): "
        if max(abs(low), abs(high)) <= CLOSE:
            verdict += "within"
        elif abs(mean) <= CLOSE:
            verdict += "within by the mean, **not shown** by so few seeds"
        else:
            verdict += "**not within**"
    each = ", ".join(f"{value:.4f}" for value in values)
    return [row, each, f"{np.mean(values):.4f}", f"{np.std(values, ddof=1):.4f}", verdict]


def comparison(result: Record, audited: Sequence[Record]) -> list[str]:
    """Return the lines of the comparison, one table for each data set.

    Args:
        result: What benchmarks/table1.py wrote.
        audited: The result of `audited_images`. Without any, every scheme is called "not audited".
    """
    lines: list[str] = []
    for data in dict.fromkeys(s["data"] for s in result["sections"]):
        sections = [s for s in result["sections"] if s["data"] == data]
        body = [
            [row, *(accuracy(s, row) for s in sections), security(row, sections, audited)]
            for row in sections[0]["rows"]
        ]
        headers = [
            "sealed by",
            *(NETWORK_NAMES[s["network"]] for s in sections),
            "sealed images that break it",
        ]
        lines += [
            f"**{DATA_NAMES[data]}**, accuracy on test images with 95 % bounds:",
            "",
            *table(headers, body),
        ]
        for section in sections:
            lines += seeds(section)
        lines += [*(settings(s) for s in sections), *histograms(sections)]
        lines += [*([_PUBLISHED[data]] if data in _PUBLISHED else []), ""]
    return lines


def histograms(sections: Sequence[Record]) -> list[str]:
    """Return what histograms alone reach on a data set, one line for each number of training images."""
    found = {}
    for section in sections:
        if (rate := section.get("histogram")) and section["cells"]:
            found[section["cells"][0]["images"][0], section["plan"]["image_size"]] = rate
    return [
        f"- Without any network: the nearest neighbour on 64-bin histograms of {images} plain images of "
        f"{size}×{size} reaches {percent(rate['rate'])} % ({percent(rate['low'])}–{percent(rate['high'])})."
        for (images, size), rate in found.items()
    ]


def reruns(result: Record) -> list[str]:
    """Return what cells gave that were trained twice under the same key."""
    rows, differs = [], False
    for row in result["rows"]:
        differs |= row["kept"] is not None and row["kept"] != row["runs"][0]["test"]["rate"]
        shown = [
            f"{percent(run['test']['rate'])} %, AUC {run['test']['auc']:.4f}, best epoch {run['best_epoch']}"
            for run in row["runs"]
        ]
        kept = "other key" if row["kept"] is None else f"{percent(row['kept'])} %"
        same = "yes" if row["equal"] else "**no**"
        name = (
            f"{DATA_NAMES[row['data']]}, {NETWORK_NAMES[row['network']]}, {row['row']}, seed {row['seed']}"
        )
        rows.append([name, *shown, same, kept])
    headers = ["cell", "first training", "second training", "every figure equal", "in the table above"]
    note = "Figures are those of val and test, to the last digit."
    if differs:
        note += (
            " A cell of the table that differs was not reproduced: it was trained earlier, and the number of threads "
            "and the version were not noted."
        )
    return [*table(headers, rows), note, ""]
