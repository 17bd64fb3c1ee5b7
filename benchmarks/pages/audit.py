"""The page of the audits: which attack breaks which scheme, from how many sealed images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.entries import Entry, of_kind, suite_of
from benchmarks.pages.false_alarms import false_alarms
from benchmarks.pages.jpegs import sealed_jpegs
from benchmarks.pages.kinds import picture_kinds, scheme_name
from benchmarks.pages.library import library
from benchmarks.pages.markdown import number, table, value_range
from benchmarks.pages.noise import noise_bound
from benchmarks.pages.projections import projection_fit, projections
from benchmarks.pages.textbook import textbook
from coordinator.report.report_file import parse_report
from coordinator.report.verdict_text import headline, linkability, second_look
from coordinator.report.wording import listed

Record = Mapping[str, Any]

INTRO = """# What breaks each scheme

Each section is one run, or the runs that its first lines name. An audit seals images, attacks the ciphertexts
without the key, and scores the guesses by the rule of [suite/1](../suite.md#what-suite1-was), unless a section or
the [leaderboard](../leaderboard.md) names another. *Draws* are repetitions with another key and other images. A
scheme counts as broken at a pool size if at least two thirds of the draws are broken. The
[legend](../results.md#legend) explains K, R, V, K1, K2 and T0–T5.
"""

CONTROLS = ("plain", "noise", "permuted")
_SHOWN_SIZES = (1, 2, 5, 10, 50, 100)  # of the table of SSIM by pool size: six sizes fit
_DATA = {
    "mri": "brain MRI, 224×224",
    "mri64": "brain MRI, 64×64",
    "cifar": "CIFAR-10, 32×32",
    "pneumonia": "PneumoniaMNIST, 28×28",
    "cifar224": "CIFAR-10, enlarged to 224×224",
}


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/audit.md."""
    sections = {
        "audit-table": audit_table,
        "audit": audit,
        "picture-kinds": picture_kinds,
        "textbook": textbook,
        "noise-bound": noise_bound,
        "jpeg": sealed_jpegs,
        "projections": projections,
        "projection-fit": projection_fit,
        "key-recovery": key_recovery,
        "pool-size": pool_size,
        "false-alarms": false_alarms,
        "library": library,
    }
    lines = [INTRO]
    for kind, section in sections.items():
        for entry in of_kind(entries, kind):
            lines += [*entry.heading(), *section(entry.result), ""]
    return lines


# ---- one audit report ----------------------------------------------------------------------------------------


def describe_audit(stored: Record) -> list[str]:
    """Return what an audit was of, and its verdict in the words of the report itself."""
    report = parse_report(stored)
    scheme, pool = report.scheme, report.pool
    shape = "×".join(map(str, scheme.image_shape))
    return [
        f"`{scheme.name}`, blocks of {scheme.block}, images of {shape}; {pool.parties} hospitals, "
        f"{pool.images} pooled training images. Key space by the formula: 2^{scheme.formula_bits:.0f}; with a "
        f"32-byte key: 2^{scheme.effective_bits:.0f}.",
        "",
        f"**{headline(report).sentence}** {report.verdict.draws} draws of key and pool were attacked.",
        "",
        linkability(report),
        "",
        # Results from before it was measured keep their pages.
        *([second_look(report), ""] if report.verdict.readable is not None else []),
    ]


def audit(report: Record) -> list[str]:
    """Return an audit report's verdict, its findings by attack and pool size, and its controls."""
    findings = report["findings"]
    cells = dict.fromkeys((f["attack"], f["pool_size"]) for f in findings)
    headers = [
        "attack",
        "images in the pool",
        "draws broken, by",
        "median SSIM",
        "images re-identified (R, %)",
        "key found: K2 / K1 (%)",
        "seconds",
    ]
    rows = [_finding_row(*cell, findings) for cell in cells]
    controls = "; ".join(
        f"{name} {'ok' if c['ok'] else 'FAILED'}" for name, c in report["controls"].items()
    )
    doubts = [f"Note: {doubt}." for doubt in report["doubts"]]
    return [*describe_audit(report), *table(headers, rows), f"Controls: {controls}.", *doubts]


def _finding_row(attack: str, size: int, findings: Sequence[Record]) -> list[object]:
    """Return the row of one attack at one pool size, over all draws."""
    group = [f for f in findings if (f["attack"], f["pool_size"]) == (attack, size) and not f["error"]]
    if not group:
        return [attack, size, "crashed", "", "", "", ""]
    keys = [f["key"] for f in group if f["key"]]
    broken_by = "".join(sorted({letter for f in group for letter in f["broken_by"]}))
    key_found = ""
    if keys:
        pixel_order, block_order = (
            value_range([100 * key[name] for key in keys], ".1f") for name in ("pixel_order", "block_order")
        )
        key_found = f"{pixel_order} / {block_order}"
    return [
        attack,
        size,
        f"{sum(f['broken'] for f in group)} of {len(group)} {broken_by}".strip(),
        value_range([f["ssim"]["median"] for f in group], ".3f"),
        value_range([100 * f["R"]["rate"] for f in group], ".0f"),
        key_found,
        value_range([f["seconds"] for f in group], ".2f"),
    ]


# ---- the table of all schemes --------------------------------------------------------------------------------


def _rules(rows: Sequence[Record]) -> str:
    """Return by which rule the rows were judged."""
    by_suite: dict[str, list[str]] = {}
    for row in rows:
        if any(pool["draws"] for pool in row["pools"]):
            by_suite.setdefault(suite_of(row), []).append(row["name"])
    most = max(by_suite, key=lambda suite: len(by_suite[suite]), default="")
    others = [f"{listed(names)} by {suite}" for suite, names in by_suite.items() if suite != most]
    return f"The rows were judged by {most}" + (f", but {'; '.join(others)}." if others else ".")


def audit_table(result: Record) -> list[str]:
    """Return the smallest pool that breaks each scheme, by key scope, data and attack."""
    rows = result["rows"]
    parts = {
        "### One key for all images": ("consortium", "party"),
        "### A different key for each image": ("image",),
    }
    lines = [
        "*Images that break it* is the smallest pool that was broken. Pools from one image on were tried, unless the "
        "cell names others. SSIM is the median over the draws; in brackets, that of the best baseline, which needs "
        "no attack.",
        "",
        _rules(rows),
        "",
    ]
    for heading, scopes in parts.items():
        chosen = [row for row in rows if row["scope"] in scopes and row["scheme"] not in CONTROLS]
        lines += [heading, "", *_smallest_pools(chosen)]
    lines += ["### Controls", "", *_smallest_pools([row for row in rows if row["scheme"] in CONTROLS])]
    return [*lines, *_ssim_by_size(rows)]


def _smallest_pools(rows: Sequence[Record]) -> list[str]:
    headers = [
        "scheme",
        "images",
        "attack (knowledge)",
        "images that break it",
        "median SSIM (best baseline)",
        "V / R (%)",
        "seconds",
    ]
    return table(headers, [_smallest_pool_row(row) for row in rows])


def data_name(row: Record) -> str:
    """Return the images of a row, with their size."""
    return _DATA.get(row["data"], str(row["data"]))


def is_uncertain(pool: Record) -> bool:
    """Return whether the attack is uncertain in so many draws that those left cannot say that it failed."""
    return 3 * int(pool.get("uncertain", 0)) > int(pool["draws"])


def tried_pools(row: Record) -> list[Record]:
    """Return the pools of a row at which the attack tried something in at least one draw."""
    return [pool for pool in row["pools"] if pool["draws"] > pool.get("idle", 0)]


def shown_pool(row: Record) -> Record | None:
    """Return the figures at the smallest pool that breaks a row, else at the largest one; None if not run."""
    run: list[Record] = [pool for pool in row["pools"] if pool["draws"]]
    if not run:
        return None
    for pool in run:
        if pool["pool"] == row["smallest_pool"]:
            return pool
    counted = [pool for pool in run if pool["pool"] <= row["largest_pool"]]
    return (counted or run)[-1]


def _smallest_pool_row(row: Record) -> list[object]:
    names = [scheme_name(row), data_name(row), f"{row['attack']} ({row['tier']})"]
    pool = shown_pool(row)
    if pool is None:
        return [*names, "not run", "", "", ""]
    if pool.get("idle") == pool["draws"]:  # it returned the ciphertext: that says nothing about the scheme
        plural = "s" if pool["draws"] > 1 else ""
        return [*names, f"no attack was run, {pool['draws']} draw{plural}", "", "", ""]
    is_broken = pool["pool"] == row["smallest_pool"]
    if is_broken:
        verdict = f"**{pool['pool']}**"
    elif pool["pool"] > row["largest_pool"]:
        verdict = "too few draws"
    elif is_uncertain(pool):
        verdict = f"attack uncertain at {pool['pool']}"
    else:
        verdict = f"not broken up to {pool['pool']}"
    sizes = [p["pool"] for p in row["pools"] if p["draws"]]
    tried = f" (tried: {', '.join(map(str, sizes))})" if min(sizes) > 1 else ""
    bounds = "" if is_broken else f" (≤ {100 * pool['V_high']:.0f} / ≤ {100 * pool['R_high']:.0f})"
    return [
        *names,
        f"{verdict}, {pool['broken']} of {pool['draws']} draw{'s' if pool['draws'] > 1 else ''}{tried}",
        f"{pool['ssim']:.3f} ({row['baseline']:.3f})",
        f"{100 * pool['V']:.0f} / {100 * pool['R']:.0f}{bounds}",
        f"{pool['seconds']:.2f}",
    ]


def _ssim_by_size(rows: Sequence[Record]) -> list[str]:
    """Return the median SSIM at several pool sizes, for the rows that were attacked at all of them."""
    body = []
    for row in rows:
        ssim = {pool["pool"]: pool["ssim"] for pool in row["pools"] if pool["draws"]}
        if all(size in ssim for size in _SHOWN_SIZES):
            name = f"{scheme_name(row)}, {row['data']}, {row['attack']}"
            body.append([name, *(f"{ssim[size]:.3f}" for size in _SHOWN_SIZES)])
    headers = ["median SSIM of the guesses", *(f"{n} image{'s' if n > 1 else ''}" for n in _SHOWN_SIZES)]
    lead = "The median SSIM grows with the pool. Further pool sizes and the attacks' own notes are in the JSON file."
    return [lead, "", *table(headers, body)] if body else []


# ---- one scheme, many pool sizes -----------------------------------------------------------------------------


def key_recovery(result: Record) -> list[str]:
    """Return how much of the key is recovered from pools of brain MRI, by pool size."""
    pairs = next(name for name in result["by_pool_size"][0] if name.startswith("pairs of "))
    names = {
        "images": "images in the pool",
        "K2 whole": "pixel order K2 complete",
        "K1 whole": "block order K1 complete",
        "K1 mod shift": "share of K1, up to a shift",
        pairs: f"neighbouring blocks restored (of {pairs.removeprefix('pairs of ')})",
        "SSIM mod shift": "SSIM, up to a shift",
        "seconds": "seconds",
    }
    rows = [[record[name] for name in names] for record in result["by_pool_size"]]
    lead = (
        "Medians over the pools, and the worst pool if it differs. *Up to a shift*: one shift by whole blocks is "
        "allowed."
    )
    return [lead, "", *table(list(names.values()), rows)]


def pool_size(result: Record) -> list[str]:
    """Return the time and memory of key recovery by pool size."""
    lines = [
        f"{result['distinct']} distinct images of {result['source']}; larger pools repeat them, mirrored or shifted. "
        f"Time grows as images^{number(result['exponent'])} from 100 images on, and as "
        f"images^{number(result['last'])} between the two largest pools.",
        "",
    ]
    headers = [
        "images in the pool",
        "share of K2 correct",
        "share of K1 correct, up to a shift",
        "seconds, best of the repeats",
        "seconds, worst",
        "peak memory (MB)",
        "note",
    ]
    names = ("images", "K2", "K1 mod shift", "seconds", "longest", "memory_mb", "note")
    rows = [[number(record[name]) for name in names] for record in result["by_pool_size"]]
    return [*lines, *table(headers, rows)]
