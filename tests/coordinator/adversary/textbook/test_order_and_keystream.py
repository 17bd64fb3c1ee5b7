"""An order of all pixels and a keystream over it are found together, whether it is XORed or added."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coordinator.adversary.contract import Recovered
from coordinator.adversary.opened import RecoveredStream, open_images, put_in_order
from coordinator.adversary.textbook import order_and_keystream, pixel_layout
from coordinator.adversary.textbook.order_and_keystream import by_pixel, way_of
from coordinator.adversary.textbook.pixel_graph import PixelGraph
from coordinator.adversary.textbook.pixel_layout import PixelLayout
from coordinator.adversary.textbook.streamed_pixels import (
    in_common,
    join_streamed_pixels,
    streamed_distances,
)
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import (
    likeness,
    moved_and_added,
    moved_and_xored,
    noise,
    pixels_moved,
    pool_of,
    xored,
)

UNSEEN = 12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("seal", "is_xor"), [(moved_and_xored, True), (moved_and_added, False)])
def test_they_open_images_that_were_not_in_the_pool(
    seal: Callable[[Images, int], Images], is_xor: bool, channels: int
) -> None:
    plain = smooth(100 + UNSEEN, 16, 18, channels)
    pool = pool_of(seal(plain, 3))
    key = order_and_keystream.recover(pool, np.arange(100), always)
    assert key is not None and isinstance(key, RecoveredStream) != is_xor
    assert not key.fits[0].is_poor and ("XORed" in key.fits[0].of) == is_xor
    opened = open_images(pool.spec, pool.sealed[100:], key)
    assert likeness(opened, plain[100:]) > 0.8
    assert likeness(pool.sealed[100:], plain[100:]) < 0.3


def test_an_order_that_bends_the_picture_is_doubted_though_neighbours_are_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = smooth(60, 16, 18)
    columns = [*range(0, 18, 3), *range(16, 0, -3), *range(2, 18, 3)]  # folded twice
    place = np.argsort(np.random.default_rng(3).permutation(16 * 18)).reshape(16, 18)
    grids = iter([place[:, columns], np.arange(16 * 18).reshape(16, 18)])

    def lay_out(graph: PixelGraph, *_: object) -> PixelLayout:
        grid = next(grids)
        return PixelLayout(grid, pixel_layout._share_near(graph, grid))

    monkeypatch.setattr(order_and_keystream, "lay_out_pixels", lay_out)
    key = order_and_keystream.recover(pool_of(moved_and_xored(plain, 3)), np.arange(60), always)
    assert isinstance(key, Recovered)
    agreement, near = key.fits
    assert not agreement.is_poor and near.is_poor


@pytest.mark.parametrize("sealed", [noise((60, 16, 16, 1)), noise((60, 16, 16, 3)), smooth(60, 16, 16)])
def test_noise_and_pictures_as_they_are_have_neither(sealed: Images) -> None:
    assert order_and_keystream.recover(pool_of(sealed), np.arange(len(sealed)), always) is None


@pytest.mark.parametrize(("images", "shape"), [(11, (16, 16)), (40, (7, 9))])
def test_few_images_and_pictures_of_a_few_pixels_are_not_tried(images: int, shape: tuple[int, int]) -> None:
    pool = pool_of(moved_and_xored(smooth(images, *shape), 3))
    assert order_and_keystream.recover(pool, np.arange(images), always) is None


def test_without_time_nothing_comes_back() -> None:
    pool = pool_of(moved_and_xored(smooth(20, 16, 16), 3))
    assert order_and_keystream.recover(pool, np.arange(20), lambda: False) is None


def test_what_is_not_sought_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_and_keystream, "MOST_PIXELS", 255)
    pool = pool_of(moved_and_xored(smooth(40, 16, 16), 3))
    key = order_and_keystream.recover(pool, np.arange(40), always)
    assert isinstance(key, Recovered) and key.fits[0].is_poor
    assert "256 pixels, at most 255" in key.notes[0]


def test_what_places_have_in_common_does_not_depend_on_the_stream_and_noise_has_nothing() -> None:
    plain = smooth(40, 16, 16, 2)
    bare, streamed = by_pixel(plain), by_pixel(xored(plain, 5))
    assert in_common(bare, is_xor=True) == pytest.approx(in_common(streamed, is_xor=True))
    assert in_common(bare, is_xor=True) > 0.05
    assert np.allclose(streamed_distances(bare, is_xor=True), streamed_distances(streamed, is_xor=True))
    added = plain + noise((1, 16, 16, 2))
    assert in_common(bare, is_xor=False) == pytest.approx(
        in_common(by_pixel(added), is_xor=False), rel=1e-4
    )
    for is_xor in (True, False):
        assert in_common(by_pixel(noise((40, 16, 16, 1))), is_xor=is_xor) == pytest.approx(0.0, abs=0.01)
    assert (
        way_of(xored(plain, 5)) is True
        and way_of(added) is False
        and way_of(noise((40, 16, 16, 1))) is None
    )


@pytest.mark.parametrize("is_xor", [True, False])
def test_distances_are_those_of_the_definition(is_xor: bool) -> None:
    values = by_pixel(noise((9, 3, 4, 2)))
    found = streamed_distances(values, is_xor=is_xor)
    for p in range(12):
        for q in range(12):
            squares = []
            for c in range(2):
                one, other = values[p, c].astype(int), values[q, c].astype(int)
                if is_xor:
                    gray_one, gray_other = one ^ one >> 1, other ^ other >> 1
                    for bit in (7, 6, 5, 4):
                        equal = (gray_one >> bit & 1) == (gray_other >> bit & 1)
                        squares.append((2 * equal.mean() - 1) ** 2)
                else:
                    squares.append(abs(np.exp(2j * np.pi * (one - other) / 256).mean()) ** 2)
            assert found[p, q] == pytest.approx(1 - np.sqrt(np.mean(squares)), abs=1e-3)


@pytest.mark.filterwarnings("error")
def test_pixels_that_are_equal_in_all_images_have_a_distance() -> None:
    plain = smooth(48, 16, 16)
    plain[:, :5] = 0
    values = by_pixel(moved_and_added(plain, 3))
    assert streamed_distances(values, is_xor=False).min() >= 0
    join_streamed_pixels(values, is_xor=False, time_left=always)


def test_large_pictures_are_joined_by_rough_distances_first(monkeypatch: pytest.MonkeyPatch) -> None:
    values = by_pixel(moved_and_xored(smooth(60, 14, 14), 3))
    whole = join_streamed_pixels(values, is_xor=True, time_left=always)
    monkeypatch.setattr("coordinator.adversary.textbook.streamed_pixels._LARGE", 1)
    monkeypatch.setattr("coordinator.adversary.textbook.streamed_pixels._CHUNK", 50)
    rough = join_streamed_pixels(values, is_xor=True, time_left=always)
    assert whole is not None and rough is not None
    both = ((whole.lengths > 0).multiply(rough.lengths > 0)).nnz
    assert both > 0.9 * whole.lengths.nnz


def test_pixels_are_put_in_order_as_the_cipher_moved_them() -> None:
    plain = smooth(3, 5, 6, 2)
    moved = pixels_moved(plain, 4)
    order = np.argsort(np.random.default_rng(4).permutation(30))
    assert np.array_equal(put_in_order(moved, order), plain)
