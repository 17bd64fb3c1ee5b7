"""The benchmark of keys of each image: no two images share one, and its figures come out as a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import image_keys, table1
from benchmarks.image_keys import plan_of, run, seal
from benchmarks.pages.image_keys import image_keys as page
from coordinator.model.training import PlainImages
from crypto.errors import CipherwardError
from crypto.files import read_json


def splits(side: int = 28) -> dict[str, PlainImages]:
    images = np.random.default_rng(1).integers(0, 256, (12, side, side, 1), np.uint8)
    labels = np.arange(12) % 2
    return {
        name: PlainImages(images[part], labels[part])
        for name, part in (("train", slice(0, 6)), ("val", slice(6, 9)), ("test", slice(9, 12)))
    }


def test_equal_images_of_different_splits_are_sealed_differently() -> None:
    plain = splits()
    same = {name: PlainImages(np.repeat(plain["train"].images[:1], 3, 0), np.arange(3)) for name in plain}
    sealed = seal(plan_of("pneumonia", "block_pixel_shuffle", 0), same)
    rows = [bytes(image) for part in sealed.values() for image in part.images]
    assert len(set(rows)) == len(rows) == 9


def test_cells_are_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_keys, "read", lambda *_: splits())
    monkeypatch.setitem(image_keys.DATA["pneumonia"], "rounds", 1)
    options = argparse.Namespace(
        folder=tmp_path, data=["pneumonia"], rows=["plain", "le"], seeds=1, hours=1.0, out=tmp_path / "out"
    )
    options.json = tmp_path / "figures.json"
    run(options)
    kept = (tmp_path / "out" / "cells.jsonl").read_bytes()
    run(options)  # a second run trains nothing
    assert (tmp_path / "out" / "cells.jsonl").read_bytes() == kept
    result = read_json(options.json, "figures")
    text = "\n".join(page(result, []))
    rate = 100 * result["cells"][1]["test"]["rate"]
    assert f"| le | {rate:.1f} % (" in text
    assert "not run" in text  # the other rows
    row = {
        "scheme": "le",
        "scope": "image",
        "data": "pneumonia",
        "block": 4,
        "options": {},
        "smallest_pool": 1,
        "pools": [],
    }
    found = "\n".join(page(result, [{**row, "largest_pool": 1}]))
    assert "| le | broken by 1 |" in found and "| etc | no attack was run |" in found


def test_unknown_rows_are_named(tmp_path: Path) -> None:
    options = argparse.Namespace(data=["pneumonia"], rows=["lee"], out=tmp_path)
    with pytest.raises(CipherwardError, match="lee"):
        run(options)


@pytest.mark.parametrize("benchmark", [image_keys, table1])
def test_the_command_lines_name_the_folder_that_is_missing(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIPHERWARD_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["benchmark", "--rows", "plain"])
    with pytest.raises(
        SystemExit, match="error: the folder of the data is not given\nhint: set CIPHERWARD_DATA"
    ):
        benchmark.main()
    monkeypatch.setattr("sys.argv", ["benchmark", "--rows", "magic", "--folder", "/nowhere"])
    with pytest.raises(SystemExit, match="error: unknown row 'magic'"):
        benchmark.main()
