"""Block projections, NeuraCrypt and patch shuffling: what broke them, and what was tried where nothing did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import percent, table

Record = Mapping[str, Any]


def projections(result: Record) -> list[str]:
    """Return the table of attacks by scheme and options, and the table of matching challenges."""
    rows = [line for line in result["rows"] if any(pool["draws"] for pool in line["pools"])]
    attacks = [
        [f"{_name(line)}, `{line['attack']}`", str(pool["pool"]), *_figures(pool)]
        for line in rows
        for pool in line["pools"]
        if pool["draws"]
    ]
    known = [
        [
            str(line["row"]).split(", ")[0],
            str(line["pairs"]),
            f"{line['ssim']:.2f}",
            f"{line['error']:.1f}",
            f"{line['seconds']:.0f}",
        ]
        for line in result["pairs"]
    ]
    challenges = [
        [
            str(line["name"]).removeprefix("neuracrypt").removeprefix(",").strip(),
            str(line["draws"]),
            f"{percent(line['first'])} %",
            f"{percent(line['right'])} %",
            f"{percent(line['least'])} %",
            f"{line['fit']:.2f}",
            f"{line['seconds']:.0f}",
        ]
        for line in result["challenges"]
        if line["draws"]
    ]
    open_rows = [line for line in rows if line["smallest_pool"] is None and line["attack"] != "as_is"]
    sentences = []
    for words, few in (("Not broken at these pool sizes", False), ("Too few draws to say", True)):
        names = [_name(line) for line in open_rows if (line["largest_pool"] == 0) == few]
        sentences += [f"{words}: {'; '.join(names)}."] if names else []
    verdict = " ".join(sentences) or "Everything in this table was broken."
    return [
        "`block_projection` on brain MRI, blocks of 16, with public images of the same source; `patch_shuffle` one "
        "image at a time. Broken: by R, V or K of suite/1 in a draw. By default, block_projection has an orthogonal "
        "matrix for each place, moves its blocks and adds noise of 100 levels. Some seconds were measured beside "
        "other work on the machine.",
        "",
        *table(["scheme, options, images, attack", "pool", "broken", "SSIM", "R", "V", "seconds"], attacks),
        f"**{verdict}**",
        "",
        "The key of `block_projection` from known pairs of images and ciphertexts (`known_pairs`), and what it makes "
        "of 32 other images. Error is the mean absolute one in gray levels. The noise stays in the images, and "
        "undoing a uniform matrix amplifies it; no filter was tried there.",
        "",
        *table(["options, images", "pairs", "SSIM", "error", "seconds"], known),
        "`neuracrypt` (width 2048 and depth 4, where nothing else is said): the matching challenge. The adversary "
        "holds ciphertexts and their plain images in another order, and no pair. *First* is the share right before "
        "boosting. Chance is one in the number of images. Median of the draws.",
        "",
        *table(["images", "draws", "first", "right", "worst draw", "fit", "seconds"], challenges),
        "No attack of this program recovers a picture from a `neuracrypt` ciphertext. None learns its network from "
        "pairs.",
        "",
    ]


def _name(line: Record) -> str:
    """Return a row's name without the attack and the usual scope."""
    return str(line["name"]).removesuffix(f", {line['attack']}").replace(", consortium", "")


def _figures(pool: Record) -> list[str]:
    """Return what was reached at one pool size."""
    uncertain = f", {pool['uncertain']} uncertain" if pool.get("uncertain") else ""
    numbers = [f"{pool[name]:.2f}" for name in ("ssim", "R", "V")]
    return [f"{pool['broken']} of {pool['draws']}{uncertain}", *numbers, f"{pool['seconds']:.0f}"]
