"""The page of files of images: what `check` and `seal` make of real and of odd ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from benchmarks.pages.dicom_study import dicom_study
from benchmarks.pages.entries import Entry, of_kind
from benchmarks.pages.markdown import table

Record = Mapping[str, Any]

_NAMES = {
    "pillow": "PNG and JPEG files of Pillow's own tests",
    "pydicom": "pydicom's test files",
    "nibabel": "nibabel's test files",
    "dicom": "a folder of DICOM files",
}


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of the page."""
    lines = ["# Files of images, read and refused", ""]
    for entry in of_kind(entries, "input-files"):
        lines += [*entry.heading(), *input_files(entry.result), ""]
    for entry in of_kind(entries, "dicom-study"):
        lines += [*entry.heading(), *dicom_study(entry.result), ""]
    return lines


def input_files(result: Record) -> list[str]:
    """Return what became of every collection and every case."""
    lines = [
        "Each collection was laid out as two class folders beside good pictures and read by `cipherward-party check` "
        f"and `seal` with `{result['stated']}`. *Ignored* files are no images; *refused* ones cannot be used. No "
        "command ended with a traceback, and `seal` sealed as many images as `check` announced; the run fails "
        "otherwise.",
        "",
    ]
    rows = []
    for collection in result["collections"]:
        counts = Counter(outcome for _, outcome, _ in collection["outcomes"])
        rows.append(
            [
                _NAMES[collection["name"]],
                collection["files"],
                *(counts[outcome] for outcome in ("read", "refused", "ignored")),
                collection["images"],
                collection["seal"]["images"],
            ]
        )
    headers = ["collection", "files", "read", "refused", "ignored", "images found", "images sealed"]
    lines += table(headers, rows) if rows else []
    for collection in result["collections"]:
        lines += [f"### {_NAMES[collection['name']]}", ""]
        if collection["name"] == "dicom":
            lines += table(["file", "outcome", "reason"], [_cells(row) for row in collection["outcomes"]])
        else:
            lines += table(["ending", "outcome", "reason", "files"], _by_reason(collection["outcomes"]))
    if result["cases"]:
        lines += [
            "### Situations",
            "",
            "Folders as hospitals have them, made small. 0: taken, 1: refused.",
            "",
        ]
        lines += table(
            ["situation", "stated", "`check`", "`seal`", "sealed images", "what is said"],
            [
                _cells(
                    (
                        case["case"],
                        f"`{case['stated']}`" if case["stated"] else "",
                        case["check"],
                        case["seal"],
                        ", ".join(f"{name}: {count}" for name, count in case["sealed"].items()),
                        case["said"],
                    )
                )
                for case in result["cases"]
            ],
        )
    return [*lines, *_commands(result.get("commands", []))]


def _commands(rows: Sequence[Record]) -> list[str]:
    """Return what the commands of a study said to bad weights, dead proxies, and a cloud without images."""
    if not rows:
        return []
    cells = [
        _cells((row["case"], row["command"], row["status"], "yes" if row["trained"] else "no", row["said"]))
        for row in rows
    ]
    return [
        "### Weights, proxies, and a cloud without images",
        "",
        "The commands of a study. Exit status 0: done, 1: refused.",
        "",
        *table(["situation", "command", "status", "a model was trained", "what is said"], cells),
    ]


def _by_reason(outcomes: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return [ending, outcome, reason, files], the frequent ones first."""
    counts = Counter((PurePosixPath(name).suffix.lower() or "none", *rest) for name, *rest in outcomes)
    return [
        _cells((*key, count)) for key, count in sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    ]


def _cells(values: Sequence[object]) -> list[str]:
    """Return values as they may stand in a table."""
    return [str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for value in values]
