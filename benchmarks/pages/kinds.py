"""Key recovery by kind of picture: the smallest pool that breaks each scheme, and the pools that it failed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.markdown import table
from benchmarks.picture_targets import LEAST_DRAWS, missed_targets, what_was_tried

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
            scheme_name(row) + _attack_name(row),
            row["kind"],
            _from_pool(row, "broken_at"),
            _from_pool(row, "opened_at", "opens"),
            _from_pool(row, "shown_at", "shows"),
            _from_pool(row, "exact_at"),
            _tried(row),
        ]
        for row in rows
    ]
    headers = [
        "scheme",
        "pictures",
        "broken (K or R)",
        "key opens (K)",
        "shown (V)",
        "exact",
        "pools tried (draws)",
    ]
    kinds = [f"- *{name}*: {words}" for name, words in result["kinds"].items()]
    missing = [f"{scheme_name(row)} on {row['kind']}" for row in result["rows"] if not row["pools"]]
    not_run = ["", f"Not run: {'; '.join(missing)}."] if missing else []
    return [
        _LEAD,
        "",
        *kinds,
        "",
        *table(headers, body),
        *not_run,
        "",
        *_missed_targets(rows),
        "",
        *_failed_cells(rows),
    ]


_LEAD = (
    "The smallest pool at which two thirds of the draws are *broken*: the recovered key opens images outside the "
    "pool at a median SSIM of .90 (K), or half of them name their own image among 100 (R). *Shown* (V): half of them "
    "are more alike their own image, by .10 in SSIM, than the ciphertext, the mean image and another guess are. "
    "*Exact*: every value of the opened images that varies in the pool is right, up to the scheme's orbit. These are "
    "simpler measures than those of suite/1. A dash: at no pool that was tried with at least three draws. A question "
    "mark: not measured, or not asked. Cells are kept from run to run: those of one table can be of versions of the "
    "attacks that differ. "
    "`patch_shuffle` orders every image anew: each image has a move of its own, and R grants the same to every image "
    "of the 100. "
    "*Public images*: no recovery from ciphertexts alone is known; moment matching has public images of the same "
    "kind, and what it shows of `noisy_orthogonal` is filtered. No key opens `neuracrypt`, so that K is not asked."
)


def _attack_name(row: Record) -> str:
    return " (public images)" if row.get("attack") == "moment_matching" else ""


def _tried(row: Record) -> str:
    """Return the pools of a row with their draws, told once where they are equal."""
    draws = [pool["draws"] for pool in row["pools"]]
    sizes = [str(pool["pool"]) for pool in row["pools"]]
    if len(set(draws)) == 1:
        return f"{', '.join(sizes)} ({draws[0]})"
    return ", ".join(f"{size} ({n})" for size, n in zip(sizes, draws, strict=True))


def _missed_targets(rows: Sequence[Record]) -> list[str]:
    """Return the table of targets that are missed, with what was reached and what was tried."""
    body = []
    for row in rows:
        for missed in missed_targets(row):
            cause = what_was_tried(row["scheme"], row["kind"])
            if missed.pool is None:
                reached = "not measured"
            else:
                reached = f"{missed.reached} of {missed.draws} at {missed.pool}"
                if missed.draws < LEAST_DRAWS:
                    reached += ", too few draws"
                    cause = "" if missed.reached == missed.draws else cause
            body.append(
                [
                    scheme_name(row),
                    row["kind"],
                    f"{missed.target.words} by {missed.target.pool}",
                    reached,
                    _instead(row),
                    cause,
                ]
            )
    if not body:
        return ["Every row reaches its target."]
    headers = [
        "scheme",
        "pictures",
        "target",
        "draws that reach it",
        "what is reached",
        "cause, and what was tried",
    ]
    lead = f"Targets that two thirds of the draws do not reach: {len(body)}."
    return [lead, "", *table(headers, body)]


def _instead(row: Record) -> str:
    """Return what a row reaches at the largest pool that was tried."""
    pool = max(row["pools"], key=lambda pool: int(pool["pool"]))
    opened = "" if pool["opens"] is None else f"K {pool['opens']}, "
    shown = "" if pool.get("shows") is None else f", V {pool['shows']}"
    doubt = f"; attack uncertain in {pool['uncertain']}" if pool["uncertain"] else ""
    return (
        f"at {pool['pool']}: {opened}R {pool['names']}{shown} of {pool['draws']}; SSIM "
        f"{pool['ssim']:.2f}; values right {pool['right']:.2f}{doubt}"
    )


def _from_pool(row: Record, name: str, figure: str = "") -> str:
    """Return the smallest pool that reaches a figure; a question mark if no pool has the figure."""
    if figure and all(pool.get(figure) is None for pool in row["pools"]):
        return "?"
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
