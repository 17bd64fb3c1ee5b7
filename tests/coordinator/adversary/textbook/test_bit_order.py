"""An order of all bits is undone as far as the highest ones, which are near those of their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coordinator.adversary.contract import Recovered
from coordinator.adversary.opened import RecoveredBits, open_images
from coordinator.adversary.textbook import bit_order
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import bits_moved, bits_moved_and_xored, likeness, noise, pool_of

IMAGES, UNSEEN = 120, 8


@pytest.mark.parametrize("cipher", [bits_moved, bits_moved_and_xored])
def test_the_highest_bits_open_images_that_were_not_in_the_pool(
    cipher: Callable[[Images, int], Images],
) -> None:
    plain = smooth(IMAGES + UNSEEN, 20, 24, 1)
    pool = pool_of(cipher(plain, 3))
    key = bit_order.recover(pool, np.arange(IMAGES), always)
    assert isinstance(key, RecoveredBits) and not key.fits[0].is_poor
    assert (key.order[:, :7] == -1).all()
    assert len(np.unique(key.order[:, 7])) == 20 * 24
    opened = open_images(pool.spec, pool.sealed[IMAGES:], key)
    assert set(np.unique(opened)) == {63, 191}
    assert likeness(opened, plain[IMAGES:]) > 0.6
    assert likeness(pool.sealed[IMAGES:], plain[IMAGES:]) < 0.3


def test_the_sheet_is_that_of_the_highest_plane() -> None:
    plain = smooth(IMAGES, 20, 24, 1)
    order = np.random.default_rng(3).permutation(
        8 * 20 * 24
    )  # as `bits_moved` has it, the highest bit first
    sheet = bit_order._find_sheet(bits_moved(plain, 3), is_signed=True, time_left=always)
    assert sheet is not None
    sealed_bit = 8 * (sheet.bits // 8) + 7 - sheet.bits % 8
    assert (order[sealed_bit] % 8 == 0).mean() > 0.95


@pytest.mark.parametrize("images", [30, 60])
def test_noise_is_not_believed(images: int) -> None:
    key = bit_order.recover(pool_of(noise((images, 16, 16, 1))), np.arange(images), always)
    assert key is None or key.fits[0].is_poor


@pytest.mark.parametrize(
    "sealed",
    [noise((29, 16, 16, 1)), smooth(40, 16, 16), np.full((40, 8, 8, 1), 7, np.uint8), noise((40, 9, 9, 3))],
)
def test_too_few_images_pictures_as_they_are_one_gray_and_colours_give_nothing(sealed: Images) -> None:
    assert bit_order.recover(pool_of(sealed), np.arange(len(sealed)), always) is None


def test_too_many_pixels_are_not_sought_and_the_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit_order, "_MOST_PIXELS", 255)
    key = bit_order.recover(pool_of(noise((30, 16, 16, 1))), np.arange(30), always)
    assert isinstance(key, Recovered) and key.fits[0].is_poor
    assert "256 pixels, at most 255" in key.notes[0]


def test_without_time_nothing_comes_back() -> None:
    assert bit_order.recover(pool_of(noise((30, 16, 16, 1))), np.arange(30), lambda: False) is None
