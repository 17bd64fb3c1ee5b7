"""The benchmark of key recovery by kind of picture: what counts as right, and what its table says."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks.pages.kinds import picture_kinds
from benchmarks.picture_kinds import measure, summarise
from benchmarks.picture_measures import best_move, share_named, share_named_by_moves, share_right
from benchmarks.picture_rows import ROWS
from benchmarks.picture_sources import KINDS
from benchmarks.picture_targets import TARGETS, missed_targets
from crypto.scheme import SCHEMES, describe, load
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


def test_a_guess_names_its_own_image_if_every_image_is_moved_to_suit_it() -> None:
    plain = smooth(12, 32, 32, 3, seed=4)
    moved = np.stack(
        [np.roll(image, (8 * (i % 3), 8 * (i % 2)), (0, 1)) for i, image in enumerate(plain[:4])]
    )
    orbit = load(describe("patch_shuffle", (32, 32, 3), 8)).orbit
    assert share_named(moved, plain) < 1.0
    assert share_named_by_moves(moved, plain, orbit, 8) == 1.0
    # A guess that suits another image under some move names that one.
    assert share_named_by_moves(moved[[1, 0, 2, 3]], plain, orbit, 8) == 0.5


def test_images_with_a_key_each_are_opened_one_by_one() -> None:
    row = next(row for row in ROWS if (row.scheme, row.kind) == ("patch_shuffle", "cifar 32"))
    images = smooth(140, 32, 32, 3, seed=2)
    cells = [measure(replace(row, block=8), images, 1, draw) for draw in range(3)]
    assert all(cell["has_key"] is None and cell["right"] == cell["named"] == 1.0 for cell in cells)
    (line,) = summarise([row], [{**cell, "row": row.name} for cell in cells])
    assert (line["broken_at"], line["opened_at"], line["exact_at"]) == (1, None, 1)
    assert line["pools"][0]["opens"] is None
    page = "\n".join(picture_kinds({"kinds": {row.kind: "words"}, "rows": [line]}))
    assert "| patch_shuffle | cifar 32 | **1** | ? | **1** | **1** | 1 (3) |" in page
    assert "Every row reaches its target." in page
    # A row that names its image in one draw of three misses its target.
    line["pools"][0] |= {"names": 1, "broken": 1}
    page = "\n".join(picture_kinds({"kinds": {row.kind: "words"}, "rows": [line]}))
    assert "| patch_shuffle | cifar 32 | R by 1 | 1 of 3 at 1 | at 1: R 1, V 3 of 3;" in page


def test_every_scheme_meets_every_kind_that_it_is_for() -> None:
    schemes = {row.scheme for row in ROWS}
    assert len(KINDS) >= 5 and {"value_shuffle", "le", "ele", "etc", "pe", "block_pixel"} <= schemes
    assert len({row.name for row in ROWS}) == len(ROWS)
    everywhere = schemes - {"le", "ele"}
    assert {"orthogonal", "noisy_orthogonal", "sub_block_etc", "block_pixel"} <= everywhere
    for scheme in everywhere:
        assert {row.kind for row in ROWS if row.scheme == scheme} == set(KINDS)
    assert schemes == TARGETS.keys() <= SCHEMES.keys()
    # A pool, the eight images outside it and a gallery of 100 must fit in 162 tiles of tissue.
    assert max(size for row in ROWS if "tissue" in row.kind for size in row.pools) <= 100


@pytest.mark.long
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


def pool_of(pool: int, reached: int, **figures: object) -> dict[str, object]:
    """Return the figures of a pool that every measure reaches in so many of five draws, but for `figures`."""
    all_alike = dict.fromkeys(("exact", "opens", "names", "shows", "broken"), reached)
    return {"pool": pool, "draws": 5, **all_alike, "ssim": 0.5, "right": 0.5, "uncertain": 0, **figures}


def test_a_target_is_met_at_any_pool_up_to_its_size() -> None:
    row = {"scheme": "le", "kind": "cifar 32", "options": {}, "pools": [pool_of(5, 4), pool_of(10, 3)]}
    assert missed_targets(row) == []
    row["pools"] = [pool_of(5, 3), pool_of(10, 2), pool_of(20, 5)]
    (missed,) = missed_targets(row)
    assert (missed.pool, missed.reached, missed.draws) == (10, 2, 5)
    # Two draws of two meet nothing.
    row["pools"] = [{**pool_of(10, 2), "draws": 2}]
    assert [(missed.reached, missed.draws) for missed in missed_targets(row)] == [(2, 2)]
    # What was not measured is missed, and not taken for reached.
    ele = {"scheme": "ele", "kind": "cifar 32", "options": {}, "pools": [pool_of(100, 5, shows=None)]}
    assert [(missed.target.words, missed.pool) for missed in missed_targets(ele)] == [("V", None)]


def test_the_page_names_the_targets_that_are_missed_and_what_was_tried() -> None:
    row = next(row for row in ROWS if (row.scheme, row.kind) == ("le", "saturated 32"))
    line = {**asdict(row), "pools": [pool_of(10, 2, notes=[], worst=0.1, seconds=1.0, uncertain=3)]}
    line |= {f"{name}_at": None for name in ("broken", "opened", "shown", "exact")}
    page = "\n".join(picture_kinds({"kinds": {row.kind: "words"}, "rows": [line]}))
    assert "| le | saturated 32 | exact by 10 | 2 of 5 at 10 | at 10: K 2, R 2, V 2 of 5;" in page
    assert "values right 0.50; attack uncertain in 3 |" in page
    assert "low nibbles are taken for high ones" in page


def test_pools_that_were_not_measured_again_keep_their_figures() -> None:
    row = next(row for row in ROWS if (row.scheme, row.kind) == ("le", "cifar 32"))
    earlier = {**asdict(row), "pools": [pool_of(5, 1), pool_of(10, 5)]}
    cell = {
        "row": row.name,
        "pool": 5,
        "draw": 0,
        "has_key": True,
        "uncertain": False,
        "fits": [],
        "note": "",
    }
    cell |= {"right": 1.0, "ssim": 1.0, "named": 1.0, "shown": 1.0, "seconds": 1.0}
    (line,) = summarise([row], [{**cell, "draw": draw} for draw in range(3)], [earlier])
    assert [(pool["pool"], pool["draws"]) for pool in line["pools"]] == [(5, 3), (10, 5)]
    assert (line["exact_at"], line["shown_at"]) == (5, 5)
    # One draw decides nothing.
    (line,) = summarise([row], [cell], [earlier])
    assert (line["exact_at"], line["shown_at"]) == (10, 10)
