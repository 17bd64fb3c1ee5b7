"""The benchmark of recipes: each is a valid plan, test stays closed, and the page shows it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import recipes
from benchmarks.pages.recipes import recipes as page
from benchmarks.recipes import RECIPES, deal, plan_of, run
from coordinator.model.training import PlainImages
from crypto.errors import CipherwardError
from crypto.files import read_json
from tests.support.local_training import SMALL, striped_images


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_plan(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, 3, tmp_path)
    assert plan.seed == 3 and plan.stem == ("learn" if name.startswith("learn") else "plain")


def test_every_image_is_dealt_to_one_hospital() -> None:
    images = striped_images(50)
    parts = deal(images, 1, 3)
    assert sorted(len(part.labels) for _, part in parts) == [16, 17, 17]
    dealt = np.concatenate([part.images for _, part in parts])
    assert sorted(map(bytes, dealt)) == sorted(map(bytes, images.images))


def test_recipes_are_kept_and_shown_and_the_test_images_stay_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    def read(folder: Path, name: str, size: int, counts: tuple[int, int, int]) -> dict[str, PlainImages]:
        asked.append(counts)
        return {"train": striped_images(24), "val": striped_images(8, seed=1)}

    def small(name: str, seed: int, data: Path) -> Any:
        whole = plan_of(name, seed, data)
        changes = {"image_size": 32, "block": 8, "model_args": SMALL, "weights": "", "rounds": 2}
        return whole.model_copy(update=changes)

    monkeypatch.setattr(recipes, "read", read)
    monkeypatch.setattr(recipes, "plan_of", small)
    options = argparse.Namespace(
        recipes=["learn: base", "plain: base"], seeds=1, hours=1.0, folder=tmp_path
    )
    options.out, options.json = tmp_path / "out", tmp_path / "figures.json"
    run(options)
    kept = (options.out / "recipes.jsonl").read_bytes()
    run(options)  # a second run trains nothing
    assert (options.out / "recipes.jsonl").read_bytes() == kept and len(asked) == 2
    result = read_json(options.json, "figures")
    assert [len(line["val"]) for line in result["recipes"]] == [2, 2]
    assert not list(options.out.glob("*.safetensors"))
    text = "\n".join(page(result))
    best = 100 * max(result["recipes"][1]["val"])
    assert f"| plain: base | 1 | {best:.1f} % |" in text


def test_an_unknown_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="learn: bas"):
        run(argparse.Namespace(recipes=["learn: bas"], out=tmp_path))
