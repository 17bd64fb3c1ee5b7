"""The result pages: narrow tables, honest verdicts, every run on a page, and the README's table."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import results
from benchmarks.pages import audit, summary
from benchmarks.pages.entries import Entry
from benchmarks.pages.markdown import MAX_COLUMNS, table

POOL = {"draws": 5, "broken": 5, "idle": 0, "ssim": 0.9, "values_right": None, "seconds": 1.25}
POOL |= {"R": 1.0, "R_high": 1.0, "V": 1.0, "V_high": 1.0}


def make_row(pools: dict[int, int], smallest: int | None, **changes: Any) -> dict[str, Any]:
    """Return a row of the audit table. pools: number of broken draws of five, by pool size."""
    row = {
        "scheme": "le",
        "data": "cifar",
        "scope": "consortium",
        "attack": "pooled_key_recovery",
        "block": 4,
    }
    row |= {"options": {}, "tier": "T1", "baseline": 0.2, "notes": [], "name": "le, cifar"}
    row |= {"pools": [{**POOL, "pool": n, "broken": broken} for n, broken in pools.items()]}
    return row | {"smallest_pool": smallest, "largest_pool": max(pools), **changes}


def make_entry(*rows: dict[str, Any]) -> Entry:
    result = {"schema": "cipherward.audit-table/1", "machine": {"cores": 1}, "rows": list(rows)}
    return Entry("1-audit.json", "An audit", "make audit-table", "2026-01-01", result)


def cell_of(row: dict[str, Any]) -> str:
    """Return what the summary says about the images that break a row's scheme."""
    return summary.readme_table([make_entry(row)])[2].split(" | ")[2]


def test_a_table_of_eight_columns_or_uneven_rows_is_refused() -> None:
    assert table(["a", "b"], [[1, 2]]) == ["| a | b |", "|---|---|", "| 1 | 2 |", ""]
    for headers, rows in ((["a"] * (MAX_COLUMNS + 1), []), (["a", "b"], [[1]])):
        with pytest.raises(ValueError, match="at most 7 columns"):
            table(headers, rows)


def test_the_summary_softens_no_verdict_and_claims_nothing_that_was_not_run() -> None:
    assert cell_of(make_row({1: 5, 2: 5}, 1)) == "**1**"
    assert cell_of(make_row({50: 5, 100: 5}, 50)) == "**50** (smallest tried)"
    untried = make_row({10: 0, 50: 5}, 50)
    untried["pools"][0]["idle"] = 5
    assert cell_of(untried) == "**50** (smallest tried)"
    assert cell_of(make_row({20: 3, 100: 5}, 100)) == "**100** (20: 3 of 5 draws)"
    assert cell_of(make_row({1: 0, 2: 5}, 2)) == "**2**"
    assert cell_of(make_row({1: 0, 2: 0}, None)) == "not broken up to 2"
    assert cell_of(make_row({1: 0}, None, largest_pool=0)) == "too few draws"
    idle = make_row({1: 0}, None)
    idle["pools"][0]["idle"] = 5
    assert cell_of(idle) == "no attack was run"
    uncertain = make_row({1: 0, 2: 1}, None)
    uncertain["pools"][1]["uncertain"] = 3
    assert cell_of(uncertain) == "attack uncertain at 2"
    assert "| attack uncertain at 2, 1 of 5 draws |" in "\n".join(
        audit.audit_table(make_entry(uncertain).result)
    )
    text = "\n".join(summary.not_run([make_entry(idle)]))
    assert "which says nothing about the scheme's strength" in text
    assert "- Audit: etc under a shared key." in text and "no model was trained on images sealed by" in text


def test_a_scheme_is_shown_on_the_images_that_resisted_longest() -> None:
    easy, hard = make_row({1: 5}, 1), make_row({1: 0, 2: 5}, 2, data="cifar224")
    for rows in ((easy, hard), (hard, easy)):
        assert summary.hardest_row([make_entry(*rows)], "le") == hard
    unbroken = make_row({1: 0}, None, data="cifar224")
    assert summary.hardest_row([make_entry(easy, unbroken)], "le") == unbroken
    assert summary.hardest_row([make_entry(make_row({1: 5}, 1, scope="image"))], "le") is None


def test_bounds_stand_beside_every_row_that_was_not_broken() -> None:
    row = make_row({1: 0}, None)
    row["pools"][0] |= {"V": 0.05, "V_high": 0.13, "R": 0.0, "R_high": 0.06}
    page = "\n".join(audit.page([make_entry(row)]))
    assert "not broken up to 1, 0 of 5 draws" in page and "5 / 0 (≤ 13 / ≤ 6)" in page


def test_a_run_of_an_unknown_kind_has_a_page() -> None:
    run = Entry("9-new.json", "A new run", "command", "2026-01-01", {"figure_of_it": 0.5, "list": [1]})
    pages = results.make_pages([run])
    assert set(pages) == {"results.md", "leaderboard.md", "results/other.md"}
    assert "| figure of it | 0.5 |" in pages["results/other.md"] and "A new run" in pages["results.md"]


def test_the_readme_s_table_stands_between_its_markers_or_nowhere() -> None:
    entries = [make_entry(make_row({1: 5}, 1))]
    begin, end = results.MARKERS
    readme = results.insert_table(f"before\n{begin}\nold\n{end}\nafter\n", entries)
    assert "old" not in readme and readme.startswith("before\n") and readme.endswith("\nafter\n")
    assert "| `le` (Tanaka 2018) | 2^594 | **1** | 1.25 | CIFAR-10, 32×32 | not run |" in readme
    assert results.insert_table(readme, entries) == readme
    assert results.insert_table("no markers\n", entries) == "no markers\n"
