"""An order of the pixels for each bit plane is undone by how alike the highest bits of neighbours are."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Recovered
from coordinator.adversary.opened import RecoveredBits, open_bits, open_images
from coordinator.adversary.textbook import plane_orders
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import likeness, noise, planes_moved, pool_of

IMAGES, UNSEEN = 120, 8


@pytest.mark.parametrize(("height", "width", "channels"), [(20, 24, 1), (16, 16, 3)])
def test_the_orders_open_images_that_were_not_in_the_pool(height: int, width: int, channels: int) -> None:
    plain = smooth(IMAGES + UNSEEN, height, width, channels)
    pool = pool_of(planes_moved(plain, 3))
    key = plane_orders.recover(pool, np.arange(IMAGES), always)
    assert isinstance(key, RecoveredBits) and not key.fits[0].is_poor
    is_known = key.order >= 0
    known = np.asarray(is_known.all(0))
    assert np.array_equal(
        is_known, np.broadcast_to(known, is_known.shape)
    )  # a plane is known, or it is not
    assert known[6:].all() and not known[:5].any()
    for plane in np.flatnonzero(known):
        assert np.array_equal(np.sort(key.order[:, plane]), np.arange(plane, 8 * len(key.order), 8))
    opened = open_images(pool.spec, pool.sealed[IMAGES:], key)
    assert likeness(opened, plain[IMAGES:]) > 0.75
    assert likeness(pool.sealed[IMAGES:], plain[IMAGES:]) < 0.3


def test_planes_are_brought_together_in_every_symmetry() -> None:
    plain = smooth(60, 18, 18, 1)
    grid = np.arange(18 * 18).reshape(18, 18)
    for turns in range(4):
        for lower in (np.rot90(grid, turns), np.rot90(grid, turns)[:, ::-1]):
            found = plane_orders._bring_together(plain, (7, grid), (6, np.ascontiguousarray(lower)))
            assert found is not None and np.array_equal(found, grid)


def test_planes_that_suit_no_symmetry_are_left_out() -> None:
    grid = np.arange(256).reshape(16, 16)
    shuffled = np.random.default_rng(0).permutation(256).reshape(16, 16)
    assert plane_orders._bring_together(smooth(60, 16, 16, 1), (7, grid), (6, shuffled)) is None


def test_what_is_not_known_of_a_value_is_its_middle() -> None:
    images = noise((5, 4, 6, 3))
    order = np.arange(8 * 72).reshape(72, 8)
    assert np.array_equal(open_bits(images, order), images)
    order[:, :5] = -1
    assert np.array_equal(open_bits(images, order), (images & 0xE0) + 15)
    order[0] = -1
    assert (open_bits(images, order).reshape(5, -1)[:, 0] == 127).all()


@pytest.mark.parametrize("images", [8, 60])
def test_noise_fits_poorly(images: int) -> None:
    key = plane_orders.recover(pool_of(noise((images, 16, 16, 1))), np.arange(images), always)
    assert key is None or key.fits[0].is_poor


@pytest.mark.parametrize(
    "sealed", [noise((7, 16, 16, 1)), smooth(10, 16, 16), np.full((9, 8, 8, 1), 7, np.uint8)]
)
def test_too_few_images_pictures_as_they_are_and_one_gray_give_nothing(sealed: Images) -> None:
    key = plane_orders.recover(pool_of(sealed), np.arange(len(sealed)), always)
    assert key is None or key.fits[0].is_poor


@pytest.mark.parametrize("shape", [(10, 1, 1, 1), (10, 1, 9, 1), (10, 4, 4, 1), (10, 5, 7, 3)])
def test_pictures_of_a_few_pixels_are_not_believed(shape: tuple[int, ...]) -> None:
    assert plane_orders.recover(pool_of(noise(shape)), np.arange(10), always) is None


def test_too_many_pixels_are_not_sought_and_the_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane_orders, "_MOST_PIXELS", 255)
    key = plane_orders.recover(pool_of(noise((8, 16, 16, 1))), np.arange(8), always)
    assert isinstance(key, Recovered) and key.fits[0].is_poor
    assert "256 pixels, at most 255" in key.notes[0]


def test_without_time_nothing_comes_back() -> None:
    assert plane_orders.recover(pool_of(noise((8, 16, 16, 1))), np.arange(8), lambda: False) is None
