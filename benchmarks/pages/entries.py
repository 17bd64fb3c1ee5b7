"""The files of docs/results/: each holds a run's command, its date and the figures that it wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.picture_targets import LEAST_DRAWS
from crypto.scheme import SCHEMES, always_has_row_keys

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
        if not row["options"] and row.get("attack") != "as_is" and row["name"] not in measured
    ]
    names = {row["name"] for row in later}
    return [row for row in rows if row["name"] not in names] + later


#: Kinds of pictures that are the images of the comparison, at their size.
_SAME_IMAGES = {
    "mri 224": "mri",
    "mri 64": "mri64",
    "cifar 224": "cifar224",
    "cifar 32": "cifar",
    "pneumonia 28": "pneumonia",
}


def audited_images(entries: Sequence[Entry]) -> list[Mapping[str, Any]]:
    """Return the audited rows, and those of the table of pictures on the images that models were trained on.

    Pools of too few draws decide nothing there, and are no evidence that a scheme holds.
    """
    found = audited_rows(entries)
    for entry in of_kind(entries, "picture-kinds"):
        for row in entry.result.get("rows", ()):
            pools = [pool for pool in row["pools"] if pool["draws"] >= LEAST_DRAWS]
            if row["kind"] in _SAME_IMAGES and pools:
                places = {"data": _SAME_IMAGES[row["kind"]], "scope": "consortium"}
                sizes = {"smallest_pool": row["broken_at"], "largest_pool": max(p["pool"] for p in pools)}
                found.append({**row, **places, **sizes, "pools": pools})
    return found


@dataclass(frozen=True)
class Verdict:
    """How many sealed images break a scheme on some images.

    Attributes:
        pool: the smallest pool that breaks it, or the largest that was tried.
        is_broken: whether that pool breaks it.
        is_bound: whether no smaller pool was tried, so that fewer images may be enough.
        is_uncertain: whether the attacks that did not break it say themselves that they failed.
    """

    pool: int
    is_broken: bool
    is_bound: bool = False
    is_uncertain: bool = False

    def __str__(self) -> str:
        if self.is_uncertain:
            return f"attack uncertain at {self.pool} image{'s' if self.pool > 1 else ''}"
        if not self.is_broken and self.pool == 1:
            return "not broken from one image"
        if not self.is_broken:
            return f"not broken by up to {self.pool}"
        return f"broken by {self.pool}" + (" or fewer" if self.is_bound else "")


def _attacked(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a row without the pools in which the attack was idle in every draw; None if none is left.

    An attack that had nothing to try is no evidence of strength, whatever other pools of the row say. A row that does
    not list its pools is returned as it is.
    """
    if not row.get("pools"):
        return row
    pools = [pool for pool in row["pools"] if pool.get("idle", 0) < pool.get("draws", 1)]
    if not pools:
        return None
    if len(pools) == len(row["pools"]):
        return row
    return {**row, "pools": pools, "largest_pool": max(pool["pool"] for pool in pools)}


def own_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an audited row that are not its scheme's defaults."""
    defaults = {
        option: values[0] for option, values in getattr(SCHEMES.get(row["scheme"]), "options", {}).items()
    }
    return {option: value for option, value in row["options"].items() if value != defaults.get(option)}


def verdict_of(
    audited: Sequence[Mapping[str, Any]],
    scheme: str,
    scope: str,
    data: str | None,
    block: int,
    options: Mapping[str, Any] | None = None,
) -> Verdict | None:
    """Return what the attacks on sealed images do to a scheme; None if none tried.

    Args:
        audited: the result of `audited_images`.
        scheme: the scheme.
        scope: consortium, or image; a scheme that draws what it does for every image has one alone.
        data: the audit's name of the images.
        block: the block side in pixels.
        options: the scheme's options that are not its defaults; None means none.
    """
    meant = [
        row
        for row in audited
        if (row["scheme"], row["data"], row["block"]) == (scheme, data, block)
        and (row["scope"] == scope or always_has_row_keys(scheme))
        # What a ciphertext shows of itself is no attack on its key.
        and row.get("attack") != "as_is"
        and own_options(row) == dict(options or {})
        and row["largest_pool"]
    ]
    rows = [row for row in map(_attacked, meant) if row is not None]
    if not rows:
        return None
    broken = [row["smallest_pool"] for row in rows if row["smallest_pool"]]
    if not broken:
        largest = max(row["largest_pool"] for row in rows)
        at_largest = [
            p for row in rows for p in row.get("pools", ()) if p["pool"] == largest and p["draws"]
        ]
        # Too few draws are left to say that the attacks failed: an uncertain one is no resistance.
        uncertain = bool(at_largest) and all(3 * p.get("uncertain", 0) > p["draws"] for p in at_largest)
        return Verdict(largest, False, is_uncertain=uncertain)
    fewest = min((pool["pool"] for row in rows for pool in row.get("pools", ())), default=0)
    return Verdict(min(broken), True, min(broken) == fewest > 1)
