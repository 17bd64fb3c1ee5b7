"""Key recovery by kind of picture: the smallest pool that breaks each scheme, and the pools that it failed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.markdown import table

Record = Mapping[str, Any]

#: Below this many images, that a pool is not opened is no news.
_FEW_IMAGES = 10


def scheme_name(row: Record) -> str:
    """Return a row's scheme with its options."""
    return str(row["scheme"]) + "".join(f" {name}={value}" for name, value in row["options"].items())


def picture_kinds(result: Record) -> list[str]:
    """Return the images that break each scheme by kind of picture, and the pools that were not opened."""
    if "cells" in result:
        return _versions_side_by_side(result)
    rows = [row for row in result["rows"] if row["pools"]]
    body = [
        [
            scheme_name(row),
            row["kind"],
            _from_pool(row, "broken_at"),
            _from_pool(row, "opened_at"),
            _from_pool(row, "exact_at"),
            ", ".join(str(pool["pool"]) for pool in row["pools"]),
            str(min(pool["draws"] for pool in row["pools"])),
        ]
        for row in rows
    ]
    headers = ["scheme", "pictures", "broken (K or R)", "key opens (K)", "exact", "pools tried", "draws"]
    lead = (
        "The smallest pool at which two thirds of the draws are *broken*: the recovered key opens images outside the "
        "pool at a median SSIM of .90 (K), or half of them name their own image among 100 (R). *Exact*: every value "
        "of the opened images that varies in the pool is right, up to the scheme's orbit. These are simpler measures "
        "than those of suite/1. A dash: at no pool that was tried."
    )
    kinds = [f"- *{name}*: {words}" for name, words in result["kinds"].items()]
    missing = [f"{scheme_name(row)} on {row['kind']}" for row in result["rows"] if not row["pools"]]
    not_run = ["", f"Not run: {'; '.join(missing)}."] if missing else []
    return [lead, "", *kinds, "", *table(headers, body), *not_run, "", *_failed_cells(rows)]


def _from_pool(row: Record, name: str) -> str:
    return "–" if row[name] is None else f"**{row[name]}**"


def _failed_cells(rows: Sequence[Record]) -> list[str]:
    """Return the pools of at least ten images that were not broken in some draw, and what the attack says of them."""
    body = []
    for row in rows:
        for pool in row["pools"]:
            if pool["pool"] < _FEW_IMAGES or pool["broken"] == pool["draws"]:
                continue
            body.append(
                [
                    scheme_name(row),
                    row["kind"],
                    str(pool["pool"]),
                    f"{pool['broken']} of {pool['draws']}",
                    f"{pool['uncertain']}",
                    f"{pool['right']:.3f} ({pool['worst']:.3f})",
                    "; ".join(pool["notes"][:1]),
                ]
            )
    if not body:
        return [f"Every pool of {_FEW_IMAGES} images or more was broken in every draw."]
    headers = [
        "scheme",
        "pictures",
        "images",
        "draws broken",
        "attack uncertain",
        "values right: median (worst)",
        "a note",
    ]
    lead = f"Pools of {_FEW_IMAGES} images or more that were not broken in every draw:"
    return [lead, "", *table(headers, body)]


def _versions_side_by_side(result: Record) -> list[str]:
    """Return the table of a run of schema /1, which compared two versions of the attacks."""
    versions = list(result["cells"])
    headers = ["scheme", "pictures", "images in the pool"]
    for version in versions:
        headers += [f"exact, {version}", f"values right, {version}: median (worst)"]
    rows = []
    for line in result["kinds"]:
        row = [scheme_name(line), line["kind"], str(line["pool"])]
        for figures in (line[version] for version in versions):
            row += [
                f"{figures['exact']} of {figures['draws']}",
                f"{figures['right']:.3f} ({figures['worst']:.3f})",
            ]
        rows.append(row)
    lead = (
        "*Exact*: the draws of key and pool in which every value of the opened images is right, up to the scheme's "
        "orbit. Tissue at 32×32 is the whole tile of 224×224, interpolated, or (coarse) every seventh pixel of it."
    )
    return [lead, "", *table(headers, rows)]
