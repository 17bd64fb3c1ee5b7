"""Ciphers of textbooks: how many images break them, by kind of picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.markdown import table
from benchmarks.picture_targets import LEAST_DRAWS

Record = Mapping[str, Any]

_LEAD = (
    "Ciphers that are no schemes of this program, and the attacks of the audit as a library "
    "([docs/library.md](../library.md)) on them. Measured as by kind of picture above; turns, mirror images, the "
    "negative and shifts are granted. *Broken*: the smallest pool at which two thirds of the draws are broken by K "
    "or R. *Most images*: the figures at the largest pool, medians. A dash: at no pool that was tried."
)


def textbook(result: Record) -> list[str]:
    """Return the smallest pools that break each cipher, the pools that were not opened, and what noise shows."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in result["rows"]:
        groups.setdefault((row["cipher"], row["kind"]), []).append(row)
    body = [
        [
            result["ciphers"][cipher],
            kind,
            _least(rows, "broken"),
            _least(rows, "exact"),
            _draws(rows),
            f"{rows[-1]['pool']} images: SSIM {rows[-1]['ssim']:.2f}, {100 * rows[-1]['right']:.0f} % exact",
            f"{rows[-1]['seconds']:.1f}",
        ]
        for (cipher, kind), rows in groups.items()
    ]
    headers = [
        "cipher",
        "pictures",
        "broken",
        "exact",
        "broken at (of the draws)",
        "most images",
        "seconds",
    ]
    kinds = [f"- *{name}*: {words}" for name, words in result["kinds"].items()]
    return [_LEAD, "", *kinds, "", *table(headers, body), "", _noise(result["noise"])]


def _least(rows: Sequence[Record], figure: str) -> str:
    """Return the smallest pool at which two thirds of the draws reach a figure, or a dash."""
    reached = [r["pool"] for r in rows if r["draws"] >= LEAST_DRAWS and 3 * r[figure] >= 2 * r["draws"]]
    return str(min(reached)) if reached else "–"


def _draws(rows: Sequence[Record]) -> str:
    """Return how many draws were broken at each pool, in words."""
    return "; ".join(
        f"{row['pool']}: {row['broken']} of {row['draws']}"
        + (" (not tried)" if row["not_tried"] == row["draws"] else "")
        for row in rows
    )


def _noise(rows: Sequence[Record]) -> str:
    """Return how many pools of noise the attacks believed to have opened."""
    if not rows:
        return "Pools of noise were not tried."
    believed, pools = sum(row["believed"] for row in rows), sum(row["draws"] for row in rows)
    return (
        f"Of {pools} pools of noise of 32×32, as a nonce for each image makes it, the attacks believed to have "
        f"opened {believed}."
    )
