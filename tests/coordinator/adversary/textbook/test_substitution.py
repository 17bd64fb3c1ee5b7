"""One substitution of gray levels is found from a few images, or from one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.opened import key_arrays, open_images
from coordinator.adversary.textbook import substitution
from coordinator.adversary.textbook.substitution import neighbour_counts, order_levels
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from parties.scoring.key_share import open_sealed
from parties.sources.phantom import Phantom
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import likeness, noise, pixels_moved, pool_of, substituted

UNSEEN = 12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("seen", [2, 20])
def test_the_table_opens_images_that_were_not_in_the_pool(channels: int, is_own: bool, seen: int) -> None:
    plain = smooth(seen + UNSEEN, 48, 40, channels)
    pool = pool_of(substituted(plain, 5, is_own=is_own))
    key = substitution.recover(pool, np.arange(seen), always)
    assert key is not None and not any(fit.is_poor for fit in key.fits)
    opened = open_images(pool.spec, pool.sealed[seen:], key)
    assert likeness(opened, plain[seen:]) > 0.9
    assert likeness(pool.sealed[seen:], plain[seen:]) < 0.5
    assert np.array_equal(open_sealed(key_arrays(key), pool.sealed[seen:], pool.spec), opened)


def test_one_image_is_enough() -> None:
    plain = smooth(1 + UNSEEN, 96, 96)
    pool = pool_of(substituted(plain, 5))
    key = substitution.recover(pool, np.arange(1), always)
    assert key is not None and not key.fits[0].is_poor
    assert likeness(open_images(pool.spec, pool.sealed[1:], key), plain[1:]) > 0.9


def test_most_levels_are_exact_from_many_images() -> None:
    plain = smooth(60, 96, 96)
    table = substituted(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 5).ravel()
    key = substitution.recover(pool_of(substituted(plain, 5)), np.arange(60), always)
    assert key is not None
    off = np.abs(key.levels[0][table].astype(int) - np.arange(256))
    assert min(np.median(off), np.median(255 - off)) <= 2


def test_colours_rise_and_fall_together_under_tables_of_their_own() -> None:
    plain = smooth(20, 48, 48, 3, gray=2.0)
    pool = pool_of(substituted(plain, 5, is_own=True))
    key = substitution.recover(pool, np.arange(20), always)
    assert key is not None
    opened = open_images(pool.spec, pool.sealed, key).astype(float)
    assert all(np.corrcoef(opened[..., 0].ravel(), opened[..., c].ravel())[0, 1] > 0.5 for c in (1, 2))
    assert opened.mean() < 128


@pytest.mark.parametrize("images", [1, 2, 6, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_no_table(images: int, channels: int) -> None:
    sealed = noise((images, 32, 32, channels))
    key = substitution.recover(pool_of(sealed), np.arange(images), always)
    assert key is None or key.fits[0].is_poor


@pytest.mark.parametrize(
    "sealed", [smooth(10, 32, 32), smooth(10, 4, 32), np.full((5, 32, 32, 1), 7, np.uint8)]
)
def test_pictures_as_they_are_and_too_small_or_flat_ones_have_no_table(sealed: Images) -> None:
    assert substitution.recover(pool_of(sealed), np.arange(len(sealed)), always) is None


def test_pixels_in_another_order_have_no_table() -> None:
    key = substitution.recover(pool_of(pixels_moved(smooth(30, 32, 32), 3)), np.arange(30), always)
    assert key is None or key.fits[0].is_poor


def test_a_gray_scale_that_falls_apart_is_not_believed() -> None:
    """Made scans have few levels between the skull, the brain and the ground: any of them may be turned round."""
    scans = Phantom(64, 1, 20, 0, "train")
    plain = np.stack([scans.read(row) for row in range(20)]).reshape(20, 64, 64, 1)
    key = substitution.recover(pool_of(substituted(plain, 5)), np.arange(20), always)
    assert key is not None
    assert not key.fits[0].is_poor and key.fits[1].is_poor


def test_without_time_nothing_is_sought() -> None:
    pool = pool_of(substituted(smooth(5, 32, 32), 5))
    assert substitution.recover(pool, np.arange(5), lambda: False) is None


def test_neighbours_are_counted_as_a_loop_counts_them() -> None:
    planes = np.random.default_rng(0).integers(0, 4, (2, 5, 3), np.uint8)
    expected = np.zeros((256, 256), int)
    for plane, row, column in itertools.product(planes, range(5), range(3)):
        for down, across in ((1, 0), (0, 1)):
            if row + down < 5 and column + across < 3:
                one, other = plane[row, column], plane[row + down, column + across]
                expected[one, other] += 1
                expected[other, one] += 1
    assert np.array_equal(neighbour_counts(planes), expected)


def test_a_chain_of_levels_is_put_in_order() -> None:
    apart = abs(np.subtract.outer(np.arange(40), np.arange(40)))
    graph = np.where(apart == 0, 0.0, np.exp(-apart / 2.0))
    order = np.random.default_rng(0).permutation(40)
    ranks = order_levels(graph[np.ix_(order, order)])
    assert np.array_equal(ranks, order) or np.array_equal(ranks, 39 - order)
