"""The benchmark of key recovery by kind of picture: what counts as right, and what its table says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.pages.kinds import picture_kinds
from benchmarks.picture_kinds import ROWS, best_move, measure, share_named, share_right, summarise
from benchmarks.picture_sources import KINDS
from crypto.symmetry import EVERY_MOVE, Move, Orbit
from tests.support.pictures import smooth


def test_right_is_what_the_orbit_allows() -> None:
    plain = smooth(3, 32, 32, 3, seed=1)
    moved = Move(turn=3, negative=True, order=4, down=1, across=-2).apply(plain, 8)
    assert share_right(moved, plain, best_move(moved, plain, EVERY_MOVE, 8), 8) == 1.0
    assert share_right(moved, plain, best_move(moved, plain, Orbit(), 8), 8) < 0.1
    spoiled = plain.copy()
    spoiled[:, :16] = 255 - spoiled[:, :16]
    move = best_move(spoiled, plain, Orbit(), 8)
    assert share_right(spoiled, plain, move, 8) == 0.5
    counted = np.ones((32, 32, 3), bool)
    counted[:8] = False
    assert abs(share_right(spoiled, plain, move, 8, counted) - 2 / 3) < 1e-9


def test_a_guess_names_its_own_image() -> None:
    plain = smooth(12, 32, 32, 3, seed=4)
    assert share_named(plain[:4], plain) == 1.0
    assert share_named(plain[[1, 0, 2, 3]], plain) == 0.5


def test_every_scheme_meets_every_kind_that_it_is_for() -> None:
    schemes = {row.scheme for row in ROWS}
    assert len(KINDS) >= 5 and {"value_shuffle", "le", "ele", "etc", "pe", "block_pixel"} <= schemes
    assert len({row.name for row in ROWS}) == len(ROWS)
    for scheme in ("block_pixel_shuffle", "value_shuffle", "etc", "pe"):
        assert {row.kind for row in ROWS if row.scheme == scheme} == set(KINDS)


def test_the_page_shows_the_smallest_pool_and_what_failed() -> None:
    row = replace(next(row for row in ROWS if row.scheme == "pe" and not row.options), pools=(20, 50))
    images = smooth(140, 32, 32, 3, seed=2)
    cells = [measure(replace(row, block=4), images, 20, draw) for draw in range(2)]
    assert [cell["right"] for cell in cells] == [1.0, 1.0] and not any(c["uncertain"] for c in cells)
    assert all(cell["ssim"] == 1.0 and cell["named"] == 1.0 for cell in cells)
    shown = [{**cell, "row": row.name} for cell in cells]
    failed = {**shown[0], "ssim": 0.3, "named": 0.0, "right": 0.25, "uncertain": True, "fits": ["fit 0.40"]}
    lines = summarise([row], [*shown, failed, {**failed, "pool": 50}])
    assert (lines[0]["broken_at"], lines[0]["exact_at"]) == (20, 20)
    assert lines[0]["pools"][0]["uncertain"] == 1 and lines[0]["pools"][1]["broken"] == 0
    page = "\n".join(picture_kinds({"kinds": {row.kind: "words"}, "rows": lines}))
    assert f"| pe | {row.kind} | **20** | **20** | **20** | **20** | 20 (3), 50 (1) |" in page
    assert f"| pe | {row.kind} | 50 | 0 of 1 | 1 | 0.250 (0.250) | fit 0.40 |" in page
