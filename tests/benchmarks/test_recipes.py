"""The benchmark of recipes: each is a valid plan, test stays closed, and the page shows it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import recipes
from benchmarks.pages.recipes import recipes as page
from benchmarks.recipe_list import RECIPES, plan_of
from benchmarks.recipes import deal, run
from coordinator.model.augmentation import flip_shift
from coordinator.model.training import PlainImages
from crypto.errors import CipherwardError
from crypto.files import read_json
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.local_training import SMALL, striped_images


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_plan(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, 3, tmp_path)
    assert plan.seed == 3 and plan.stem == ("learn" if name.startswith("learn") else "plain")


def test_every_image_is_dealt_to_one_hospital() -> None:
    images = striped_images(50)
    parts = deal(images, 1, 3, None)
    assert sorted(len(part.labels) for _, part in parts) == [16, 17, 17]
    dealt = np.concatenate([part.rows(np.arange(len(part.labels))) for _, part in parts])
    assert sorted(map(bytes, dealt)) == sorted(map(bytes, images.images))


def test_a_place_that_learns_ciphertext_seals_what_it_altered() -> None:
    images = striped_images(20)
    cipher = load(describe("block_pixel_shuffle", images.images.shape[1:], 8)).cipher(SecretKey(bytes(32)))
    ((_, sealed),) = deal(images, 1, 1, cipher)
    rows = np.arange(20)
    stored, altered = (
        np.asarray(x)
        for x in (sealed.rows(rows), sealed.views(rows, "flip_shift", np.random.default_rng(2)))
    )
    order = np.random.default_rng(1).permutation(20)
    assert np.array_equal(cipher.decrypt(stored), images.images[order])
    expected = flip_shift(images.images[order], np.random.default_rng(2))
    assert np.array_equal(cipher.decrypt(altered), expected) and not np.array_equal(altered, stored)


@pytest.mark.parametrize("chosen", [[], ["learn: base"]])
def test_recipes_are_kept_and_shown_and_test_is_read_once_for_the_chosen_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[str]
) -> None:
    asked: list[tuple[int, int, int]] = []

    def read(folder: Path, name: str, size: int, counts: tuple[int, int, int]) -> dict[str, PlainImages]:
        asked.append(counts)
        return {
            s: striped_images(n, seed=i)
            for i, (s, n) in enumerate((("train", 24), ("val", 8), ("test", 9)))
        }

    def small(name: str, seed: int, data: Path) -> Any:
        whole = plan_of(name, seed, data)
        changes = {"image_size": 32, "block": 8, "model_args": SMALL, "weights": "", "rounds": 2}
        return whole.model_copy(update=changes)

    monkeypatch.setattr(recipes, "read", read)
    monkeypatch.setattr(recipes, "plan_of", small)
    options = argparse.Namespace(
        recipes=["learn: base", "plain: base"], test=chosen, seeds=1, hours=1.0, folder=tmp_path
    )
    options.out, options.json = tmp_path / "out", tmp_path / "figures.json"
    run(options)
    kept = (options.out / "recipes.jsonl").read_bytes()
    run(options)  # a second run trains nothing, and reads no test image
    assert (options.out / "recipes.jsonl").read_bytes() == kept
    assert asked == [(0, 0, 1)] * 2 + [(1, 0, 0)] * len(chosen)
    result = read_json(options.json, "figures")
    assert [len(line["val"]) for line in result["recipes"]] == [2, 2]
    assert [line["recipe"] for line in result["recipes"] if line["test"]] == chosen
    text = "\n".join(page(result))
    best = 100 * max(result["recipes"][1]["val"])
    assert f"| plain: base | 1 | {best:.1f} % | – |" in text
    shown = [
        f"| {100 * line['test']['rate']:.1f} % |" in text for line in result["recipes"] if line["test"]
    ]
    assert shown == [True] * len(chosen)
    assert ("Flips at test time" in text) is bool(chosen)
    for line in result["recipes"]:
        assert (line["flipped"] is not None) == (line["recipe"] in chosen)
        if line["flipped"]:
            assert (line["flipped"]["val"]["n"], line["flipped"]["test"]["n"]) == (8, 9)


def test_an_unknown_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="learn: bas"):
        run(argparse.Namespace(recipes=["learn: bas"], test=[], out=tmp_path))
