"""The frontier draws only what was measured on the same images, and says which choices are dominated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import frontier as picture
from benchmarks.frontier import JSON, draw, figures_of, side_by_side
from benchmarks.pages.entries import Entry, read_entries
from benchmarks.pages.frontier import Choice, choices_of, dominated, frontier, lines_of
from benchmarks.results import KEPT
from crypto.scheme import SCHEMES

BASE = Choice("mri", 224, "le", "consortium", "learn", "central", 0.8, 0.7, 0.9, 1, 10, True)
AUDIT: dict[str, Any] = {
    "scheme": "le",
    "scope": "consortium",
    "attack": "pooled_key_recovery",
    "data": "cifar",
    "block": 4,
    "options": {},
    "name": "le, cifar",
    "pools": [{"pool": 20, "draws": 5}],
    "smallest_pool": 20,
    "largest_pool": 100,
}


def entries(audit: list[dict[str, Any]], **plan: Any) -> list[Entry]:
    cell = {"row": "le", "seed": 0, "test": {"rate": 0.5, "low": 0.4, "high": 0.6, "auc": None}}
    cells = [cell, {**cell, "seed": 1, "test": {"rate": 0.6, "low": 0.5, "high": 0.7}}]
    cells += [{**cell, "row": "plain"}, {"row": "pe", "seed": 0, "diverged": 2, "test": {"auc": None}}]
    section = {
        "data": "cifar",
        "network": "vit",
        "rows": ["plain", "le", "pe"],
        "cells": cells,
        "plan": {"image_size": 32, "block": 4, **plan},
    }
    table = {"schema": "cipherward.table1/1", "sections": [section, {**section, "network": "resnet18"}]}
    audited = {"schema": "cipherward.audit-table/1", "rows": audit}
    return [Entry("1.json", "", "", "", table), Entry("2.json", "", "", "", audited)]


def test_a_choice_takes_its_pool_from_the_audit_of_the_same_images_alone() -> None:
    def pool(audit: dict[str, Any], **plan: Any) -> tuple[int | None, bool]:
        (choice,) = choices_of(entries([{**AUDIT, **audit}], **plan))
        return choice.pool, choice.broken

    assert pool({}) == (20, True)
    assert pool({"smallest_pool": None}) == (100, False)
    assert pool({}, image_size=64) == (None, False)
    assert pool({}, block=8) == (None, False)
    for other in ({"scheme": "pe"}, {"scope": "image"}, {"data": "cifar224"}, {"options": {"mask": "x"}}):
        assert pool(other) == (None, False)


def test_seeds_are_averaged_and_their_bounds_widened_and_what_diverged_is_no_choice() -> None:
    (choice,) = choices_of(entries([AUDIT]))
    assert choice.rate == pytest.approx(0.55)
    assert (choice.low, choice.high, choice.seeds) == (0.4, 0.7, 2)
    assert [(line.data, line.rate) for line in lines_of(entries([AUDIT]))] == [("cifar", 0.5)]


def test_of_a_federated_stem_the_run_that_val_preferred_counts_whatever_test_says() -> None:
    def run(file: str, val: str, **rates: float) -> Entry:
        records = [
            {
                "run": f"federated, stem {stem}",
                "test accuracy": rate,
                "low": 0.1,
                "high": 1.0,
                "val by round": val,
            }
            for stem, rate in rates.items()
        ]
        return Entry(file, "", "", "", {"schema": "cipherward.stem-accuracy/1", "records": records})

    runs = [
        run("15.json", "0.5, 0.7", learn=0.6, private=0.7, plain=0.8),
        run("49.json", "0.9, 0.8", private=0.90),
        run("51.json", "0.8, 0.8", private=0.99),
    ]
    assert {choice.stem: choice.rate for choice in choices_of(runs)} == {"learn": 0.6, "private": 0.9}
    assert [line.rate for line in lines_of(runs)] == [0.8]


def test_points_of_one_pool_size_stand_around_it_and_reach_no_other(tmp_path: Path) -> None:
    for of in (1, 2, 9, 40):
        row = [side_by_side(nth, of) for nth in range(of)]
        assert row == sorted(set(row)) and row[-1] < 1.5 and row[0] > 1 / 1.5
        assert row[0] * row[-1] == pytest.approx(1)
    draw([replace(BASE, bound=True), BASE], [], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_recipes_of_one_hospital_are_choices_once_their_test_accuracy_was_read() -> None:
    views = {"parties": 1, "augment": "flip_shift"}
    test = {"rate": 0.9, "low": 0.8, "high": 0.95}
    lines = [
        {"recipe": "learn: views", "changes": views, "best": 0.9, "test": test},
        {"recipe": "learn: views", "changes": views, "best": 0.9, "test": {**test, "rate": 0.8}},
        {"recipe": "learn: views", "changes": views, "best": 0.9, "test": None},
        {"recipe": "learn: val says less", "changes": views, "best": 0.8, "test": {**test, "rate": 0.95}},
        {"recipe": "learn: val says less", "changes": views, "best": 0.9, "test": {**test, "rate": 0.95}},
        {"recipe": "learn: other", "changes": views, "best": 0.9, "test": None},
        {"recipe": "learn: one seed", "changes": views, "best": 0.99, "test": test},
        {
            "recipe": "learn: three hospitals",
            "changes": {"augment": "flip_shift"},
            "best": 0.9,
            "test": test,
        },
        {"recipe": "learn: base", "changes": {"parties": 1}, "best": 0.9, "test": test},
        {"recipe": "plain: views", "changes": views, "best": 0.9, "test": test},
    ]
    result = {"schema": "cipherward.recipes/1", "recipes": lines}
    (choice,) = choices_of([Entry("47.json", "", "", "", result)])
    assert choice.name == "block_pixel_shuffle, stem learn, one hospital"
    assert choice.rate == pytest.approx(0.85) and choice.seeds == 2


@pytest.mark.parametrize(
    ("changes", "is_dominated"),
    [
        ({"rate": 0.9}, True),
        ({"pool": 20}, True),
        ({"pool": 10, "broken": False}, True),
        ({"pool": 5, "broken": False}, False),  # what it needs was not tried
        ({"pool": 20, "bound": True}, False),  # 20 or fewer
        ({"rate": 0.9, "bound": True}, False),
        ({"rate": 0.9, "pool": 5}, False),
        ({"rate": 0.7, "pool": 50}, False),
        ({}, False),
        ({"rate": 0.9, "data": "cifar"}, False),
        ({"rate": 0.9, "pool": None, "broken": False}, False),
    ],
)
def test_dominated(changes: dict[str, Any], is_dominated: bool) -> None:
    other = replace(BASE, scheme="pe", **changes)
    assert (BASE in dominated([BASE, other])) is is_dominated


def test_a_choice_that_was_not_audited_is_listed_and_not_drawn(tmp_path: Path) -> None:
    unknown = entries([])
    text = "\n".join(frontier(unknown))
    assert "not audited on these images" in text
    (choice,) = choices_of(unknown)
    assert figures_of([choice], [])["choices"][0]["pool"] is None
    draw([choice, replace(BASE, broken=False)], [], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_the_kept_figures_are_those_of_the_kept_runs() -> None:
    kept = read_entries(KEPT)
    now = json.loads(json.dumps(figures_of(choices_of(kept), lines_of(kept))))
    assert json.loads(JSON.read_text()) == now, "run: make frontier"


def test_every_scheme_has_a_marker_of_its_own() -> None:
    markers = picture._MARKERS
    assert len(set(markers)) == len(markers) >= len(SCHEMES) - 3  # plain and two of noise have no point
    assert picture._PRIVATE_MARKER not in markers
    shapes = picture._SHAPES
    assert len(set(shapes.values())) == len(shapes)
    assert {choice.training for choice in choices_of(read_entries(KEPT))} <= set(shapes)
