"""A rough key of block_pixel, refined in rounds."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from coordinator.adversary.recover.block_pixel_rounds import refine_in_rounds
from coordinator.adversary.time_budget import always
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images, Parts
from crypto.scheme import load
from tests.support.pictures import fields, sealed_pool, share, smooth
from tests.support.textbook_ciphers import noise


def opened(pool: MemoryPool, parts: Parts) -> Images:
    """Return all images of the pool, opened with a key."""
    images: Images = load(pool.spec).algorithm.cipher(parts).decrypt(pool.sealed)
    return images


def opened_share(pool: MemoryPool, parts: Parts, plain: Images) -> float:
    """Return the share of values that a key opens rightly."""
    return share(opened(pool, parts), plain, signs=True)


def rough_parts(parts: Parts, channels: int, seed: int) -> Parts:
    """Return a key in which neighbouring pixels of each row of a block have changed places, here and there."""
    rng, places = np.random.default_rng(seed), parts["K2"].copy()
    swap = np.arange(places.shape[1]).reshape(-1, channels)
    for block in places:
        order = swap.copy()
        for first in rng.permutation(len(swap) - 1)[: len(swap) // 3]:
            order[[first, first + 1]] = order[[first + 1, first]]
        block[:] = order.ravel()[block]
    return {**parts, "K2": places}


@pytest.mark.parametrize("channels", [1, 3])
def test_values_that_changed_places_are_put_back(channels: int) -> None:
    plain = fields(60, 32, 32, channels, seed=3)
    pool, parts = sealed_pool("block_pixel", plain, 8)
    rough = rough_parts(parts, channels, seed=1)
    before = opened_share(pool, rough, plain)
    refined = refine_in_rounds(pool, rough, always)
    assert before < 0.6
    assert opened_share(pool, refined.parts, plain) > before + 0.25


def test_blocks_in_a_wrong_place_are_put_back() -> None:
    plain = smooth(60, 32, 32, seed=3)
    pool, parts = sealed_pool("block_pixel", plain, 8)
    order = np.arange(16)
    order[[0, 3, 9]] = order[[3, 9, 0]]
    wrong = {**rough_parts(parts, 1, seed=1), "K1": order[parts["K1"]]}
    refined = refine_in_rounds(pool, wrong, always)
    assert opened_share(pool, wrong, plain) < 0.6
    assert opened_share(pool, refined.parts, plain) > 0.9
    assert refined.fits and not refined.fits[0].is_poor


def test_a_right_key_stays_right() -> None:
    plain = smooth(60, 32, 32, seed=3)
    pool, parts = sealed_pool("block_pixel", plain, 8)
    refined = refine_in_rounds(pool, parts, always)
    assert opened_share(pool, refined.parts, plain) > 0.99


def test_an_empty_plane_keeps_its_values() -> None:
    plain = fields(60, 32, 32, 3, seed=3)
    plain[..., 1] = 0
    pool, parts = sealed_pool("block_pixel", plain, 8)
    refined = refine_in_rounds(pool, rough_parts(parts, 3, seed=1), always)
    assert not opened(pool, refined.parts)[..., 1].any()
    assert opened_share(pool, refined.parts, plain) > 0.85


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_out_of_time_a_whole_key_comes_back(limit: int) -> None:
    plain = fields(20, 16, 16, seed=3)
    pool, parts = sealed_pool("block_pixel", plain, 8)
    asked = count()
    refined = refine_in_rounds(pool, rough_parts(parts, 1, seed=1), lambda: next(asked) < limit)
    assert sorted(refined.parts["K1"]) == list(range(4))
    assert (np.sort(refined.parts["K2"], axis=1) == np.arange(64)).all()


@pytest.mark.parametrize("plain", [noise((20, 16, 16, 1)), fields(4, 16, 16, seed=3)])
def test_neighbouring_pixels_never_come_apart(plain: Images) -> None:
    """Four images tell little: by them alone, the values of a right key would be moved to wrong cells."""
    pool, parts = sealed_pool("block_pixel", plain, 8)

    def steps(key: Parts) -> float:
        images = opened(pool, key).astype(float)
        return float(np.mean([np.log1p(abs(np.diff(images, axis=axis))).mean() for axis in (1, 2)]))

    for start in (parts, rough_parts(parts, 1, seed=1)):
        assert steps(refine_in_rounds(pool, start, always).parts) <= steps(start) + 1e-6
