"""Describe and load schemes: which settings are refused, and with which message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crypto.errors import CipherwardError
from crypto.scheme import SCHEMES, describe, load
from crypto.spec import KEY_SCOPES, SchemeSpec
from tests.support import make_vectors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "rot13"}, "unknown scheme 'rot13'"),
        ({"image_shape": (60, 64, 1)}, "blocks of 8 do not divide an image of 60×64"),
        ({"image_shape": (64, 64, 2)}, "cannot be sealed"),
        ({"key_scope": "planet"}, "unknown key scope 'planet'"),
        ({"block": 1, "image_shape": (5, 5, 1)}, "halves its blocks, and 1 is odd"),
        ({"name": "pe", "options": {"colour_shuffle": True}}, "colour"),  # gray has no colours
        ({"name": "pe", "options": {"colour_shuffle": "yes"}}, "colour_shuffle"),
        ({"name": "etc", "options": {"form": "gray"}}, "gray"),  # gray already
        ({"name": "etc", "options": {"form": "sepia"}}, "sepia"),
        ({"name": "le", "options": {"mask": "loose"}}, "loose"),
        ({"name": "ele", "options": {"mask": "loose"}}, "loose"),
        ({"name": "value_shuffle", "options": {"fixed_blocks": 1.5}}, "fixed_blocks"),
        ({"name": "value_shuffle", "options": {"fixed": 3}}, "fixed"),
    ],
)
def test_bad_specs_are_refused(change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"name": "block_pixel_shuffle", "image_shape": (64, 64, 1), "block": 8}
    with pytest.raises(CipherwardError, match=message) as error:
        describe(**settings | change)
    assert error.value.hint


def test_a_block_that_does_not_fit_may_be_what_is_wrong() -> None:
    """The hint named other image sizes alone, also to somebody who mistyped the block."""
    with pytest.raises(CipherwardError) as error:
        describe("block_pixel_shuffle", (64, 64, 1), 7)
    assert "choose a block that divides both sides" in error.value.hint and "such as 63" in error.value.hint


@pytest.mark.parametrize("name", SCHEMES)
def test_an_option_that_no_scheme_has_is_refused(name: str) -> None:
    with pytest.raises(CipherwardError, match="rounds"):
        describe(name, (32, 32, 3), 8, options={"rounds": 3})


@pytest.mark.parametrize("name", SCHEMES)
def test_nonces_are_fresh_public_and_only_where_something_is_drawn_for_each_image(name: str) -> None:
    for scope in KEY_SCOPES:
        first, second = (describe(name, (32, 32, 3), 8, scope).options for _ in range(2))
        if name in make_vectors.NONCED or scope == "image":
            assert len(bytes.fromhex(first["nonce"])) == 16 and first["nonce"] != second["nonce"]
        else:
            assert "nonce" not in first


@pytest.mark.parametrize("name", ["noise", "block_pixel_shuffle", "etc"])
def test_a_key_an_image_needs_a_nonce(name: str) -> None:
    known = describe(name, (32, 32, 3), 8, "image")
    with pytest.raises(CipherwardError, match="nonce"):
        load(SchemeSpec(name, known.version, (32, 32, 3), 8, "image", {}))


@pytest.mark.parametrize("name", SCHEMES)
def test_another_version_is_refused(name: str) -> None:
    with pytest.raises(CipherwardError, match="version 99 was asked for"):
        load(SchemeSpec(name, 99, (8, 8, 1), 8, options={"nonce": "00" * 16}))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["orthogonal", "neuracrypt"])
def test_a_picture_of_values_that_no_hospital_seals_is_one_all_the_same(name: str) -> None:
    sealed = np.full((1, 16, 16, 1), 20.4, np.float32)
    sealed[0, 0, :4, 0] = np.nan, np.inf, -np.inf, 3e38
    picture = load(describe(name, (16, 16, 1), 8)).picture(sealed)
    assert picture[0, 0, :5, 0].tolist() == [128, 255, 0, 255, 20]
