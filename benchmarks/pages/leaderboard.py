"""docs/leaderboard.md: each scheme's claim from its paper, beside what this project measured of it.

What a paper says is in benchmarks/literature.yaml, with its source. Everything else comes from docs/results/*.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pages.audit import data_name, tried_pools
from benchmarks.pages.comparison import DATA_NAMES
from benchmarks.pages.entries import Entry, audited_rows, of_kind, suite_of
from benchmarks.pages.kinds import scheme_name
from benchmarks.pages.markdown import MAX_COLUMNS, percent, table
from benchmarks.pages.summary import (
    accuracies,
    audited_cells,
    claimed_key_space,
    hardest_row,
    is_drawn_for_each,
    is_shared,
)
from benchmarks.picture_sources import PANELS
from benchmarks.picture_targets import LEAST_DRAWS

Record = Mapping[str, Any]

LITERATURE = Path(__file__).parents[1] / "literature.yaml"
#: The audit's control schemes are no entries of a leaderboard.
_CONTROLS = ("plain", "noise", "permuted")

INTRO = """# Leaderboard

What the papers of learnable and perceptual image encryption claim, and how many encrypted images broke each scheme
here. The scheme that is known to take the most images comes first: one that the smallest pool tried broke counts
as one image. A place on this list is no recommendation, and what was not run is called so.

Years and claims are the papers'; [literature.yaml](../benchmarks/literature.yaml) names the source of each. All
other figures are measured; `make results` writes this page from [docs/results/](results/). To put a scheme of
your own to the same test, see [audit a Python function](library.md).
"""

NOTES = """*Claimed key space*: the paper's formula for the audited images, or our count of the steps' keys where the
paper's could not be read. *Images that break it*: the smallest pool that was broken in at least two thirds of the
draws, by the rule of the [suite](suite.md), on that set of images which took most, of those that the suite audited
(brain MRI or CIFAR-10). Small or unusual pictures can take more: see the next table. *Matched*: the adversary has the
images in another order, no pair of them and no key, and says which ciphertext is of which image. *Seconds*: the
median time of the attack on one core. *Accuracy*: of a Vision Transformer on ciphertext, the mean where several seeds
were trained; in brackets, of the same training on plain images.
"""

KINDS_LEAD = """The smallest pool from which two thirds of the draws were broken: the recovered key opens other images
at a median SSIM of .90, or half of them name their own image among 100, or among as many as the kind has besides the
pool. These measures are simpler than those of suite/1. **≤ 5**: 5 was the smallest pool tried. *Not by 10*: 10 images
did not break two thirds of the draws; *uncertain* means that the attack said itself that it failed, which is no
strength of the scheme. *Not run*: nobody attacked such images, or the scheme is not meant for them. `orthogonal`,
`noisy_orthogonal` and `block_projection` are attacked with public images of the same kind (T2), the others with
ciphertexts alone.
"""

PANEL_LEAD = """The same measurements on the fixed panel of [audit_panels](library.md#several-kinds-of-pictures). Each
panel is told by its kind of picture that took the most images, of those that were run; the worst case is the panel
that took the most. So many images break the scheme on every kind in the panel. Kinds outside it can take more, and
some take fewer: see above.
"""

SUITE_LEAD = (
    "One key for all images, or none where a scheme draws what it does for every image. Each row names the rule "
    "that it was judged by: suite/1, or [suite/2](suite.md), under which pictures that are readable in the negative, "
    "turned or shifted count as well. Smaller and larger pools are in [the audit's tables](results/audit.md)."
)


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/leaderboard.md."""
    papers = read_literature()
    schemes = sorted(papers, key=lambda scheme: -_resistance(entries, scheme))
    lines = [INTRO, _broken(entries, schemes), "", *_schemes(entries, schemes, papers), NOTES]
    for entry in of_kind(entries, "picture-kinds"):
        if "rows" in entry.result:
            lines += [
                "## Images that break a scheme, by kind of picture",
                "",
                KINDS_LEAD,
                *_by_kind(entry.result),
            ]
            lines += ["## By panel, and the worst case", "", PANEL_LEAD, *_by_panel(entry.result)]
            lines += [f"Source: [{entry.file}](results/{entry.file}), {entry.date}.", ""]
    lines += ["## Images that break a scheme, by the suite", "", SUITE_LEAD, "", *_by_suite(entries)]
    return [*lines, "## What the papers claim", "", *_claims(schemes, papers)]


def read_literature() -> dict[str, Record]:
    """Return what is known of each scheme from its papers, by the scheme's name."""
    value: dict[str, Record] = yaml.safe_load(LITERATURE.read_text(encoding="utf-8"))
    return value


def _resistance(entries: Sequence[Entry], scheme: str) -> float:
    """Return the images that broke a scheme where it resisted longest; 0 where it was not audited.

    A scheme that the smallest pool tried broke is not known to need more than one.
    """
    row = hardest_row(entries, scheme)
    if row is None:
        return 0.0
    least = min((pool["pool"] for pool in tried_pools(row)), default=0)
    return 1.0 if row["smallest_pool"] == least else float(row["smallest_pool"] or math.inf)


def _broken(entries: Sequence[Entry], schemes: Sequence[str]) -> str:
    """Return how many of the audited schemes were broken, in a sentence."""
    rows = [row for scheme in schemes if (row := hardest_row(entries, scheme)) is not None]
    broken = sum(row["smallest_pool"] is not None for row in rows)
    where = (
        "with their default options, under one key for all images, on all pictures that the suite audited"
    )
    others = ", ".join(f"`{scheme}`" for scheme in schemes if hardest_row(entries, scheme) is None)
    left = f" No attack sought a key of {others}, which is not among them." if others else ""
    return f"Of {len(rows)} audited schemes, {broken} were broken {where}.{left}"


def _schemes(entries: Sequence[Entry], schemes: Sequence[str], papers: Mapping[str, Record]) -> list[str]:
    """Return the table of all schemes."""
    headers = [
        "scheme",
        "year",
        "paper",
        "claimed key space",
        "images that break it",
        "seconds",
        "accuracy on ciphertext (on plain images)",
    ]
    rows = []
    for scheme in schemes:
        row, paper = hardest_row(entries, scheme), papers[scheme]
        accuracy = accuracies(entries, scheme)
        known = [f"`{scheme}`", str(paper.get("year", "–")), _cited(paper)]
        challenge = hardest_challenge(entries, scheme)
        matched = "" if challenge is None else _matched(entries, scheme, challenge)
        if challenge is not None and row is None:
            rows.append([*known, "–", f"no key; {matched}", f"{challenge['seconds']:.3g}", accuracy])
            continue
        if row is None:
            rows.append([*known, "–", "not run", "–", accuracy])
            continue
        _, _, smallest, seconds = audited_cells(row)
        counted = claimed_key_space(row) + ("" if paper["key_space"] == "published" else " (our count)")
        tier = "" if row["tier"] in ("T0", "T1") else f"; {row['tier']}"
        words = f"{smallest}, {data_name(row)}{tier}" + (f", without a key; {matched}" if matched else "")
        rows.append([*known, counted, words, seconds, accuracy])
    return table(headers, rows)


def _matched(entries: Sequence[Entry], scheme: str, challenge: Record) -> str:
    """Return what the hardest matching challenge says, and under which option less was matched."""
    named = f"{round(challenge['right'] * challenge['images']):,} of {challenge['images']:,}"
    words = f"**{named}** matched with their images, {challenge['data']}; T2, the images"
    return words + _hardest_option(entries, scheme, challenge)


def hardest_challenge(entries: Sequence[Entry], scheme: str) -> Record | None:
    """Return the matching challenge that a scheme resisted longest, of those with its default options.

    It is for schemes that no key opens: the adversary has the images in another order and no pair. The challenge of
    which the least share was right is the hardest; of equal ones, that with the most images.
    """
    found = []
    for entry in of_kind(entries, "projections"):
        for challenge in entry.result["challenges"]:
            name, data, _ = str(challenge["name"]).split(", ", 2)
            if name == scheme and challenge["right"] is not None:
                found.append({**challenge, "data": DATA_NAMES.get(data, data)})
    return min(found, key=lambda c: (c["right"], -c["images"]), default=None)


def _hardest_option(entries: Sequence[Entry], scheme: str, default: Record) -> str:
    """Return what other options than the defaults left of the matching challenge, if that is less; else nothing."""
    challenges = [c for entry in of_kind(entries, "projections") for c in entry.result["challenges"]]
    others = [c for c in challenges if c["name"].startswith(f"{scheme} ") and c["right"] is not None]
    hardest = min(others, key=lambda c: float(c["right"]), default=default)
    if hardest["right"] >= default["right"]:
        return ""
    option = hardest["name"].split(", ")[0].removeprefix(scheme).strip()
    return f"; with {option} {percent(hardest['right'])} % of them"


def _cited(paper: Record) -> str:
    """Return authors and a link to the paper, or why there is none."""
    if "url" not in paper:
        return "none read"
    first, _, others = str(paper["authors"]).partition(",")
    return f"[{first}{' et al.' if others else ''}]({paper['url']})"


def _by_kind(result: Record) -> list[str]:
    """Return the images that break each scheme by kind of picture: kinds down, schemes across, in several tables."""
    names = list(dict.fromkeys(scheme_name(row) for row in result["rows"]))
    cells = {(scheme_name(row), row["kind"]): _from_pools(row) for row in result["rows"]}
    # A scheme that was run on no kind of picture would be a column of "not run".
    run = [
        name
        for name in names
        if any(cells.get((name, kind), "not run") != "not run" for kind in result["kinds"])
    ]
    lines: list[str] = []
    for first in range(0, len(run), MAX_COLUMNS - 1):
        some = run[first : first + MAX_COLUMNS - 1]
        body = [[kind, *(cells.get((name, kind), "not run") for name in some)] for kind in result["kinds"]]
        lines += table(["pictures (side in pixels)", *(f"`{name}`" for name in some)], body)
    absent = [f"`{name}`" for name in names if name not in run]
    return [*lines, *([f"Not run on any kind of picture: {', '.join(absent)}.", ""] if absent else [])]


def _by_panel(result: Record) -> list[str]:
    """Return the images that break each scheme on each panel, and on all of them."""
    rows = {(scheme_name(row), row["kind"]): row for row in result["rows"] if row["pools"]}
    body = []
    for name in dict.fromkeys(scheme_name(row) for row in result["rows"]):
        panels = [
            _slowest([rows[name, kind] for kind in kinds if (name, kind) in rows])
            for kinds in PANELS.values()
        ]
        if any(panels):
            cells = [_from_pools(row) if row else "not run" for row in panels]
            body.append([f"`{name}`", *cells, _worst(panels)])
    return table(["scheme", *PANELS, "worst case"], body)


def _slowest(rows: Sequence[Record]) -> Record | None:
    """Return the row of a panel that took the most images; None if none was run."""

    def taken(row: Record) -> tuple[float, bool]:
        # Of two kinds that took equally many, the one on which fewer were tried and failed says more.
        least = row["broken_at"]
        return (math.inf, True) if least is None else (least, least > row["pools"][0]["pool"])

    return max(rows, key=taken, default=None)


def _worst(panels: Sequence[Record | None]) -> str:
    """Return how many images break a scheme on every panel, in words."""
    run = [row for row in panels if row]
    slowest = _slowest(run)
    assert slowest is not None
    return _from_pools(slowest) + ("" if len(run) == len(panels) else f" (of {len(run)} panels)")


def _from_pools(row: Record) -> str:
    """Return a row's smallest broken pool in words."""
    pools = row["pools"]
    if not pools:
        return "not run"
    smallest, largest = row["broken_at"], pools[-1]
    if smallest is not None:
        is_first = smallest == min(pool["pool"] for pool in pools) and smallest > 1
        return f"**≤ {smallest}**" if is_first else f"**{smallest}**"
    if largest["draws"] < LEAST_DRAWS:
        return f"{largest['broken']} of {largest['draws']} draws at {largest['pool']}"
    uncertain = ", uncertain" if 3 * largest["uncertain"] > largest["draws"] else ""
    return f"not by {largest['pool']}{uncertain}"


def _by_suite(entries: Sequence[Entry]) -> list[str]:
    """Return the smallest pool that broke each scheme, by its options, the pictures audited and the rule."""
    rows = [
        row
        for row in audited_rows(entries)
        if (is_shared(row) or is_drawn_for_each(row))
        and row["scheme"] not in _CONTROLS
        # A look at the ciphertexts is no attack on them.
        and row["attack"] != "as_is"
        and any(p["draws"] for p in row["pools"])
    ]
    body = []
    for row in rows:
        _, key_space, smallest, seconds = audited_cells(row)
        draws = next(p["draws"] for p in row["pools"] if p["draws"])
        body.append(
            [
                f"`{scheme_name(row)}`",
                data_name(row),
                key_space,
                smallest,
                f"{draws}, {suite_of(row)}",
                seconds,
                row["tier"],
            ]
        )
    headers = [
        "scheme",
        "pictures",
        "key space by formula",
        "images that break it",
        "draws, rule",
        "seconds",
        "tier",
    ]
    return table(headers, body)


def _claims(schemes: Sequence[str], papers: Mapping[str, Record]) -> list[str]:
    """Return one line a scheme: paper, claim, where that was read, and how near this program's scheme is to it."""
    lines = []
    for scheme in schemes:
        paper = papers[scheme]
        cited = f"{paper['authors']}, *{paper['title']}*, {paper['venue']}." if "title" in paper else ""
        claim = f"Claim: {paper['claim']}." if "claim" in paper else "No claim about its security was read."
        note = f"Here: {paper['note']}." if "note" in paper else ""
        words = [part for part in (cited, claim, note, f"Source: {paper['source']}.") if part]
        lines.append(f"- `{scheme}`: {' '.join(words)}")
    return lines
