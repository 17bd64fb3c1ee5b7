"""The page of what hospitals have: real and odd files of images, and machines that are locked down."""

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
    lines = ["# Files of images, and locked-down machines", ""]
    for entry in of_kind(entries, "environments"):
        lines += [*entry.heading(), *environments(entry.result), ""]
    for entry in of_kind(entries, "input-files"):
        lines += [*entry.heading(), *input_files(entry.result), ""]
    for entry in of_kind(entries, "dicom-study"):
        lines += [*entry.heading(), *dicom_study(entry.result), ""]
    return lines


def environments(result: Record) -> list[str]:
    """Return how every command ended on locked-down machines."""
    rows = [
        _cells(
            (
                f"`{row['command']}`",
                row["machine"],
                row["status"],
                f"{row['seconds']:.0f}",
                "yes" if row["beyond_ascii"] else "no",
                row["open_files"],
                row["said"] if row["status"] else "",
            )
        )
        for row in sorted(result["rows"], key=lambda row: row["machine"] != "root")
    ]
    left = sorted({name for row in result["rows"] for name in row["left_in_tmpdir"]})
    warned = [row["command"] for row in result["rows"] if row["warnings"]]
    ran = {(row["machine"], row["command"]) for row in result["rows"]}
    names = dict.fromkeys(row["command"] for row in result["rows"])
    missing = [
        f"`{name}` as {machine}"
        for machine in ("root", "other-user")
        for name in names
        if (machine, name) not in ran
    ]
    return [
        "All hindrances at once: everything but the working folder and `TMPDIR` is read-only (installation, home, "
        "`/tmp`), no capabilities, no terminal, umask 077, an ASCII locale, 80 columns, dead proxies, accents and "
        "spaces in all names. *root*: root without its rights, `/dev/shm` read-only. *other-user*: user 10001, with "
        "neither a name nor a home, who may only read the installation, without `/dev/shm`. Exit status 0: done, 1: "
        "refused. The run fails at a traceback. *root* has no folder for compiled code and compiles anew in every "
        "command; *other-user* sets `NUMBA_CACHE_DIR`. Seconds are those of a busy machine.",
        "",
        f"Left in `TMPDIR`: {', '.join(left) or 'nothing'}. Commands that printed a library's warning: "
        f"{', '.join(warned) or 'none'}. Not tried: a real NFS mount (tests plant its refusals of locks), SELinux, "
        f"other systems than Linux.{' Not run: ' + ', '.join(missing) + '.' if missing else ''}",
        "",
        *table(
            [
                "command",
                "machine",
                "status",
                "seconds",
                "printed beyond ASCII",
                "files open to others",
                "error",
            ],
            rows,
        ),
    ]


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
