"""The files of docs/results/: each holds a run's command, its date and the figures that it wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Runs without a schema are recognised by a name that only they write.
_MARKS = {
    "candidates": "updates",
    "flwr_over_loop": "federation",
    "open_shards": "sealing",
    "by_epoch": "gan",
    "exponent": "pool-size",
    "known_answers": "properties",
    "by_pool_size": "key-recovery",
    "rows": "schemes",
}


@dataclass(frozen=True)
class Entry:
    """One run: its file's name, title, command line, date, and the figures that it wrote."""

    file: str
    title: str
    command: str
    date: str
    result: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of run: its schema's name, or a kind recognised by its figures, or ''."""
        schema = str(self.result.get("schema", ""))
        if schema:
            return schema.removeprefix("cipherward.").split("/", maxsplit=1)[0]
        return next((kind for mark, kind in _MARKS.items() if mark in self.result), "")

    def heading(self, level: int = 2) -> list[str]:
        """Return the section's heading: title, command, date, machine, and a link to the file."""
        machine = self.result.get("machine", {})
        cores = machine.get("cores", "?")
        size = f"{cores} core{'' if cores == 1 else 's'}, {machine.get('memory_gib', '?')} GiB of memory"
        return [
            f"{'#' * level} {self.title}",
            "",
            f"    {self.command}",
            "",
            f"{self.date}, {size}. All figures: [{self.file}]({self.file}).",
            "",
        ]


def read_entries(folder: Path) -> list[Entry]:
    """Return the runs in a folder, in the order of the numbers that their files' names begin with."""
    paths = sorted(folder.glob("*.json"), key=lambda path: int(path.name.split("-")[0]))
    return [read_entry(path) for path in paths]


def read_entry(path: Path) -> Entry:
    """Return the run in a file."""
    stored = json.loads(path.read_text())
    return Entry(path.name, stored["title"], stored["command"], stored["date"], stored["result"])


def of_kind(entries: Sequence[Entry], *kinds: str) -> list[Entry]:
    """Return the runs of these kinds, in their order."""
    return [entry for entry in entries if entry.kind in kinds]


def suite_of(row: Mapping[str, Any]) -> str:
    """Return the rule that a row of the audit table was judged by; rows of before it was noted are of suite/1."""
    return str(row.get("suite", "suite/1"))


def audited_rows(entries: Sequence[Entry]) -> list[Mapping[str, Any]]:
    """Return the rows of every audit table among the runs, and those of later schemes with their default options.

    A row that both measured is the audit table's.
    """
    rows = [row for entry in of_kind(entries, "audit-table") for row in entry.result["rows"]]
    measured = {row["name"] for row in rows if any(pool["draws"] for pool in row["pools"])}
    later = [row for entry in of_kind(entries, "projections") for row in entry.result["rows"]]
    later = [
        row
        for row in later
        if not row["options"] and row["attack"] != "as_is" and row["name"] not in measured
    ]
    names = {row["name"] for row in later}
    return [row for row in rows if row["name"] not in names] + later
