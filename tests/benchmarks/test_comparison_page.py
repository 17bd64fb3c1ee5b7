"""The comparison on the accuracy page claims nothing that was not run."""

from __future__ import annotations

from typing import Any

from benchmarks import table1_protocol
from benchmarks.pages.comparison import comparison, security, seeds
from tests.support.table1 import VIT

AUDIT: dict[str, Any] = {
    "scheme": "le",
    "scope": "consortium",
    "attack": "pooled_key_recovery",
    "data": "cifar",
    "block": 4,
}


AUDIT |= {"options": {}, "smallest_pool": 20, "largest_pool": 100}


def test_security_comes_only_from_the_audit() -> None:
    def verdict(row: str = "le", data: str = "cifar", **changes: Any) -> str:
        return security(row, data, [{**AUDIT, **changes}])

    assert verdict() == "broken by 20 (at 32×32, blocks of 4)"
    assert verdict(smallest_pool=None) == "not broken by up to 100 (at 32×32, blocks of 4)"
    assert verdict(
        row="block_pixel_shuffle private", scheme="block_pixel_shuffle", data="cifar"
    ).startswith("broken by 20")
    unaudited: list[dict[str, Any]] = [
        {"scheme": "etc"},
        {"scope": "image"},
        {"attack": "leading_bit"},
        {"options": {"mask": "independent"}},
    ]
    assert {verdict(**c) for c in (*unaudited, {"largest_pool": 0})} == {"not audited"}
    assert security("le", "pneumonia", [AUDIT]) == "not audited"
    assert security("le", "cifar", []) == "not audited"


def test_the_page_says_what_was_not_run() -> None:
    section: dict[str, Any] = {
        "data": "cifar",
        "network": "vit",
        "cells": [],
        "begun": [],
        "none": [],
        "seeds": 3,
        "plan": VIT,
    }
    section["pairs"] = dict.fromkeys(table1_protocol.PAIRS, "none")
    section["rows"] = list(table1_protocol.PAIRS)
    cell: dict[str, Any] = {"row": "le", "seed": 0, "images": [9, 9, 9], "seconds": 3.0}
    cell["test"] = {"rate": 0.5, "low": 0.4, "high": 0.6, "auc": 0.75}
    section["cells"] = [cell, {**cell, "seed": 1}]
    lines = comparison({"sections": [section]}, [AUDIT])
    assert "| le | 50.0 % (40.0–60.0), AUC 0.750 | broken by 20 (at 32×32, blocks of 4) |" in lines
    assert "| plain | not run | not sealed |" in lines and not any("seeds, each" in line for line in lines)


def test_close_means_a_small_difference_of_means_and_not_within_is_said() -> None:
    def section(shift: float) -> dict[str, Any]:
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

    assert "-0.0090: within" in "\n".join(seeds(section(-0.009)))
    assert "-0.0110: **not within**" in "\n".join(seeds(section(-0.011)))
    assert "0.0100" in seeds(section(0.0))[4]  # the standard deviation of .90, .91, .92
