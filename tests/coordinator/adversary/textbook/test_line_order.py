"""Rows and columns that were put in another order are put back, from one image or a few."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.opened import open_images
from coordinator.adversary.textbook import line_order
from coordinator.adversary.textbook.line_order import cut_ring, line_distances
from coordinator.adversary.textbook.path_order import path_length, shortest_path
from coordinator.adversary.time_budget import always
from crypto.arrays import Float64Array, Images
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import likeness, lines_moved, noise, pool_of


@pytest.mark.parametrize(("images", "least"), [(1, 0.9), (4, 0.999)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_orders_open_images_that_were_not_in_the_pool(images: int, least: float, channels: int) -> None:
    plain = smooth(images + 8, 24, 32, channels)
    pool = pool_of(lines_moved(plain, 3))
    key = line_order.recover(pool, np.arange(images), always)
    assert key is not None and not any(fit.is_poor for fit in key.fits)
    opened = open_images(pool.spec, pool.sealed[images:], key)
    assert likeness(opened, plain[images:]) > least > 0.8 > likeness(pool.sealed[images:], plain[images:])


@pytest.mark.parametrize("images", [1, 10])
def test_noise_fits_poorly(images: int) -> None:
    key = line_order.recover(pool_of(noise((images, 24, 24, 1))), np.arange(images), always)
    assert key is not None and all(fit.is_poor for fit in key.fits)


@pytest.mark.parametrize("sealed", [smooth(6, 16, 16), np.full((3, 8, 8, 1), 7, np.uint8)])
def test_pictures_as_they_are_and_images_of_one_gray_have_no_order_to_find(sealed: Images) -> None:
    assert line_order.recover(pool_of(sealed), np.arange(len(sealed)), always) is None


def test_lines_are_as_far_apart_as_their_values_over_all_images() -> None:
    images = noise((3, 4, 5, 2))
    for axis in (1, 2):
        lines = np.moveaxis(images, axis, 0).reshape(images.shape[axis], -1).astype(float)
        apart = np.abs(lines[:, None] - lines)
        assert np.allclose(line_distances(images, axis), (apart / (apart + 8)).mean(2), atol=1e-6)


def _distances(points: Float64Array) -> Float64Array:
    distances: Float64Array = np.hypot(*(points[:, None] - points).transpose(2, 0, 1))
    return distances


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_a_few_things_is_shorter(seed: int) -> None:
    distances = _distances(np.random.default_rng(seed).normal(size=(7, 2)))
    least = min(path_length(distances, np.array(order)) for order in itertools.permutations(range(7)))
    path = shortest_path(distances)
    assert np.array_equal(np.sort(path), np.arange(7))
    assert path_length(distances, path) == pytest.approx(least)


def test_things_in_a_row_are_found_in_their_row() -> None:
    place = np.random.default_rng(0).permutation(60)
    path = shortest_path(_distances(np.stack([place, np.zeros(60)], 1)))
    assert (np.abs(np.diff(place[path])) == 1).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_things_are_in_order(count: int) -> None:
    assert np.array_equal(shortest_path(np.zeros((count, count))), np.arange(count))


def test_things_that_are_all_alike_are_a_path_too() -> None:
    assert np.array_equal(np.sort(shortest_path(np.zeros((6, 6)))), np.arange(6))


def test_a_picture_with_black_borders_is_put_in_the_middle() -> None:
    plain = np.zeros((8, 40, 40, 1), np.uint8)
    plain[:, 6:34, 6:34] = smooth(8, 28, 28)
    pool = pool_of(lines_moved(plain, 3))
    key = line_order.recover(pool, np.arange(8), always)
    assert key is not None
    opened = open_images(pool.spec, pool.sealed, key)
    # An odd number of flat lines has no middle, so one line more or less is no fault.
    shifted = (np.roll(opened, shift, (1, 2)) for shift in itertools.product((-1, 0, 1), (-1, 0, 1)))
    assert max(likeness(each, plain) for each in shifted) > 0.999


@pytest.mark.parametrize("start", range(6))
def test_a_ring_is_cut_in_the_middle_of_its_flattest_lines(start: int) -> None:
    count = 12
    place = np.arange(count)
    apart = np.abs(place[:, None] - place)
    ring = np.minimum(apart, count - apart).astype(float)
    contrasts = np.array([0, 0, 1, 5, 9, 9, 9, 9, 5, 1, 0, 0.0])
    cut = cut_ring(ring, np.roll(place, start), contrasts)
    assert np.array_equal(cut, np.arange(count))
    # In a row, the two ends are not alike, and nothing is cut.
    assert np.array_equal(cut_ring(apart.astype(float), place, contrasts), place)
    assert np.array_equal(cut_ring(np.zeros((2, 2)), np.arange(2), np.zeros(2)), np.arange(2))
    assert np.array_equal(cut_ring(ring, place, np.ones(count)), place)


def test_an_axis_without_differences_leaves_the_other() -> None:
    plain = np.repeat(smooth(12, 1, 24)[:, :1], 20, axis=1)
    pool = pool_of(plain[:, :, np.random.default_rng(0).permutation(24)])
    key = line_order.recover(pool, np.arange(12), always)
    assert key is not None and np.array_equal(key.parts["rows"], np.arange(20)) and len(key.fits) == 1
    assert (np.abs(np.diff(np.random.default_rng(0).permutation(24)[key.parts["columns"]])) == 1).all()


def test_stripes_that_were_moved_are_found_though_most_neighbours_agree() -> None:
    plain = smooth(12, 30, 30)
    order = np.random.default_rng(1).permutation(6).repeat(5) * 5 + np.tile(np.arange(5), 6)
    pool = pool_of(plain[:, order][:, :, order])
    key = line_order.recover(pool, np.arange(12), always)
    assert key is not None and likeness(open_images(pool.spec, pool.sealed, key), plain) > 0.999


def test_without_time_nothing_comes_back() -> None:
    assert line_order.recover(pool_of(noise((4, 16, 16, 1))), np.arange(4), lambda: False) is None
