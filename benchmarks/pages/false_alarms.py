"""The count of false alarms: audits of guesses that know nothing, and how many the rule called broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import rate, table

Record = Mapping[str, Any]


def _scheme(audit: Record) -> str:
    """Return an audit's scheme in words."""
    return f"{audit['scheme']}{' with a key for every image' if audit.get('scope') == 'image' else ''}"


def false_alarms(result: Record) -> list[str]:
    """Return the lines of what benchmarks/false_alarms.py counted."""
    audits = result["audits"]
    kinds = list(dict.fromkeys(audit["kind"] for audit in audits))
    schemes = list(dict.fromkeys(map(_scheme, audits)))
    body = [
        ["audits called broken", rate(result["broken"])],
        ["audits called readable by the second look", rate(result["readable"])],
        ["single guesses about one draw called broken", rate(result["single findings"])],
        ["audits in which the control was found", rate(result["found"])],
    ]
    by_guess = "; ".join(f"{name}: {count}" for name, count in result["by guess"].items())
    return [
        f"Guesses that were made without the images that they are about, judged by {result.get('suite', 'suite/1')}: "
        f"{len(audits)} audits of {result['draws']} "
        f"draws, {result['rows']} scored rows, galleries of {result['gallery']} images. Pictures: "
        f"{', '.join(kinds)}. Schemes: {', '.join(schemes)}. The control shows its images through noise, and must "
        "be found.",
        "",
        *table(["what was counted", "share (95 % bounds)"], body),
        f"Audits called broken or readable, by guess: {by_guess}.",
        "",
    ]
