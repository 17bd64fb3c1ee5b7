"""A permutation of all pixels is undone by how alike pixels are over many images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import eigsh

from coordinator.adversary.opened import open_images
from coordinator.adversary.textbook import pixel_layout, pixel_order
from coordinator.adversary.textbook.pixel_graph import PixelGraph, join_pixels
from coordinator.adversary.textbook.pixel_layout import lay_out_pixels, value_distances
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import likeness, noise, pixels_moved, pool_of

IMAGES, UNSEEN = 60, 8


@pytest.mark.parametrize(("height", "width", "channels"), [(20, 24, 1), (16, 16, 3), (40, 40, 1)])
def test_the_order_opens_images_that_were_not_in_the_pool(height: int, width: int, channels: int) -> None:
    plain = smooth(IMAGES + UNSEEN, height, width, channels)
    pool = pool_of(pixels_moved(plain, 3))
    key = pixel_order.recover(pool, np.arange(IMAGES), always)
    assert key is not None and not key.fits[0].is_poor
    opened = open_images(pool.spec, pool.sealed[IMAGES:], key)
    assert likeness(opened, plain[IMAGES:]) > 0.8
    assert likeness(pool.sealed[IMAGES:], plain[IMAGES:]) < 0.3


@pytest.mark.parametrize("images", [4, 60])
def test_noise_fits_poorly(images: int) -> None:
    key = pixel_order.recover(pool_of(noise((images, 16, 16, 1))), np.arange(images), always)
    assert key is None or key.fits[0].is_poor


@pytest.mark.parametrize(
    "sealed", [noise((3, 16, 16, 1)), smooth(10, 16, 16), np.full((9, 8, 8, 1), 7, np.uint8)]
)
def test_too_few_images_pictures_as_they_are_and_one_gray_give_nothing(sealed: Images) -> None:
    key = pixel_order.recover(pool_of(sealed), np.arange(len(sealed)), always)
    assert key is None or key.fits[0].is_poor


def test_too_many_pixels_are_not_sought_and_the_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_order, "_MOST_PIXELS", 255)
    key = pixel_order.recover(pool_of(noise((6, 16, 16, 1))), np.arange(6), always)
    assert key is not None and key.fits[0].is_poor and "256 pixels, at most 255" in key.notes[0]


def test_without_time_nothing_comes_back() -> None:
    assert pixel_order.recover(pool_of(noise((6, 16, 16, 1))), np.arange(6), lambda: False) is None


def test_pixels_are_joined_to_the_nearest_that_share_their_neighbours() -> None:
    values = pixels_moved(smooth(40, 12, 12), 3).transpose(1, 2, 0, 3).reshape(144, -1)
    graph = join_pixels(values, always)
    assert graph is not None and graph.piece.all()
    apart = np.log1p(np.abs(values[:, None].astype(int) - values)).sum(2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :12]
    around = [{p, *nearest[p]} for p in range(144)]
    wanted = np.zeros((144, 144), bool)
    for p in range(144):
        for q in nearest[p, :6]:
            wanted[p, q] = len(around[p] & around[q]) >= 5
    assert np.array_equal((graph.lengths > 0).toarray(), wanted | wanted.T)


def test_a_grid_is_laid_out_as_it_is() -> None:
    side = 12
    row, column = np.divmod(np.random.default_rng(0).permutation(side**2), side)
    apart = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    lengths = sparse.csr_matrix((apart == 1).astype(float))
    graph = PixelGraph(lengths, sparse.csr_matrix(apart <= 1), np.ones(side**2, bool))
    values = np.stack([20 * row, 20 * column, 10 * (row + column), 10 * (row - column + side)], 1)
    layout = lay_out_pixels(graph, lambda: value_distances(values.astype(np.uint8)), side, side, always)
    assert layout is not None and layout.fit > 0.98


@pytest.mark.parametrize("shape", [(10, 1, 1, 1), (10, 1, 9, 1), (10, 4, 4, 1), (10, 5, 7, 3)])
def test_pictures_of_a_few_pixels_are_not_believed(shape: tuple[int, ...]) -> None:
    assert pixel_order.recover(pool_of(noise(shape)), np.arange(10), always) is None


def test_noise_is_laid_out_without_factorising_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Laplacian of a graph whose edges go anywhere takes minutes and gigabytes to factorise."""
    calls: list[Any] = []

    def products_alone(matrix: Any, **options: Any) -> Any:
        calls.append(options)
        assert "sigma" not in options
        return eigsh(matrix, **options)

    monkeypatch.setattr(pixel_layout, "eigsh", products_alone)
    key = pixel_order.recover(pool_of(noise((20, 40, 40, 1))), np.arange(20), always)
    assert key is not None and key.fits[0].is_poor and calls
