"""The distance of patches, by which the epoch of an unpaired training is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from coordinator.adversary.networks.epoch_choice import patch_distance, patches_of
from crypto.arrays import Images
from parties.sources.phantom import Phantom


def pictures(count: int, first: int = 0) -> Images:
    source = Phantom(32, 1, 240, 0, "train")
    return np.stack([source.read(row) for row in range(first, first + count)])


def test_patches_lie_across_the_borders_of_blocks() -> None:
    images = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).reshape(2, 32, 32, 3).astype(np.uint8)
    patches = patches_of(images)
    assert patches.shape == (2 * 10 * 10, 75)
    # Colour by colour; the second patch of the second row.
    assert np.array_equal(patches[11].reshape(3, 5, 5), images[0, 3:8, 3:8].transpose(2, 0, 1))


def test_the_distance_is_frechet_s() -> None:
    images, public = pictures(20), 255 - pictures(20, 100)
    here, there = patches_of(images), patches_of(public)
    first, second = np.cov(here, rowvar=False), np.cov(there, rowvar=False)
    root = sqrtm(first @ second + 1e-7 * np.eye(len(first))).real
    expected = ((here.mean(0) - there.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert patch_distance(images, public) == pytest.approx(expected / np.trace(second), rel=1e-3)


def test_it_is_0_for_the_same_pictures_and_1_for_flat_ones() -> None:
    public = pictures(60)
    assert patch_distance(public, public) < 1e-6
    flat = np.full_like(public, 0) + np.rint(patches_of(public).mean()).astype(np.uint8)
    assert patch_distance(flat, public) == pytest.approx(1.0, abs=0.05)


def test_wrong_blocks_are_further_than_right_ones() -> None:
    """What a decoder of the wrong key makes: blocks mirrored, of another sign, or that do not join."""
    public, own = pictures(100), pictures(100, 100)
    blocks = own.reshape(100, 8, 4, 8, 4, 1)
    mirrored = blocks[:, :, ::-1].reshape(own.shape)
    signs = np.random.default_rng(0).random((8, 1, 8, 1, 1)) < 0.5
    inverted = np.where(signs, 255 - blocks, blocks).reshape(own.shape)
    faded = (128 + 0.3 * (own.astype(float) - 128)).astype(np.uint8)
    right = patch_distance(own, public)
    for wrong in (mirrored, inverted, faded):
        assert patch_distance(wrong, public) > 3 * right
