"""A scheme's description comes from others: whatever numbers it holds, it is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from crypto.errors import CipherwardError
from crypto.scheme import describe, load
from crypto.spec import MAX_SIDE, SchemeSpec

GOOD: dict[str, Any] = describe("block_pixel_shuffle", (64, 64, 1), 8).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": float("inf")},
        {"image_shape": [float("inf"), 64, 1]},
        {"image_shape": [float("nan"), 64, 1]},
        {"image_shape": [10**400, 10**400, 1]},
        {"image_shape": [10**12, 10**12, 1]},
        {"image_shape": [64, 64]},
        {"block": 10**30},
        {"block": None},
        {"options": 3},
        {"image_shape": "643"},
        {"image_shape": [64, 64.9, 1]},
        {"block": 8.9},
        {"block": "8"},
        {"block": True},
        {"version": 3.9},
        {"name": ["block_pixel_shuffle"]},
    ],
)
def test_impossible_numbers_are_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(CipherwardError) as refused:
        SchemeSpec.from_json({**GOOD, **changes})
    assert "\n" not in refused.value.message


def test_the_key_space_of_the_largest_images_is_a_number() -> None:
    spec = describe("block_pixel_shuffle", (MAX_SIDE, MAX_SIDE, 1), 8)
    assert 1e9 < load(spec).formula_bits() < 1e12
    assert SchemeSpec.from_json(GOOD).to_json() == GOOD
