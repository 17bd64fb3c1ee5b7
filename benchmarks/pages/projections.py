"""Block projections, NeuraCrypt and patch shuffling: what broke them, and what was tried where nothing did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    looked = {line["name"] for line in rows if line["attack"] == "as_is"}
    untried = sorted(looked - {line["name"] for line in rows if line["attack"] != "as_is"})
    verdict = (
        " ".join(sentences) or "Every scheme here that an attack was run on was broken at its largest pool."
    )
    if untried:
        verdict += f" No attack that recovers a picture or a key was run on {'; '.join(untried)}."
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
        "boosting. Chance is one in the number of images. Median of the draws. Places of tokens are found from how "
        "distances grow together.",
        "",
        *table(["images", "draws", "first", "right", "worst draw", "fit", "seconds"], challenges),
        *_network_pairs(result.get("network_pairs", ())),
        "What public images of the same kind open, without a pair: by kind of picture, below.",
        "",
    ]


def _network_pairs(lines: Sequence[Record]) -> list[str]:
    """Return the table of what known pairs of neuracrypt open."""
    if not lines:
        return []
    body = [
        [
            line["kind"],
            str(line["pairs"]),
            str(line["gallery"]),
            f"{line['ssim']:.2f}",
            f"{percent(line['named'])} % ({percent(line['fewest_named'])} %)",
            f"{line['fit']:.2f}",
            f"{line['seconds']:.1f}",
        ]
        for line in lines
    ]
    lead = (
        "What known pairs of images and `neuracrypt` ciphertexts open of 32 others, with no key (`known_pairs`). "
        "*Named*: the share of them that correlate most with their own image among so many. "
        f"Median of {lines[0]['draws']} draws, and the worst one. Seconds are of a core."
    )
    headers = ["pictures", "pairs", "among", "SSIM", "named (worst draw)", "fit", "seconds"]
    return [lead, "", *table(headers, body)]


def _name(line: Record) -> str:
    """Return a row's name without the attack and the usual scope."""
    return str(line["name"]).removesuffix(f", {line['attack']}").replace(", consortium", "")


def _figures(pool: Record) -> list[str]:
    """Return what was reached at one pool size."""
    uncertain = f", {pool['uncertain']} uncertain" if pool.get("uncertain") else ""
    numbers = [f"{pool[name]:.2f}" for name in ("ssim", "R", "V")]
    return [f"{pool['broken']} of {pool['draws']}{uncertain}", *numbers, f"{pool['seconds']:.0f}"]


def projection_fit(result: Record) -> list[str]:
    """Return how far the fit of moment matching of block_projection tells wrong keys from right ones."""
    rows = [
        [
            words,
            f"{part['least']:.2f}",
            *(_share(part[name]) for name in ("wrong_believed", "right_doubted")),
        ]
        for words, part in (
            ("chosen on all attacks", result["chosen"]),
            ("in use", result["in_use"]),
            ("chosen on half of them, tried on the other", result["chosen_on_even_tried_on_odd"]),
        )
    ]
    fits = [
        [words, *(f"{value:.2f}" for value in result[name])]
        for words, name in (("wrong", "wrong_fits"), ("right", "right_fits"))
        if name in result
    ]
    return [
        f"{result['cells']} attacks on pools of small pictures. A wrong key opens images at less than half of the "
        "SSIM of the true key, a right one at .8 of it or more. In half of the attacks the public images tell "
        "nothing of the key. The least fit is the smallest hundredth that at most 5 % of the wrong keys reach. "
        "In brackets: 95 % bounds.",
        "",
        *table(["least fit", "value", "wrong keys believed", "right keys doubted"], rows),
        *table(["keys", "least", "5 %", "median", "95 %", "largest fit"], fits),
    ]


def _share(rate: Record) -> str:
    bounds = f"{percent(rate['low'])}–{percent(rate['high'])} %"
    return f"{rate['hits']} of {rate['n']} ({bounds})"
