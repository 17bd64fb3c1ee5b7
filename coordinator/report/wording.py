"""How a report words its numbers: short, with their unit, and a dash where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from coordinator.exchange.linking import KEPT


def score(value: float | None, digits: int = 3) -> str:
    """0.983; a dash where there is no value."""
    # Adding 0 turns the -0.0 that rounding may leave into 0.0.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share of 1: 98.2 %. Only none is 0 % and only all is 100 %: rounding must not say either."""
    if value is None:
        return "–"
    if value in (0, 1):
        return f"{value:.0%}".replace("%", " %")
    shown = f"{100 * value:.1f} %"
    return {"0.0 %": "< 0.1 %", "100.0 %": "> 99.9 %"}.get(shown, shown)


def seconds(value: float | None) -> str:
    """3 ms, 0.12 s, 4.2 s, 85 s, 3 min 20 s, 2 h 05 min."""
    if value is None:
        return "–"
    if value < 0.01:
        return f"{1000 * value:.2g} ms"
    if value < 99.5:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def size(value: float | None) -> str:
    """Bytes, in powers of 1000: 12.3 MB."""
    if value is None:
        return "–"
    left, units = value, ["B", "kB", "MB", "GB", "TB"]
    while left >= 999.5 and len(units) > 1:
        left /= 1000
        units.pop(0)
    digits = 0 if units[0] == "B" or left >= 99.95 else 1
    return f"{left:.{digits}f} {units[0]}"


def power(bits: float) -> Markup:
    """2 to the bits, as a superscript that still copies as 2^1511."""
    return Markup('<span class="power">2<span class="hidden">^</span><sup>{}</sup></span>').format(
        f"{bits:,.0f}" if bits >= 10_000 else f"{bits:.0f}"
    )


def images(n: int, kind: str = "") -> str:
    """1 sealed image, 1,200 images."""
    return f"{n:,} {kind}{' ' if kind else ''}image{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def linked(report: Mapping[str, Any]) -> str:
    """Whether ciphertexts name their own image without any key: a sentence beside the verdict."""
    if report["verdict"].get("linkable") is None:
        known = report["scheme"]["name"] in KEPT
        return (
            "Linkable: not run." if known else "Linkable: not asked, what the scheme leaves is not known."
        )
    shares = [draw["linkable"] for draw in report["draws"]]
    hits, n, several = (sum(s[k] for s in shares) for k in ("hits", "n", "ambiguous"))
    named = (
        f"{hits} of {n} ciphertexts name their own image among {min(s['gallery'] for s in shares):,} "
        f"by {KEPT[report['scheme']['name']]} alone"
    )
    if several:
        named += f", {several} more fit several images"
    if report["verdict"]["linkable"]:
        return f"Linkable: {named}; it takes no key."
    return f"Not linkable: {named}; {score(max(s['high'] for s in shares))} is the 95 % upper bound."
