"""The table of accuracies under a key for every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.pages.comparison import AUDITED, DATA_NAMES
from benchmarks.pages.entries import verdict_of
from benchmarks.pages.markdown import percent, table

Record = Mapping[str, Any]
#: What hides nothing, and what nobody can learn from: they are there for comparison.
_CONTROLS = ("plain", "noise")


def image_keys(result: Record, audited: Sequence[Record]) -> list[str]:
    """Return the table of what benchmarks/image_keys.py measured: schemes by data sets, and how each was trained.

    Args:
        result: the benchmark's figures.
        audited: the result of `audited_images`.
    """
    cells = result["cells"]
    names = [name for name in DATA_NAMES if any(c["data"] == name for c in cells)]
    body = []
    for row, read in result["rows"].items():
        found = [[c for c in cells if (c["row"], c["data"]) == (row, name)] for name in names]
        body.append([row, *(_accuracy(part) for part in found), read["why"]])
    lines = table(["sealed by", *(DATA_NAMES[name] for name in names), "what every key leaves"], body)
    lines += [
        "What the attacks do to one sealed image whose key no other image has:",
        "",
        *_audits(result, names, audited),
    ]
    for name in names:
        mine = [c for c in cells if c["data"] == name]
        train, val, test = mine[0]["images"]
        settings, seconds = mine[0]["settings"], [c["seconds"] for c in mine]
        side, block, precision = mine[0]["side"], settings["block"], settings.get("precision", "float32")
        lines.append(
            f"- {DATA_NAMES[name]}: {side}×{side}, blocks of {block}, {settings['rounds']} epochs from scratch "
            f"in {precision}; "
            f"{train} training, {val} val, {test} test images; "
            f"{min(seconds):.0f}–{max(seconds):.0f} s a cell."
        )
    return [*lines, ""]


def _audits(result: Record, names: Sequence[str], audited: Sequence[Record]) -> list[str]:
    """Return the table of what the attacks do to a single image, at the size and block that models learnt."""
    body = []
    for row, read in result["rows"].items():
        cells = []
        for name in names:
            cell = next((c for c in result["cells"] if c["data"] == name), None)
            place = AUDITED.get((name, cell["side"])) if cell else None
            block = cell["settings"]["block"] if cell else 0
            verdict = verdict_of(audited, read["scheme"], "image", place, block)
            cells.append("no attack was run" if verdict is None else str(verdict))
        if read["scheme"] not in _CONTROLS:
            body.append([row, *cells])
    return table(["sealed by", *(DATA_NAMES[name] for name in names)], body)


def _accuracy(cells: list[Record]) -> str:
    """Return the mean test accuracy over seeds, the widest bounds and the mean AUC."""
    if not cells:
        return "not run"
    tests = [cell["test"] for cell in cells]
    rates = percent(float(np.mean([test["rate"] for test in tests])))
    low, high = min(test["low"] for test in tests), max(test["high"] for test in tests)
    aucs = [test["auc"] for test in tests if test["auc"] is not None]
    text = f"{rates} % ({percent(low)}–{percent(high)})"
    text += f", AUC {np.mean(aucs):.3f}" if aucs else ""
    return text + (f", {len(cells)} seeds" if len(cells) > 1 else "")
