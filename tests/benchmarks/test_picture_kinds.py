"""The benchmark of key recovery by kind of picture: what counts as right, and what its table says."""

from __future__ import annotations

from benchmarks.pages.audit import picture_kinds
from benchmarks.picture_kinds import ROWS, measure, share_right, summarise
from crypto.symmetry import EVERY_MOVE, Move, Orbit
from tests.support.pictures import smooth


def test_right_is_what_the_orbit_allows() -> None:
    plain = smooth(3, 32, 32, 3, seed=1)
    moved = Move(turn=3, negative=True, order=4, down=1, across=-2).apply(plain, 8)
    assert share_right(moved, plain, EVERY_MOVE, 8) == 1.0
    assert share_right(moved, plain, Orbit(), 8) < 0.1
    spoiled = plain.copy()
    spoiled[:, :16] = 255 - spoiled[:, :16]
    assert share_right(spoiled, plain, EVERY_MOVE, 8) == 0.5


def test_versions_stand_side_by_side() -> None:
    row = next(row for row in ROWS if row.scheme == "pe" and not row.options)
    cells = [measure(row, smooth(20, 32, 32, 3, seed=2), 20, draw) for draw in range(2)]
    assert [cell["right"] for cell in cells] == [1.0, 1.0]
    size = row.pools[0]
    shown = [{**cell, "pool": size} for cell in cells]
    worse = [{**shown[0], "right": 0.25}, shown[1]]
    lines = summarise({"before": worse, "now": shown})
    assert [(line["kind"], line["pool"]) for line in lines] == [(row.kind, size)]
    assert (lines[0]["before"]["exact"], lines[0]["now"]["exact"]) == (1, 2)
    assert lines[0]["before"]["worst"] == 0.25
    page = "\n".join(picture_kinds({"kinds": lines, "cells": {"before": worse, "now": shown}}))
    assert f"| pe | {row.kind} | {size} | 1 of 2 | 0.625 (0.250) | 2 of 2 | 1.000 (1.000) |" in page
