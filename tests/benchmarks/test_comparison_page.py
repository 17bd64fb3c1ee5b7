"""The comparison on the accuracy page claims nothing that was not run."""

from __future__ import annotations

from typing import Any

from benchmarks import table1_protocol
from benchmarks.pages.comparison import comparison, security, seeds
from benchmarks.pages.entries import Entry, audited_images, verdict_of
from tests.support.table1 import VIT

AUDIT: dict[str, Any] = {
    "scheme": "le",
    "scope": "consortium",
    "attack": "pooled_key_recovery",
    "data": "cifar",
    "block": 4,
}


AUDIT |= {"options": {}, "smallest_pool": 20, "largest_pool": 100}


def test_security_comes_only_from_the_audit_of_the_same_images() -> None:
    section = {"data": "cifar", "cells": [1], "plan": {"image_size": 32, "block": 4}}

    def verdict(row: str = "le", **changes: Any) -> str:
        return security(row, [section], [{**AUDIT, **changes}])

    assert verdict() == "broken by 20 (at 32×32, blocks of 4)"
    assert verdict(smallest_pool=None) == "not broken by up to 100 (at 32×32, blocks of 4)"
    assert verdict(row="block_pixel_shuffle private", scheme="block_pixel_shuffle").startswith(
        "broken by 20"
    )
    assert verdict(pools=[{"pool": 20}, {"pool": 50}]).startswith("broken by 20 or fewer (")
    assert verdict(pools=[{"pool": 10}, {"pool": 20}]).startswith("broken by 20 (")
    assert verdict(pools=[{"pool": 1}], smallest_pool=1).startswith("broken by 1 (")
    unaudited: list[dict[str, Any]] = [
        {"scheme": "etc"},
        {"scope": "image"},
        {"data": "cifar224"},
        {"block": 8},
        {"options": {"mask": "independent"}},
        {"largest_pool": 0},
        {"smallest_pool": None, "pools": [{"pool": 1, "draws": 5, "idle": 5}]},
    ]
    assert {verdict(**c) for c in unaudited} == {"not audited (at 32×32, blocks of 4)"}
    assert verdict(row="plain") == "not sealed"
    both = [section, {"data": "cifar", "cells": [1], "plan": {"image_size": 224, "block": 16}}]
    assert security("le", both, [AUDIT]).endswith("; not audited (at 224×224, blocks of 16)")


def test_the_table_of_pictures_counts_as_an_audit_of_its_images() -> None:
    row = {**AUDIT, "kind": "pneumonia 28", "broken_at": 5}
    row["pools"] = [{"pool": 5, "draws": 5}, {"pool": 10, "draws": 3}]
    rows = [{k: v for k, v in row.items() if k not in ("data", "scope", "smallest_pool", "largest_pool")}]
    rows.append({**rows[0], "kind": "tissue 32"})
    kinds = Entry("36.json", "", "", "", {"schema": "cipherward.picture-kinds/2", "rows": rows})
    audited = audited_images([kinds])
    assert [row["data"] for row in audited] == ["pneumonia"]
    assert str(verdict_of(audited, "le", "consortium", "pneumonia", 4)) == "broken by 5 or fewer"
    assert verdict_of(audited, "le", "image", "pneumonia", 4) is None
    # One broken draw decides nothing, and is least of all evidence of strength.
    few = {**rows[0], "broken_at": None, "pools": [{"pool": 100, "draws": 1, "broken": 1}]}
    kinds = Entry("36.json", "", "", "", {"schema": "cipherward.picture-kinds/2", "rows": [few]})
    assert verdict_of(audited_images([kinds]), "le", "consortium", "pneumonia", 4) is None


def test_a_pool_in_which_the_attack_was_idle_is_not_one_that_the_scheme_withstood() -> None:
    """Another pool of the row was attacked: the idle one does not become the largest that was tried."""
    idle, attacked = {"pool": 100, "draws": 3, "idle": 3}, {"pool": 20, "draws": 3, "idle": 1}
    row = {**AUDIT, "smallest_pool": None, "pools": [attacked, idle]}
    assert str(verdict_of([row], "le", "consortium", "cifar", 4)) == "not broken by up to 20"
    doubted = {**row, "pools": [{**pool, "uncertain": pool["draws"]} for pool in row["pools"]]}
    assert str(verdict_of([doubted], "le", "consortium", "cifar", 4)) == "attack uncertain at 20 images"
    # An idle pool below the one that breaks it says nothing of fewer images either.
    row = {**AUDIT, "pools": [{"pool": 10, "draws": 3, "idle": 3}, {"pool": 20, "draws": 3, "idle": 0}]}
    assert str(verdict_of([row], "le", "consortium", "cifar", 4)) == "broken by 20 or fewer"
    assert verdict_of([{**row, "pools": [idle]}], "le", "consortium", "cifar", 4) is None


def test_the_page_says_what_was_not_run() -> None:
    section: dict[str, Any] = {
        "data": "cifar",
        "network": "vit",
        "cells": [],
        "begun": [],
        "none": [],
        "seeds": 3,
        "plan": {**VIT, "block": 4},
    }
    section["pairs"] = dict.fromkeys(table1_protocol.PAIRS, "none")
    section["rows"] = list(table1_protocol.PAIRS)
    cell: dict[str, Any] = {"row": "le", "seed": 0, "images": [9, 9, 9], "seconds": 3.0}
    cell["test"] = {"rate": 0.5, "low": 0.4, "high": 0.6, "auc": 0.75}
    section["cells"] = [cell, {**cell, "seed": 1}]
    section["row_plans"] = {"plain": {"lr": 0.0001, "warmup_steps": 20}}
    lines = comparison({"sections": [section]}, [AUDIT])
    assert (
        "| le | 50.0 % (40.0–60.0), AUC 0.750; mean of 2 seeds 50.0 % | broken by 20 (at 32×32, blocks of 4) |"
        in lines
    )
    assert "| plain | not run | not sealed |" in lines and not any("seeds, each" in line for line in lines)
    assert (
        "; plain: learning rate 0.0001, 20 steps of warm-up; 9 training, 9 val, 9 test images"
        in "\n".join(lines)
    )


def test_a_difference_is_within_if_its_whole_interval_is() -> None:
    def section(shift: float, spread: float = 0.0) -> dict[str, Any]:
        cells = [
            {
                "row": row,
                "seed": seed,
                "test": {
                    "auc": 0.90 + 0.01 * seed + (shift + spread * (seed - 1) if row != "plain" else 0)
                },
            }
            for row in ("plain", "block_pixel_shuffle")
            for seed in range(3)
        ]
        return {"network": "vit", "seeds": 3, "cells": cells}

    assert "-0.0090 (-0.0090 to -0.0090): within |" in "\n".join(seeds(section(-0.009)))
    assert "-0.0110 (-0.0110 to -0.0110): **not within**" in "\n".join(seeds(section(-0.011)))
    # Three differences of -.006, -.004 and -.002: 4.303 · .002 / √3 to each side (Student, two degrees of freedom).
    assert "-0.0040 (-0.0090 to +0.0010): within |" in "\n".join(seeds(section(-0.004, 0.002)))
    assert "-0.0040 (-0.0127 to +0.0047): within by the mean, **not shown**" in "\n".join(
        seeds(section(-0.004, 0.0035))
    )
    assert "0.0100" in seeds(section(0.0))[4]  # the standard deviation of .90, .91, .92


def test_options_that_are_the_defaults_are_the_same_scheme_and_others_are_not() -> None:
    row = {
        "scheme": "sub_block_etc",
        "scope": "consortium",
        "data": "cifar",
        "block": 8,
        "smallest_pool": 5,
    }
    row |= {"largest_pool": 5, "pools": [{"pool": 5, "draws": 5}]}
    whole, halved = {**row, "options": {"sub_block": 4}}, {**row, "options": {"sub_block": 2}}
    wanted = ("sub_block_etc", "consortium", "cifar", 8)
    assert str(verdict_of([whole], *wanted)) == "broken by 5 or fewer"
    assert verdict_of([whole], *wanted, {"sub_block": 2}) is None
    assert verdict_of([halved], *wanted) is None
    assert str(verdict_of([halved], *wanted, {"sub_block": 2})) == "broken by 5 or fewer"


def test_a_scheme_that_draws_for_every_image_is_audited_by_one_and_what_shows_of_itself_is_no_audit() -> (
    None
):
    drawn = {**AUDIT, "scheme": "patch_shuffle", "scope": "image", "smallest_pool": 1}
    drawn["pools"] = [{"pool": 1, "draws": 1}]
    assert str(verdict_of([drawn], "patch_shuffle", "consortium", "cifar", 4)) == "broken by 1"
    assert verdict_of([{**drawn, "scheme": "le"}], "le", "consortium", "cifar", 4) is None
    shown = {**AUDIT, "scheme": "neuracrypt", "attack": "as_is", "smallest_pool": None}
    assert verdict_of([shown], "neuracrypt", "consortium", "cifar", 4) is None
