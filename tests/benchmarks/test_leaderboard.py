"""docs/leaderboard.md: every scheme with its paper, and only figures that were measured."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks.pages import leaderboard
from benchmarks.pages.entries import Entry, audited_rows, read_entries
from benchmarks.pages.summary import hardest_row
from crypto.scheme import SCHEMES
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return read_entries(ROOT / "docs" / "results")


def rows_of(lines: list[str]) -> list[list[str]]:
    cells = [
        line.strip("|").split("|") for text in lines for line in text.splitlines() if line.startswith("|")
    ]
    return [[cell.strip() for cell in row] for row in cells]


def test_every_scheme_has_its_paper_and_a_source_for_what_is_said_of_it() -> None:
    papers = leaderboard.read_literature()
    controls = {"plain", "noise", "permuted"}
    assert set(papers) >= {name for name in SCHEMES if name not in controls}
    for name, paper in papers.items():
        assert paper["source"] and paper["key_space"] in ("published", "ours"), name
        # A year is that of a publication that a reader can find.
        assert ("year" in paper) == ("url" in paper) == ("title" in paper), name
        assert not paper.keys() - {
            *("year", "authors", "title", "venue", "url", "key_space", "claim", "source", "note")
        }, name


def test_schemes_are_ordered_by_what_broke_them_and_nothing_is_made_up(entries: list[Entry]) -> None:
    lines = leaderboard.page(entries)
    table = rows_of(lines)
    assert table[0][:3] == ["scheme", "year", "paper"]
    first = [
        row for row in table[2:] if row[0].strip("`") in leaderboard.read_literature() and len(row) == 7
    ][:8]
    broken = [row[4] for row in first if "**" in row[4]]
    # What the smallest pool tried broke is not known to need more than one image.
    images = [
        1 if "(smallest tried)" in cell else int(re.findall(r"\*\*(\d+)\*\*", cell)[0]) for cell in broken
    ]
    assert images == sorted(images, reverse=True) and len(images) > 5
    # Without runs nothing is claimed of any scheme.
    nothing = leaderboard.page([])
    assert "Of 0 audited schemes, 0 were broken" in "\n".join(nothing)
    bare = [row for row in rows_of(nothing) if row[0].startswith("`")]
    assert len(bare) == len(leaderboard.read_literature())
    assert {tuple(row[3:]) for row in bare} == {("–", "not run", "–", "not run")}


def test_schemes_that_no_key_opens_or_that_have_a_key_for_each_image_are_not_called_not_run(
    entries: list[Entry],
) -> None:
    table: dict[str, list[str]] = {}
    for row in rows_of(leaderboard.page(entries)):
        table.setdefault(row[0].strip("`"), row)  # the first table
    assert "**1,000 of 1,000** matched with their images" in table["neuracrypt"][4]
    assert table["patch_shuffle"][4].startswith("**1**")
    # A scheme whose ciphertexts were only looked at was not attacked.
    looked_at = {"scheme": "neuracrypt", "attack": "as_is", "scope": "consortium", "options": {}}
    pools = [{"pool": 1, "draws": 3, "broken": 0, "seconds": 0.1}]
    audited = {**looked_at, "data": "mri", "block": 16, "name": "n", "pools": pools, "smallest_pool": None}
    result = {"schema": "cipherward.audit-table/1", "rows": [audited]}
    assert hardest_row([Entry("8-audit-table.json", "", "", "2026-11-28", result)], "neuracrypt") is None


def test_a_row_that_two_runs_measured_is_shown_once(entries: list[Entry]) -> None:
    [later] = [entry for entry in entries if entry.kind == "projections"]
    row = next(row for row in later.result["rows"] if row["scheme"] == "block_projection")
    for draws, shown in ((3, "table"), (0, "projections")):
        pools = [{**pool, "draws": draws} for pool in row["pools"]]
        table = {"schema": "cipherward.audit-table/1", "rows": [{**row, "pools": pools, "source": "table"}]}
        found = audited_rows([Entry("8-audit-table.json", "", "", "", table), later])
        [same] = [r for r in found if r["name"] == row["name"]]
        assert same.get("source", "projections") == shown


def pool(size: int, uncertain: int = 0) -> dict[str, int]:
    return {"pool": size, "draws": 5, "uncertain": uncertain}


@pytest.mark.parametrize(
    ("row", "cell"),
    [
        ({"pools": [], "broken_at": None}, "not run"),
        ({"pools": [pool(1), pool(5)], "broken_at": 5}, "**5**"),
        ({"pools": [pool(5), pool(10)], "broken_at": 5}, "**≤ 5**"),
        ({"pools": [pool(1), pool(5)], "broken_at": 1}, "**1**"),
        ({"pools": [pool(5), pool(10, 1)], "broken_at": None}, "not by 10"),
        ({"pools": [pool(5), pool(10, 4)], "broken_at": None}, "not by 10, uncertain"),
        ({"pools": [{**pool(10), "draws": 2, "broken": 2}], "broken_at": None}, "2 of 2 draws at 10"),
    ],
)
def test_a_pool_that_did_not_break_is_not_called_one_that_did(row: dict[str, Any], cell: str) -> None:
    scheme = {"scheme": "etc", "options": {}, "kind": "scans", **row}
    other = {"scheme": "pe", "options": {}, "kind": "scans", "pools": [pool(1)], "broken_at": 1}
    result = {"schema": "cipherward.picture-kinds/2", "kinds": {"scans": ""}, "rows": [scheme, other]}
    lines = leaderboard.page([Entry("36-kinds.json", "", "", "2026-11-28", result)])
    if cell == "not run":
        assert "Not run on any kind of picture: `etc`." in lines
    else:
        assert ["scans", cell, "**1**"] in rows_of(lines)


def test_a_look_at_ciphertexts_is_no_row_of_the_suite(entries: list[Entry]) -> None:
    rows = [row for entry in entries if entry.kind == "audit-table" for row in entry.result["rows"]]
    looked_at = [row for row in rows if (row["scheme"], row["attack"]) == ("neuracrypt", "as_is")]
    assert any(pool["draws"] for row in looked_at for pool in row["pools"])  # it was run
    suite = "\n".join(leaderboard.page(entries)).partition("## Images that break a scheme, by the suite")[2]
    shown = sum("`neuracrypt` |" in line for line in suite.splitlines())
    attacked = [row for row in rows if (row["scheme"], row["attack"]) == ("neuracrypt", "moment_matching")]
    assert "`sub_block_etc` |" in suite
    assert shown == sum(any(pool["draws"] for pool in row["pools"]) for row in attacked)
