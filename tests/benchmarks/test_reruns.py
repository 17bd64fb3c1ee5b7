"""A cell trained twice under one key: the same figures, and a page that says so or not."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from benchmarks.pages.comparison import reruns
from benchmarks.reruns import train_twice
from benchmarks.table1_inputs import digest_of, inputs_of
from benchmarks.table1_protocol import Section
from tests.support.table1 import SECTION


def test_two_trainings_of_a_cell_under_one_key_give_the_same_figures(data: Path) -> None:
    inputs = functools.partial(inputs_of, data, functools.cache(digest_of))
    first, second = train_twice(Section.model_validate(SECTION), "block_pixel_shuffle", 0, data, inputs)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["test"]["n"] > 0


def test_the_page_marks_a_cell_that_differs() -> None:
    run: dict[str, Any] = {"best_epoch": 2, "test": {"rate": 0.5, "auc": 0.75}}
    row: dict[str, Any] = {"data": "mri", "network": "vit", "row": "plain", "seed": 0, "runs": [run, run]}
    page = "\n".join(
        reruns({"rows": [{**row, "equal": False, "kept": 0.5}, {**row, "equal": True, "kept": None}]})
    )
    assert "**no**" in page and "50.0 %, AUC 0.7500, best epoch 2" in page and "other key" in page
