"""docs/leaderboard.md: every scheme with its paper, and only figures that were measured."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks.pages import leaderboard
from benchmarks.pages.entries import Entry, read_entries
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
    images = [int(re.findall(r"\*\*(\d+)\*\*", row[4])[0]) for row in first if "**" in row[4]]
    assert images == sorted(images, reverse=True) and len(images) > 5
    # Without runs nothing is claimed of any scheme.
    nothing = leaderboard.page([])
    assert "Of 0 audited schemes, 0 were broken" in "\n".join(nothing)
    bare = [row for row in rows_of(nothing) if row[0].startswith("`")]
    assert len(bare) == len(leaderboard.read_literature())
    assert {tuple(row[3:]) for row in bare} == {("–", "not run", "–", "not run")}


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
