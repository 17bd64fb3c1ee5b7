"""An order of all pixels and a substitution of gray levels are found together, by which images have which levels."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Recovered
from coordinator.adversary.opened import RecoveredLevels, key_arrays, open_images
from coordinator.adversary.textbook import order_and_table, substitution
from coordinator.adversary.textbook.level_profiles import order_by_profiles, over_chance
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from parties.scoring.key_share import open_sealed
from tests.support.pictures import grainy, smooth
from tests.support.textbook_ciphers import (
    chained,
    likeness,
    moved_and_substituted,
    moved_and_xored,
    noise,
    pool_of,
    substituted,
    xored,
)

UNSEEN = 12


@pytest.mark.parametrize(("channels", "is_own"), [(1, False), (3, False), (3, True)])
def test_they_open_images_that_were_not_in_the_pool(channels: int, is_own: bool) -> None:
    plain = smooth(100 + UNSEEN, 16, 18, channels)
    pool = pool_of(moved_and_substituted(plain, 3, is_own=is_own))
    key = order_and_table.recover(pool, np.arange(100), always)
    assert isinstance(key, RecoveredLevels) and not any(fit.is_poor for fit in key.fits)
    opened = open_images(pool.spec, pool.sealed[100:], key)
    assert likeness(opened, plain[100:]) > 0.8
    assert likeness(pool.sealed[100:], plain[100:]) < 0.3
    # The hospital opens with the reported arrays what the attack opened with its key.
    assert np.array_equal(open_sealed(dict(key_arrays(key)), pool.sealed[100:], pool.spec), opened)


@pytest.mark.parametrize(
    "sealed",
    [
        noise((60, 16, 16, 1)),
        noise((60, 16, 16, 3)),
        smooth(60, 16, 16),
        moved_and_xored(smooth(60, 16, 16), 3),
        chained(moved_and_substituted(grainy(60, 16, 16), 3)),
    ],
    ids=["noise", "noise in colour", "pictures", "a keystream", "chained"],
)
def test_where_levels_say_nothing_nothing_is_found(sealed: Images) -> None:
    assert order_and_table.recover(pool_of(sealed), np.arange(len(sealed)), always) is None


@pytest.mark.parametrize(("images", "shape"), [(11, (16, 16)), (40, (7, 9))])
def test_few_images_and_pictures_of_a_few_pixels_are_not_tried(images: int, shape: tuple[int, int]) -> None:
    pool = pool_of(moved_and_substituted(smooth(images, *shape), 3))
    assert order_and_table.recover(pool, np.arange(images), always) is None


def test_without_time_nothing_comes_back() -> None:
    pool = pool_of(moved_and_substituted(smooth(20, 16, 16), 3))
    assert order_and_table.recover(pool, np.arange(20), lambda: False) is None


def test_what_is_not_sought_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_and_table, "MOST_PIXELS", 255)
    key = order_and_table.recover(
        pool_of(moved_and_substituted(smooth(40, 16, 16), 3)), np.arange(40), always
    )
    assert isinstance(key, Recovered) and key.fits[0].is_poor
    assert "256 pixels, at most 255" in key.notes[0]


def test_an_order_that_opens_no_picture_is_doubted() -> None:
    plain = smooth(60, 16, 18)
    values = np.random.default_rng(5).permuted(plain.reshape(60, -1), axis=1).reshape(plain.shape)
    key = order_and_table.recover(pool_of(substituted(values, 3)), np.arange(60), always)
    assert key is None or any(fit.is_poor for fit in key.fits)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_gray_scale_is_read_without_any_places(seed: int) -> None:
    plain = smooth(60, 16, 18, seed=seed)
    shuffled = np.random.default_rng(seed).permuted(plain.reshape(60, -1), axis=1).reshape(plain.shape)
    table = order_by_profiles(substituted(shuffled, seed)[..., 0])
    opened = table[substituted(plain, seed)]
    assert likeness(opened, plain) > 0.9


def test_levels_of_noise_are_left_in_mid_gray() -> None:
    assert set(order_by_profiles(noise((30, 32, 32, 1))[..., 0])) == {substitution.LEVELS // 2}
    assert set(order_by_profiles(np.full((30, 8, 8), 7, np.uint8))) == {substitution.LEVELS // 2}


@pytest.mark.parametrize("channels", [1, 3])
def test_levels_vary_over_images_of_pictures_and_not_of_noise(channels: int) -> None:
    plain = grainy(20, 24, 24, channels)
    assert over_chance(plain) == pytest.approx(over_chance(moved_and_substituted(plain, 3)))
    assert over_chance(plain) > 2
    for sealed in (noise(plain.shape), xored(plain, 3), chained(moved_and_substituted(plain, 3))):
        assert over_chance(sealed) < 2
    assert over_chance(np.full((20, 24, 24, channels), 7, np.uint8)) == pytest.approx(0.0)
