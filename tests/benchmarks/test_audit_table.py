"""The audit table: which cells it measures, and what it makes of them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import audit_table
from benchmarks.audit_table import ROWS, Row, deciding_pools, summarise_pool, summarise_row
from crypto.arrays import Images, Int64Array
from crypto.files import append_line, read_lines
from crypto.scheme import SCHEMES
from parties.sources.phantom import Phantom


def test_every_scheme_has_a_row() -> None:
    controls = {"permuted"}  # an audit's control; noise and plain have rows
    assert {row.scheme for row in ROWS} == set(SCHEMES) - controls


def test_the_pools_that_decide() -> None:
    row = Row("etc", "mri", pools=(1, 2, 5, 10))
    for smallest, pools in {1: (1, 2), 2: (1, 2, 5), 10: (5, 10), None: (5, 10), 3: (5, 10)}.items():
        assert deciding_pools(row, [{"name": row.name, "smallest_pool": smallest}]) == pools
    assert deciding_pools(row, []) == (5, 10)
    assert deciding_pools(replace(row, pools=(1,)), []) == (1,)


def cell(**changes: Any) -> dict[str, Any]:
    rate = {"rate": 1.0, "high": 1.0}
    values = {"broken_by": ["R"], "ssim": 0.1, "values_right": None, "R": rate, "V": rate, "seconds": 1.0}
    return {**values, "pool": 1, "draw": 0, "row": "x", "idle": False, "note": "", **changes}


def test_what_was_returned_untried_breaks_no_scheme_in_the_table() -> None:
    pool = summarise_pool(1, [cell(), cell(idle=True), cell(idle=True, broken_by=[])])
    assert (pool["draws"], pool["broken"], pool["idle"]) == (3, 1, 2)


def test_a_pool_that_does_not_decide_refutes_no_smaller_one() -> None:
    row = Row("etc", "mri", pools=(10, 100), draws=5)

    def smallest(**at_100: Any) -> Any:
        cells = [cell(row=row.name, pool=10, draw=i, baseline=0.1, note="") for i in range(5)]
        cells += [
            cell(row=row.name, pool=100, draw=i, baseline=0.1, **{"note": "", "broken_by": [], **at_100})
            for i in range(5)
        ]
        return summarise_row(row, cells)["smallest_pool"]

    assert smallest() is None  # all five withstood
    assert smallest(broken_by=["R"]) == 10
    for untold in ({"uncertain": True}, {"idle": True}, {"note": "truncated: 1 of 9"}):
        assert smallest(**untold) == 10


def test_a_stopped_table_goes_on_with_the_missing_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Phantom(16, 3, 300, 0, "train")

    def read(_folder: Path, count: int, _size: int) -> tuple[Images, Int64Array]:
        images = np.stack([source.read(row) for row in range(len(source))])
        return images, np.zeros(len(images), np.int64)

    monkeypatch.setattr(audit_table, "read_cifar", read)
    monkeypatch.setattr(audit_table, "AUDIT_IMAGES", 24)
    monkeypatch.setattr(audit_table, "GALLERY_IMAGES", 40)
    row = Row("pe", "cifar", block=4, pools=(1, 2), draws=1)
    journal = tmp_path / "cells.jsonl"
    todo = (row, 0, tmp_path, journal, time.time() + 600)
    audit_table.work(todo)
    first, second = read_lines(journal)
    assert [first["pool"], second["pool"]] == [1, 2]
    journal.write_text("")
    append_line(journal, json.dumps(first))
    audit_table.work(todo)
    assert [c["pool"] for c in read_lines(journal)] == [1, 2] and read_lines(journal)[0] == first
    audit_table.work(todo)
    assert len(read_lines(journal)) == 2
