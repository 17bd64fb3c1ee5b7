"""The page of the comparison claims nothing that was not run."""

from __future__ import annotations

from benchmarks import table1_page, table1_protocol
from tests.support.table1 import VIT
from tests.support.table1 import data as data

AUDIT = {
    "scheme": "le",
    "scope": "consortium",
    "attack": "pooled_key_recovery",
    "data": "cifar",
    "block": 4,
}


AUDIT |= {"options": {}, "smallest_pool": 20, "largest_pool": 100}


def test_security_is_the_audit_s_and_nothing_else():
    def told(row="le", data="cifar", **changes):
        return table1_page.security(row, data, [{**AUDIT, **changes}])

    assert told() == "broken by 20 (at 32×32, blocks of 4)"
    assert told(smallest_pool=None) == "not broken by up to 100 (at 32×32, blocks of 4)"
    assert told(row="block_pixel_shuffle private", scheme="block_pixel_shuffle", data="cifar").startswith(
        "broken by 20"
    )
    unaudited = [
        {"scheme": "etc"},
        {"scope": "image"},
        {"attack": "leading_bit"},
        {"options": {"mask": "independent"}},
    ]
    assert {told(**c) for c in (*unaudited, {"largest_pool": 0})} == {"not audited"}
    assert table1_page.security("le", "pneumonia", [AUDIT]) == "not audited"
    assert table1_page.security("le", "cifar", []) == "not audited"


def test_the_page_tells_what_was_not_run():
    kept = {
        "data": "cifar",
        "network": "vit",
        "cells": [],
        "begun": [],
        "none": [],
        "seeds": 3,
        "plan": VIT,
    }
    kept["pairs"] = dict.fromkeys(table1_protocol.PAIRS, "none")
    kept["rows"] = list(table1_protocol.PAIRS)
    cell = {"row": "le", "seed": 0, "images": [9, 9, 9], "seconds": 3.0}
    cell["test"] = {"rate": 0.5, "low": 0.4, "high": 0.6, "auc": 0.75}
    kept["cells"] = [cell, {**cell, "seed": 1}]
    lines = table1_page.table1({"sections": [kept]}, [AUDIT])
    assert "| le | 50.0 % (40.0–60.0), AUC 0.750 | broken by 20 (at 32×32, blocks of 4) |" in lines
    assert "| plain | not run | not sealed |" in lines and not any("seeds, each" in line for line in lines)


def test_close_is_a_difference_of_means_and_not_within_is_said():
    def section(shift):
        cells = [
            {
                "row": row,
                "seed": seed,
                "test": {"auc": 0.90 + 0.01 * seed + (shift if row != "plain" else 0)},
            }
            for row in ("plain", "block_pixel_shuffle")
            for seed in range(3)
        ]
        return {"network": "vit", "seeds": 3, "cells": cells}

    assert "-0.0090: within" in "\n".join(table1_page.seeds(section(-0.009)))
    assert "-0.0110: **not within**" in "\n".join(table1_page.seeds(section(-0.011)))
    assert "0.0100" in table1_page.seeds(section(0.0))[4]  # the standard deviation of .90, .91, .92
