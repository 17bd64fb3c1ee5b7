"""The curves of a report as inline SVG: what a pool of n sealed images gives away, and how training went.

Each function returns one `<svg>` element, or "" where there is nothing to draw. It has no size of its
own, no date and no outside reference; text stays text. Colours are CSS variables with a fallback, so a
page can darken them; lines also differ by marker and dash, for print and colour-blind readers (palette:
Okabe and Ito 2008).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

# Stand-ins that no style sheet would pick; _clean turns them into variables of the page.
_INK, _FAINT = "#010203", "#040506"
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6f4fa0", "#a07000")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), "-", (0, (8, 2)))
_SIZE = (4.7, 3.15)
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


@contextmanager
def _drawing(name: str, said: str, into: list[str]) -> Iterator[Axes]:
    """Axes to draw on; their SVG is appended to `into`. The same figures give the same bytes."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        yield axes
        handles, labels = axes.get_legend_handles_labels()
        columns = 1 if max((len(text) for text in labels), default=0) > 30 else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6)
        # Constrained layout makes room for the legend; a taller figure keeps the axes' height.
        figure.set_figheight(_SIZE[1] + 0.17 * -(-len(labels) // columns))
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    into.append(_clean(out.getvalue(), said))


def _clean(svg: str, said: str) -> str:
    """What matplotlib wrote, as an element of a page: no prolog, no size, no global style, no repeated ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    head = f'<svg class="chart" viewBox="{box[1]}" role="img" aria-label="{escape(said, quote=True)}"'
    svg = re.sub(r"<svg[^>]*", lambda _: head, svg, count=1)
    # A tag's own attributes only: text that happens to hold a colour or a font's name stays as it is.
    return re.sub(r"<[^>]+>", lambda tag: _colour(tag[0]), svg).strip()


def _colour(tag: str) -> str:
    tag = tag.replace(_INK, "var(--ink, #1b1f24)").replace(_FAINT, "var(--faint, #9aa3ad)")
    for i, colour in enumerate(_LINES):
        tag = tag.replace(colour, f"var(--line-{i}, {colour})")
    return re.sub(r"'DejaVu Sans'.*?(?=[;\"])", "system-ui, sans-serif", tag)


def best_baselines(draws: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """(median SSIM, name) of each draw's best baseline."""
    return [max((v["median"], name) for name, v in d["baselines"].items()) for d in draws if d["baselines"]]


def ssim_curve(findings: Sequence[Mapping[str, Any]], draws: Sequence[Mapping[str, Any]]) -> str:
    """Median SSIM of the guesses against pool size: a line an attack, a dot a draw, the best baseline."""
    whole = [f for f in findings if f.get("ssim")]
    if not whole:
        return ""
    out: list[str] = []
    with _drawing("ssim", "Median SSIM of the guesses against the number of sealed images", out) as axes:
        for i, attack in enumerate(dict.fromkeys(f["attack"] for f in whole)):
            mine = [f for f in whole if f["attack"] == attack]
            _line(axes, attack, mine, lambda f: f["ssim"]["median"], i, i + i // 6)
        bases = [value for value, _ in best_baselines(draws)]
        if bases:
            axes.axhline(
                median(bases), color=_INK, lw=1.1, ls=(0, (2, 2)), label="best baseline (no attack)"
            )
        _pool_axis(axes, whole, "median SSIM")
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.04)
    return out[0]


def key_curve(findings: Sequence[Mapping[str, Any]]) -> str:
    """Shares of K1 (block order) and K2 (pixel order) that were right, against pool size."""
    keyed = [f for f in findings if f.get("key")]
    if not keyed:
        return ""
    out: list[str] = []
    attacks = list(dict.fromkeys(f["attack"] for f in keyed))
    with _drawing("key", "Share of the key recovered against the number of sealed images", out) as axes:
        for i, attack in enumerate(attacks):
            mine = [f for f in keyed if f["attack"] == attack]
            name = "" if len(attacks) == 1 else f", {attack}"
            # Two colours for one attack; one colour an attack, told apart by dash and marker, for several.
            pixel_colour = 1 if len(attacks) == 1 else i
            _line(axes, f"block order K1{name}", mine, lambda f: f["key"]["block_order"], i, 0)
            _line(axes, f"pixel order K2{name}", mine, lambda f: f["key"]["pixel_order"], pixel_colour, 1)
        ceiling = median(f["key"]["identifiable"] for f in keyed)
        axes.axhline(ceiling, color=_INK, lw=1.1, ls=(0, (2, 2)), label="blocks that can be told apart")
        _pool_axis(axes, keyed, "share that is right")
        axes.set_ylim(0.0, 1.04)
    return out[0]


def _line(
    axes: Axes,
    label: str,
    mine: Sequence[Mapping[str, Any]],
    of: Callable[[Mapping[str, Any]], float],
    colour: int,
    form: int,
) -> None:
    """Dots for draws, a line through their medians; an attack on single images is a lone marker."""
    sizes = sorted({f["pool_size"] for f in mine})
    middle = [median(of(f) for f in mine if f["pool_size"] == n) for n in sizes]
    style: dict[str, Any] = {"color": _LINES[colour % 6], "marker": _MARKERS[form % 6]}
    points = [(f["pool_size"], of(f)) for f in mine]
    axes.plot(*zip(*points, strict=True), ls="", ms=4.2, alpha=0.5, mew=0, clip_on=False, **style)
    dash = _DASHES[form % 6] if len(sizes) > 1 else ""
    axes.plot(sizes, middle, lw=1.9, ls=dash, ms=5.2, mew=0, label=label, clip_on=False, **style)


def _pool_axis(axes: Axes, findings: Sequence[Mapping[str, Any]], what: str) -> None:
    sizes = sorted({f["pool_size"] for f in findings})
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 1.15, max(sizes[-1], 2 * sizes[0]) * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{n:,}" for n in sizes])
    axes.set_xlabel("sealed images in the pool (log scale)")
    axes.set_ylabel(what)


def learning_curve(training: Mapping[str, Any]) -> str:
    """Validation accuracy by round: on ciphertext, and on plain images where that was measured."""
    rounds = [r for r in training["rounds"] if r["val_accuracy"] is not None]
    plain = (training["plain"] or {}).get("rounds") or []
    if not rounds:
        return ""
    out: list[str] = []
    with _drawing("learning", "Validation accuracy by round", out) as axes:
        every = [
            ("sealed images", [r["round"] for r in rounds], [r["val_accuracy"] for r in rounds]),
            ("plain images", list(range(1, len(plain) + 1)), plain),
        ]
        for i, (label, x, y) in enumerate(every):
            if y:
                style: dict[str, Any] = {"color": _LINES[i], "marker": _MARKERS[i], "ls": _DASHES[i]}
                axes.plot(x, y, lw=1.9, ms=4.6, mew=0, label=label, clip_on=False, **style)
        best = [(r["round"], r["val_accuracy"]) for r in rounds if r["round"] == training["best_round"]]
        if best:
            label = f"best round, {best[0][0]}: the tested model"
            axes.plot(*best[0], ls="", marker="o", ms=11, mfc="none", mec=_INK, mew=1.1, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
        axes.set_xlim(0.6, max(x for _, every_x, _ in every for x in every_x) + 0.4)
        axes.set_xlabel("round")
        axes.set_ylabel("validation accuracy")
        axes.set_ylim(0.0, 1.04)
    return out[0]
