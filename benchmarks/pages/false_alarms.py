"""The count of false alarms: audits of guesses that know nothing, and how many the rule called broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import rate, table

Record = Mapping[str, Any]


def false_alarms(result: Record) -> list[str]:
    """Return the lines of what benchmarks/false_alarms.py counted."""
    audits = result["audits"]
    kinds, schemes = (list(dict.fromkeys(audit[name] for audit in audits)) for name in ("kind", "scheme"))
    body = [
        ["audits called broken", rate(result["broken"])],
        ["audits called readable by the second look", rate(result["readable"])],
        ["single guesses about one draw called broken", rate(result["single findings"])],
        ["audits in which the control was found", rate(result["found"])],
    ]
    by_guess = "; ".join(f"{name}: {count}" for name, count in result["by guess"].items())
    return [
        f"Guesses that were made without the images that they are about: {len(audits)} audits of {result['draws']} "
        f"draws, {result['rows']} scored rows, galleries of {result['gallery']} images. Pictures: "
        f"{', '.join(kinds)}. Schemes: {', '.join(schemes)}. The control shows its images through noise, and must "
        "be found.",
        "",
        *table(["what was counted", "share (95 % bounds)"], body),
        f"Audits called broken or readable, by guess: {by_guess}.",
        "",
    ]
