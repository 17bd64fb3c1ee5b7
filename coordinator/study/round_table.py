"""The live table of a training: which hospitals took part in which rounds, from the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crypto.plural import counted
from crypto.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

#: Rounds and hospitals that the table shows, at most. It must fit into 80 columns and 24 lines.
LATEST_ROUNDS, MOST_HOSPITALS = 20, 8
#: What became of a hospital in a round.
TOOK_PART, ABSENT, REFUSED, UNKNOWN = "+", "-", "x", " "
LEGEND = f"{TOOK_PART} took part, {ABSENT} no answer, {REFUSED} refused"


def attendance(rows: Sequence[Mapping[str, Any]], hospitals: Sequence[str]) -> dict[str, str]:
    """Return a mark for each round that was made, by hospital. Of a round's attempts the last one counts.

    Args:
        rows: lines of the journal.
        hospitals: their names.
    """
    rounds = {row["round"]: row for row in rows}
    return {
        name: "".join(_mark(rounds[number], name) for number in sorted(rounds)[-LATEST_ROUNDS:])
        for name in hospitals
    }


def _mark(row: Mapping[str, Any], name: str) -> str:
    if name in row["parties"]:
        return TOOK_PART
    if name in row["refused"]:
        return REFUSED
    return ABSENT if name in row["absent"] else UNKNOWN


def missing_words(row: Mapping[str, Any]) -> str:
    """Return who did not take part in a round, or in its evaluation, and why; "" if all did."""
    words = [f"{name} did not answer" for name in row["absent"]]
    words += [f"{name}: {why}" for name, why in row["refused"].items()]
    return "; ".join(words)


def round_table(rows: Sequence[Mapping[str, Any]], hospitals: Sequence[str]) -> Table | None:
    """Return the table for a terminal of 80 columns, or None before the first round.

    Of many hospitals those that missed most rounds are shown, and the others are counted.

    Args:
        rows: lines of the journal.
        hospitals: their names.
    """
    if not rows:
        return None
    # Imported here: --help is printed without it.
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    numbers = sorted({row["round"] for row in rows})[-LATEST_ROUNDS:]
    first, last = numbers[0], numbers[-1]
    marks = attendance(rows, hospitals)
    shown = sorted(hospitals, key=lambda name: marks[name].count(TOOK_PART))[:MOST_HOSPITALS]
    table = Table(
        Column("hospital", no_wrap=True, overflow="ellipsis", max_width=30),
        Column("took part", no_wrap=True, justify="right"),
        Column(f"rounds {first} to {last}" if last > first else f"round {last}", no_wrap=True),
        box=box.SIMPLE_HEAD,
        caption=LEGEND,
        caption_justify="left",
    )
    for name in (name for name in hospitals if name in shown):
        took_part = marks[name].count(TOOK_PART)
        table.add_row(Text(printable(name)), f"{took_part} of {len(marks[name])}", Text(marks[name]))
    if others := len(hospitals) - len(shown):
        table.add_row(Text(f"{counted(others, 'other')} missed no more"), "", "")
    return table
