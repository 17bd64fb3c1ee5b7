"""Values chained to the ciphertext before them are parted without a key, and what was chained is attacked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coordinator.adversary.opened import key_arrays, open_images
from coordinator.adversary.textbook import chained as attack
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from crypto.kernels.chaining import Chaining, chainings
from parties.scoring.key_share import open_sealed
from tests.support.pictures import grainy, smooth
from tests.support.textbook_ciphers import (
    chained,
    likeness,
    moved_and_added,
    moved_and_substituted,
    moved_and_xored,
    noise,
    pool_of,
    substituted,
    xored,
)

UNSEEN = 12


@pytest.mark.parametrize("channels", [1, 3])
def test_chaining_is_undone_as_it_was_done(channels: int) -> None:
    images = noise((4, 5, 6, channels))
    for way in chainings(channels):
        assert np.array_equal(way.undo(chained(images, is_xor=way.is_xor, step=way.step)), images)
    assert len(chainings(channels)) == (2 if channels == 1 else 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_way_of_chaining_is_found_under_an_unknown_order_and_keystream(channels: int) -> None:
    plain = smooth(30, 32, 32, channels)
    for way in chainings(channels):
        inner = (moved_and_xored if way.is_xor else moved_and_added)(plain, 3)
        assert attack.find_chaining(chained(inner, is_xor=way.is_xor, step=way.step)) == way


@pytest.mark.parametrize("channels", [1, 3])
def test_the_way_of_chaining_is_found_over_substituted_levels(channels: int) -> None:
    inner = moved_and_substituted(grainy(12, 32, 32, channels), 3)
    for way in chainings(channels):
        assert attack.find_chaining(chained(inner, is_xor=way.is_xor, step=way.step)) == way


@pytest.mark.parametrize("inner", [lambda plain: plain, lambda plain: xored(plain, 5)])
def test_a_black_border_does_not_hide_that_values_were_chained(inner: Callable[[Images], Images]) -> None:
    plain = smooth(12, 32, 32)
    plain[:, :10] = 0
    assert attack.find_chaining(chained(inner(plain))) == Chaining(True, 1)


@pytest.mark.parametrize(
    "sealed", [np.full((12, 16, 16, 1), 7, np.uint8), noise((1, 16, 16, 3)).repeat(12, 0)]
)
def test_equal_ciphertexts_were_not_chained(sealed: Images) -> None:
    assert attack.find_chaining(sealed) is None


@pytest.mark.parametrize(
    "sealed",
    [
        smooth(30, 16, 16),
        noise((30, 16, 16, 3)),
        moved_and_xored(smooth(30, 16, 16), 3),
        substituted(smooth(30, 16, 16, 3), 3),
    ],
)
def test_what_was_not_chained_is_not_taken_for_chained(sealed: Images) -> None:
    assert attack.find_chaining(sealed) is None
    assert attack.recover(pool_of(sealed), np.arange(len(sealed)), always) is None


@pytest.mark.parametrize(
    ("inner", "images", "side", "least"),
    [
        (lambda plain: plain, 8, 40, 0.999),
        (lambda plain: xored(plain, 5), 12, 24, 0.8),
        (lambda plain: moved_and_xored(plain, 5), 100, 16, 0.8),
        (lambda plain: moved_and_added(plain, 5), 100, 16, 0.8),
        (lambda plain: substituted(plain, 5), 12, 40, 0.9),
        (lambda plain: moved_and_substituted(plain, 5), 100, 16, 0.8),
    ],
    ids=[
        "nothing",
        "keystream",
        "order and keystream",
        "order and added keystream",
        "substitution",
        "order and substitution",
    ],
)
def test_what_was_chained_is_opened(
    inner: Callable[[Images], Images], images: int, side: int, least: float
) -> None:
    plain = grainy(images + UNSEEN, side, side + 2)
    pool = pool_of(chained(inner(plain)))
    key = attack.recover(pool, np.arange(images), always)
    assert key is not None and key.chaining == Chaining(True, 1)
    assert not any(fit.is_poor for fit in key.fits)
    opened = open_images(pool.spec, pool.sealed[images:], key)
    assert likeness(opened, plain[images:]) > least
    # The hospital opens with the reported arrays what the attack opened with its key.
    assert np.array_equal(open_sealed(dict(key_arrays(key)), pool.sealed[images:], pool.spec), opened)


def test_three_images_and_no_time_are_too_little() -> None:
    pool = pool_of(chained(smooth(30, 16, 16)))
    assert attack.recover(pool, np.arange(3), always) is None
    assert attack.recover(pool, np.arange(30), lambda: False) is None
