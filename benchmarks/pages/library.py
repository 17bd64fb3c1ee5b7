"""The section of the audit as a library: schemes that it is not told, beside the same schemes told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import table

Record = Mapping[str, Any]


def library(result: Record) -> list[str]:
    """Return the table of audits of functions, and what was planned and not run."""
    settings = result["settings"]
    lead = (
        f"Each scheme is a Python function to [cipherward.audit](../library.md), on {settings['images']} images of "
        f"{settings['pictures']}, in pools of {', '.join(map(str, settings['sizes']))}, with {settings['rows']} "
        f"audit rows and blocks of {settings['block']} pixels. *Unknown*: every key recovery is tried, and every "
        "move of the orbit is granted. *Told*: the audit knows which scheme it is. *Chosen*: the recovery that an "
        "adversary without any truth believes. Draws are those at the pool that broke the scheme, else at the "
        "largest. Seconds are those of a whole audit with its controls, on one core."
    )
    body = [
        [
            line["scheme"],
            "told" if line["told"] else "unknown",
            _verdict(line),
            f"{line['draws_broken']} of {line['draws']}",
            ", ".join(line["chosen"]) or "–",
            f"{line['chosen_broken']} of {line['draws']}",
            f"{line['seconds']:.0f}",
        ]
        for line in result["audits"]
    ]
    headers = [
        "scheme",
        "the audit is",
        "verdict",
        "draws broken",
        "chosen",
        "broken by the chosen",
        "seconds",
    ]
    run = {line["scheme"] for line in result["audits"]}
    missing = [scheme for scheme in result["planned"] if scheme not in run]
    return [lead, "", *table(headers, body), *([f"Not run: {', '.join(missing)}.", ""] if missing else [])]


def _verdict(line: Record) -> str:
    if not line["valid"]:
        return "invalid"
    if not line["broken"]:
        return "not broken"
    return f"broken from {line['broken_from']}" if line["broken_from"] else "broken without an attack"
