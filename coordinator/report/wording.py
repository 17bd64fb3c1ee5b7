"""How a report words its numbers: short, with their unit, and a dash where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from crypto.plural import agreeing


def score(value: float | None, digits: int = 3) -> str:
    """Return a figure such as 0.983; a dash for None."""
    # Adding 0 turns the -0.0 that rounding may leave into 0.0.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Return a share of 1 such as 98.2 %. Only none is 0 % and only all is 100 %: rounding must not claim either."""
    if value is None:
        return "–"
    if value in (0, 1):
        return f"{value:.0%}".replace("%", " %")
    shown = f"{100 * value:.1f} %"
    return {"0.0 %": "< 0.1 %", "100.0 %": "> 99.9 %"}.get(shown, shown)


def seconds(value: float | None) -> str:
    """Return a time: 3 ms, 0.12 s, 4.2 s, 85 s, 3 min 20 s, 2 h 05 min."""
    if value is None:
        return "–"
    if value < 0.01:
        return f"{1000 * value:.2g} ms"
    if value < 99.5:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    rounded = round(value)
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02} min"


def power(bits: float) -> Markup:
    """Return 2 to the power of `bits`, as a superscript that still copies as 2^1511."""
    return Markup('<span class="power">2<span class="hidden">^</span><sup>{}</sup></span>').format(
        f"{bits:,.0f}" if bits >= 10_000 else f"{bits:.0f}"
    )


def images(n: int, kind: str = "") -> str:
    """Return a count of images: 1 sealed image, 1,200 images."""
    return f"{n:,} {kind}{' ' if kind else ''}{agreeing(n, 'image', 'images')}"


def span(numbers: Iterable[int]) -> str:
    """Return the least and the largest of some numbers: 35 to 1,052, or one number if all are equal."""
    sizes = tuple(numbers) or (0,)
    least, most = min(sizes), max(sizes)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
