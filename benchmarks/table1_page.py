"""How docs/results.md tells the comparison of schemes: accuracy from its cells, security from the audit's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]
_TITLES = {"pneumonia": "PneumoniaMNIST", "cifar": "CIFAR-10", "mri": "brain MRI"}
_NAMES = {"vit": "ViT", "resnet18": "ResNet-18", "shake_pyramidnet": "ShakeDrop PyramidNet"}
_AUDITED = {
    "mri": ("mri",),
    "cifar": ("cifar", "cifar224"),
    "pneumonia": (),
}  # what of the audit's data is such images
_SIDES = {"mri": 224, "cifar": 32, "cifar224": 224}
CLOSE = 0.01  # what a mean AUC on ciphertext may be away from that on plain images


def _rows(heads: Sequence[str], body: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in body), ""]


def security(row: str, data: str, audited: Sequence[Record]) -> str:
    """The smallest pool that breaks a row's scheme on such images, by the audit; at every size it was audited at."""
    scheme = row.split()[0]
    if scheme == "plain":
        return "not sealed"
    told = []
    for line in audited:
        same = (line["scheme"], line["scope"], line["attack"]) == (
            scheme,
            "consortium",
            "pooled_key_recovery",
        )
        if same and line["data"] in _AUDITED[data] and not line["options"] and line["largest_pool"]:
            side = _SIDES[line["data"]]
            found, most = line["smallest_pool"], line["largest_pool"]
            verdict = f"broken by {found}" if found else f"not broken by up to {most}"
            told.append(f"{verdict} (at {side}×{side}, blocks of {line['block']})")
    return "; ".join(told) or "not audited"


def accuracy(section: Record, row: str, seed: int = 0) -> str:
    """One cell of the table: accuracy with its 95 % bounds and AUC, or why there is none."""
    if row in section["none"]:
        return "no such cell"
    for cell in section["cells"]:
        if (cell["row"], cell["seed"]) == (row, seed):
            if "diverged" in cell:
                return f"diverged in epoch {cell['diverged']}"
            test = cell["test"]
            bounds = f"{100 * test['rate']:.1f} % ({100 * test['low']:.1f}–{100 * test['high']:.1f})"
            return bounds + (f", AUC {test['auc']:.3f}" if test["auc"] is not None else "")
    for part in section["begun"]:
        if (part["row"], part["seed"]) == (row, seed):
            return f"not finished: {part['epochs']} of {section['plan']['rounds']} epochs"
    return "not run"


def settings(section: Record) -> str:
    """One line on how a section was trained."""
    plan, cells = section["plan"], section["cells"]
    model = plan["model"] + "".join(f", {k} {v}" for k, v in plan.get("model_args", {}).items())
    line = f"- {_NAMES[section['network']]}: {model}; {plan['image_size']}×{plan['image_size']}, "
    line += f"blocks of {plan['block']}; "
    line += f"{plan['rounds']} epochs of {plan['optimizer']}, rate {plan['lr']:g}, batch {plan['batch']}; "
    line += "from public weights" if plan.get("weights") else "from scratch"
    if any(pair != "none" for pair in section["pairs"].values()):
        line += "; adaptation " + ", ".join(
            f"{row}: {section['pairs'][row]}" for row in section["rows"] if row not in section["none"]
        )
    if cells:
        train, val, test = cells[0]["images"]
        seconds = [c["seconds"] for c in cells]
        line += f"; {train} training, {val} val, {test} test images; {min(seconds):.0f}–{max(seconds):.0f} s a cell"
    return line + "."


def seeds(section: Record) -> list[str]:
    """AUC over several seeds, on ciphertext beside plain images: only rows of which every seed is there."""
    found: dict[str, list[float]] = {}
    for cell in sorted(section["cells"], key=lambda c: c["seed"]):
        if cell["test"]["auc"] is not None:
            found.setdefault(cell["row"], []).append(cell["test"]["auc"])
    whole = {row: values for row, values in found.items() if len(values) == section["seeds"]}
    if section["seeds"] < 2 or "plain" not in whole or len(whole) < 2:
        return []
    plain = np.mean(whole["plain"])
    body = []
    for row, values in whole.items():
        away = np.mean(values) - plain
        verdict = (
            ""
            if row == "plain"
            else f"{away:+.4f}: " + ("within" if abs(away) <= CLOSE else "**not within**")
        )
        each = ", ".join(f"{v:.4f}" for v in values)
        body.append([row, each, f"{np.mean(values):.4f}", f"{np.std(values, ddof=1):.4f}", verdict])
    heads = [
        "row",
        "AUC, seed by seed",
        "mean",
        "standard deviation",
        f"away from plain; within {CLOSE:g}?",
    ]
    return [
        f"{_NAMES[section['network']]}, {section['seeds']} seeds, each with a key of its own:",
        "",
        *_rows(heads, body),
    ]


def table1(result: Record, audited: Sequence[Record]) -> list[str]:
    """The page's lines. audited: the rows of the audit's own result; without any, nothing counts as audited."""
    lines = []
    for data in dict.fromkeys(s["data"] for s in result["sections"]):
        mine = [s for s in result["sections"] if s["data"] == data]
        body = [
            [row, *(accuracy(s, row) for s in mine), security(row, data, audited)]
            for row in mine[0]["rows"]
        ]
        heads = ["sealed by", *(_NAMES[s["network"]] for s in mine), "sealed images that break it"]
        lines += [
            f"**{_TITLES[data]}**, accuracy on test images with 95 % bounds:",
            "",
            *_rows(heads, body),
        ]
        for section in mine:
            lines += seeds(section)
        lines += [*(settings(s) for s in mine), ""]
    return lines
