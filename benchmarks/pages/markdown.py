"""Markdown tables and numbers for the result pages. A table has at most seven columns, so that it can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: The most columns of a table. Wider results belong in the JSON files.
MAX_COLUMNS = 7


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table, and an empty line after it.

    Raises:
        ValueError: If it has more than seven columns, or a row has not one cell for each header.
    """
    if len(headers) > MAX_COLUMNS or any(len(row) != len(headers) for row in rows):
        raise ValueError(
            f"a table has at most {MAX_COLUMNS} columns, each row as many as headers: {headers}"
        )
    lines = [_line(headers), "|" + "---|" * len(headers)]
    return [*lines, *(_line(row) for row in rows), ""]


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def facts(values: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return a table of single figures: label and value of every labelled name that is there."""
    rows = [(label, number(values[name])) for name, label in labels.items() if name in values]
    return table(["figure", "value"], rows)


def number(value: object) -> str:
    """Return a float with four significant digits, nothing for None, a list by its items, others as they are."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(number, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float) -> str:
    """Return a share of 1 in percent, without the sign."""
    return f"{100 * value:.1f}"


def rate(value: Mapping[str, Any]) -> str:
    """Return a rate with its 95 % bounds: 95.0 % (93.0–96.5)."""
    return f"{percent(value['rate'])} % ({percent(value['low'])}–{percent(value['high'])})"


def quartiles(values: Mapping[str, Any], name: str) -> str:
    """Return a median with its quartiles, which lie beside it as NAME_low and NAME_high."""
    return f"{values[name]:.2f} ({values[f'{name}_low']:.2f}–{values[f'{name}_high']:.2f})"


def value_range(values: Sequence[float], form: str) -> str:
    """Return one figure if all agree at this precision, otherwise least–greatest."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}–{high}"
