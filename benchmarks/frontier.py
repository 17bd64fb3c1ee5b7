"""Draw what each choice is worth: test accuracy on ciphertext against the sealed images that break it.

    python -m benchmarks.frontier        (make frontier)

Reads docs/results/*.json and writes docs/frontier.json, docs/frontier.png and their section of
docs/results/accuracy.md (by `make results`). A point is one scheme, key scope and stem mode on one data set, with an
accuracy that the comparison or a study measured, and the smallest pool that the audit's table broke *on the same
images*. A choice without one of the two figures is not drawn but listed with what it lacks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.command_line import make_parser
from benchmarks.pages.comparison import DATA_NAMES, sized_name
from benchmarks.pages.entries import read_entries
from benchmarks.pages.frontier import Choice, Line, choices_of, dominated, lines_of
from benchmarks.results import KEPT
from crypto.files import write_json

SCHEMA = "cipherward.frontier/1"
JSON = KEPT.parent / "frontier.json"
PNG = KEPT.parent / "frontier.png"

# Okabe and Ito 2008; a scheme keeps its colour and marker in every panel. Colours begin again, markers do not.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6f4fa0", "#a07000", "#56b4e9", "#444444")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", ">", "p", "d", "h", "8", "H")
#: A stem that stays in the hospital has a marker of its own.
_PRIVATE_MARKER = "<"
#: Size of a marker and width of its edge, by how the model was trained.
_SHAPES = {"central": (7.0, 1.0), "federated": (10.0, 1.0), "one hospital": (10.0, 2.4)}
_DASHES = ((0, (2, 2)), (0, (6, 2)), (0, (1, 1)))
#: How wide a row of points that share a pool size may be: its last place over its first.
_WIDTH = 1.6
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000)
_INK, _FAINT = "#1b1f24", "#9aa3ad"


def figures_of(choices: list[Choice], lines: list[Line]) -> dict[str, Any]:
    """Return what docs/frontier.json holds: every choice, whether another one dominates it, and reference lines."""
    worse = dominated(choices)
    return {
        "schema": SCHEMA,
        "choices": [{**choice.to_json(), "dominated by": worse.get(choice)} for choice in choices],
        "reference lines": [line.to_json() for line in lines],
    }


def draw(choices: list[Choice], lines: list[Line], path: Path) -> None:
    """Draw a panel for each data set and size that has points; the same figures give the same PNG."""
    drawn = [choice for choice in choices if choice.pool is not None]
    panels = sorted(
        {(choice.data, choice.size) for choice in drawn},
        key=lambda at: (list(DATA_NAMES).index(at[0]), at[1]),
    )
    columns = len(panels) if len(panels) <= 3 else 2
    rows = -(-len(panels) // columns)
    schemes = list(dict.fromkeys(choice.scheme for choice in choices))
    with matplotlib.rc_context({"font.size": 9.0, "text.color": _INK, "axes.edgecolor": _FAINT}):
        figure = Figure(figsize=(5.4 * columns, 1.0 + 3.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (data, size) in zip(grid, panels, strict=False):
            _draw_panel(
                axes,
                [choice for choice in drawn if (choice.data, choice.size) == (data, size)],
                [line for line in lines if (line.data, line.size) == (data, size)],
                schemes,
                list(dict.fromkeys(line.name for line in lines)),
            )
            axes.set_title(sized_name(data, size), loc="left", fontweight="bold")
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize=8.5,
        )
        figure.savefig(path, dpi=150, metadata={"Software": None})


def side_by_side(nth: int, of: int) -> float:
    """Return by what to multiply the place of the nth of so many points that share it: a row in its middle.

    Neighbouring ticks (1 and 2) are further apart than the row is wide.
    """
    step = min(1.09, _WIDTH ** (1 / max(1, of - 1)))
    return float(step ** (nth - (of - 1) / 2))


def _draw_panel(
    axes: Axes, choices: list[Choice], lines: list[Line], schemes: list[str], names: list[str]
) -> None:
    """Draw the points and reference lines of one data set."""
    worse = dominated(choices)
    largest = max([choice.pool or 1 for choice in choices if choice.broken], default=10)
    edge = 2.2 * max(largest, 10)  # what nothing broke stands to the right of all that was broken
    places = [float(choice.pool or 1) if choice.broken else edge for choice in choices]
    seen: dict[float, int] = {}
    for choice, place in zip(choices, places, strict=True):
        assert choice.pool is not None
        # Points that share a pool size stand side by side around it, so that none hides another.
        nth = seen[place] = seen.get(place, -1) + 1
        x = place * side_by_side(nth, places.count(place))
        i = schemes.index(choice.scheme)
        colour = _COLOURS[i % len(_COLOURS)]
        error = [[choice.rate - choice.low], [choice.high - choice.rate]]
        axes.errorbar(x, choice.rate, yerr=error, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.6)
        hollow = choice in worse
        size, edge_width = _SHAPES[choice.training]
        axes.plot(
            x,
            choice.rate,
            marker=_PRIVATE_MARKER if choice.stem == "private" else _MARKERS[i],
            ls="",
            ms=size,
            mew=edge_width,
            color=colour,
            mfc="white" if hollow else colour,
            label=choice.name if choice.scope == "consortium" else None,
        )
        if choice.scope == "image":
            axes.plot(
                x, choice.rate, "o", ms=13, mfc="none", mec=_INK, mew=0.7, label="a key for each image"
            )
        if choice.broken and choice.bound:
            arrow = {"arrowstyle": "->", "color": colour, "lw": 0.9}
            axes.annotate("", xy=(x / 1.3, choice.rate), xytext=(x, choice.rate), arrowprops=arrow)
        if not choice.broken:
            tried = "from one image" if choice.pool == 1 else f"up to {choice.pool:,}"
            axes.annotate(
                "attack\nuncertain" if choice.uncertain else f"not broken\n{tried}",
                (x, choice.rate),
                xytext=(9, -4),
                textcoords="offset points",
                fontsize=7.5,
            )
    for line in lines:
        axes.axhline(
            line.rate,
            color=_INK,
            lw=1.0,
            ls=_DASHES[names.index(line.name) % 3],
            label=line.name,
        )
    axes.set_xscale("log")
    axes.set_xlim(0.65, edge * (1.0 if edge not in seen else 4.5))
    ticks = [tick for tick in _TICKS if tick <= max(largest, 10)]
    axes.set_xticks(ticks)
    axes.set_xticklabels([f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", color=_FAINT, lw=0.6, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("sealed images that break it (log scale; arrow: perhaps fewer)")
    axes.set_ylabel("test accuracy, with bounds")


def main() -> None:
    """Run the command line."""
    make_parser(__doc__).parse_args()
    entries = read_entries(KEPT)
    choices, lines = choices_of(entries), lines_of(entries)
    write_json(JSON, json.loads(json.dumps(figures_of(choices, lines))))
    draw(choices, lines, PNG)
    print(JSON, PNG, sep="\n")


if __name__ == "__main__":
    main()
