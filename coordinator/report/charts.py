"""The curves of a report as inline SVG: what a pool of n sealed images gives away, and how training went.

Each function returns one `<svg>` element, or "" if there is nothing to draw. The element has no size of its own, no
date and no outside reference, and its text stays text. Colours are CSS variables with a fallback, so that a page can
darken them. Lines also differ by marker and dash, for print and colour-blind readers (palette: Okabe and Ito 2008).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from coordinator.report.records import JudgedFinding, ReportDraw, Training

# Placeholders that no style sheet would pick; _clean turns them into variables of the page.
_INK, _FAINT = "#010203", "#040506"
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6f4fa0", "#a07000")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), "-", (0, (8, 2)))
_SIZE = (4.7, 3.15)  # inches
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "grid.alpha": 0.55,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@dataclass
class _Drawing:
    """Axes to draw on, and their SVG once they are drawn."""

    axes: Axes
    svg: str = ""


@contextmanager
def _drawing(name: str, description: str) -> Iterator[_Drawing]:
    """Yield axes to draw on, and render them at the end. The same figures give the same bytes."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        drawing = _Drawing(axes)
        yield drawing
        handles, labels = axes.get_legend_handles_labels()
        columns = 1 if max((len(text) for text in labels), default=0) > 30 else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6)
        # Constrained layout makes room for the legend; a taller figure keeps the axes' height.
        figure.set_figheight(_SIZE[1] + 0.17 * -(-len(labels) // columns))
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    drawing.svg = _clean(out.getvalue(), description)


def _clean(svg: str, description: str) -> str:
    """Turn matplotlib's file into an element of a page: no prolog, no size, no global style, no repeated ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    head = (
        f'<svg class="chart" viewBox="{box[1]}" role="img" aria-label="{escape(description, quote=True)}"'
    )
    svg = re.sub(r"<svg[^>]*", lambda _: head, svg, count=1)
    # Only attributes of tags: text that happens to contain a colour or the name of a font stays as it is.
    return re.sub(r"<[^>]+>", lambda tag: _colour(tag[0]), svg).strip()


def _colour(tag: str) -> str:
    """Put the page's colours and fonts into one tag."""
    tag = tag.replace(_INK, "var(--ink, #1b1f24)").replace(_FAINT, "var(--faint, #9aa3ad)")
    for i, colour in enumerate(_LINES):
        tag = tag.replace(colour, f"var(--line-{i}, {colour})")
    return re.sub(r"'DejaVu Sans'.*?(?=[;\"])", "system-ui, sans-serif", tag)


def best_baselines(draws: Sequence[ReportDraw]) -> list[tuple[float, str]]:
    """Return each draw's best baseline: its median SSIM and its name."""
    return [
        max((summary.median, name) for name, summary in draw.baselines.items())
        for draw in draws
        if draw.baselines
    ]


def _seen(points: Sequence[_Point]) -> str:
    """Return what the lines of points show, in words: each attack's medians at its smallest and largest pool."""
    texts = []
    for attack in dict.fromkeys(point.attack for point in points):
        values: dict[int, list[float]] = {}
        for point in points:
            if point.attack == attack:
                values.setdefault(point.pool_size, []).append(point.value)
        ends = [f"{median(values[size]):.2f} at {size}" for size in sorted({min(values), max(values)})]
        texts.append(f"{attack} {', '.join(ends)}")
    return "; ".join(texts)


def ssim_curve(findings: Sequence[JudgedFinding], draws: Sequence[ReportDraw]) -> str:
    """Draw the median SSIM of the guesses against pool size: a line an attack, a dot a draw, the best baseline."""
    points = [
        _Point(finding.attack, finding.pool_size, finding.figures.ssim.median)
        for finding in findings
        if finding.figures and finding.figures.ssim
    ]
    if not points:
        return ""
    what = "Median SSIM of the guesses against the number of sealed images"
    with _drawing("ssim", f"{what}: {_seen(points)}") as drawing:
        axes = drawing.axes
        for i, attack in enumerate(dict.fromkeys(point.attack for point in points)):
            _line(axes, attack, [point for point in points if point.attack == attack], i, i + i // 6)
        bases = [value for value, _ in best_baselines(draws)]
        if bases:
            _horizontal(axes, median(bases), "best baseline (no attack)")
        _pool_axis(axes, points, "median SSIM")
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.04)
    return drawing.svg


def key_curve(findings: Sequence[JudgedFinding]) -> str:
    """Draw the shares of K1 (block order) and K2 (pixel order) that are right, against pool size."""
    keyed = [(f, f.figures.key) for f in findings if f.figures and f.figures.key]
    if not keyed:
        return ""
    blocks = [_Point(f.attack, f.pool_size, key.block_order) for f, key in keyed]
    pixels = [_Point(f.attack, f.pool_size, key.pixel_order) for f, key in keyed]
    attacks = list(dict.fromkeys(point.attack for point in blocks))
    with _drawing("key", "Share of the key recovered against the number of sealed images") as drawing:
        axes = drawing.axes
        for i, attack in enumerate(attacks):
            name = "" if len(attacks) == 1 else f", {attack}"
            # One attack has two colours. Several have one colour each, and differ by dash and marker.
            pixel_colour = 1 if len(attacks) == 1 else i
            _line(axes, f"block order K1{name}", [p for p in blocks if p.attack == attack], i, 0)
            _line(axes, f"pixel order K2{name}", [p for p in pixels if p.attack == attack], pixel_colour, 1)
        _horizontal(axes, median(key.identifiable for _, key in keyed), "blocks that can be told apart")
        _pool_axis(axes, blocks, "share that is right")
        axes.set_ylim(0.0, 1.04)
    return drawing.svg


@dataclass(frozen=True)
class _Point:
    """One figure of one draw."""

    attack: str
    pool_size: int
    value: float


def _horizontal(axes: Axes, height: float, label: str) -> None:
    axes.axhline(height, color=_INK, lw=1.1, ls=(0, (2, 2)), label=label)


def _line(axes: Axes, label: str, points: Sequence[_Point], colour: int, form: int) -> None:
    """Draw dots for draws and a line through their medians; an attack on single images is a lone marker."""
    sizes = sorted({point.pool_size for point in points})
    medians = [median(p.value for p in points if p.pool_size == size) for size in sizes]
    style: dict[str, Any] = {"color": _LINES[colour % 6], "marker": _MARKERS[form % 6]}
    x, y = [p.pool_size for p in points], [p.value for p in points]
    axes.plot(x, y, ls="", ms=4.2, alpha=0.5, mew=0, clip_on=False, **style)
    dash = _DASHES[form % 6] if len(sizes) > 1 else ""
    axes.plot(sizes, medians, lw=1.9, ls=dash, ms=5.2, mew=0, label=label, clip_on=False, **style)


def _pool_axis(axes: Axes, points: Sequence[_Point], label: str) -> None:
    """Make the horizontal axis logarithmic, with a tick at every pool size."""
    sizes = sorted({point.pool_size for point in points})
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 1.15, max(sizes[-1], 2 * sizes[0]) * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{n:,}" for n in sizes])
    axes.set_xlabel("sealed images in the pool (log scale)")
    axes.set_ylabel(label)


def learning_curve(training: Training) -> str:
    """Draw the validation accuracy by round: on ciphertext, and on plain images where that was measured."""
    sealed = [(r.round, r.val_accuracy) for r in training.rounds if r.val_accuracy is not None]
    plain = list(enumerate(training.plain.rounds if training.plain else (), 1))
    if not sealed:
        return ""
    seen = "; ".join(
        f"{label} from {points[0][1]:.2f} in the first round to {points[-1][1]:.2f} in the last"
        for label, points in (("sealed images", sealed), ("plain images", plain))
        if points
    )
    with _drawing("learning", f"Validation accuracy by round: {seen}") as drawing:
        axes = drawing.axes
        for i, (label, points) in enumerate((("sealed images", sealed), ("plain images", plain))):
            if points:
                x, y = [point[0] for point in points], [point[1] for point in points]
                style: dict[str, Any] = {"color": _LINES[i], "marker": _MARKERS[i], "ls": _DASHES[i]}
                axes.plot(x, y, lw=1.9, ms=4.6, mew=0, label=label, clip_on=False, **style)
        best = [point for point in sealed if point[0] == training.best_round]
        if best:
            label = f"best round, {best[0][0]}: the tested model"
            axes.plot(*best[0], ls="", marker="o", ms=11, mfc="none", mec=_INK, mew=1.1, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
        axes.set_xlim(0.6, max(x for x, _ in (*sealed, *plain)) + 0.4)
        axes.set_xlabel("round")
        axes.set_ylabel("validation accuracy")
        axes.set_ylim(0.0, 1.04)
    return drawing.svg
