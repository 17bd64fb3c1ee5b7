"""Pairs give any order of all bits, with a keystream or without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coordinator.adversary.opened import key_arrays, open_bits, open_images
from coordinator.adversary.pairs.bit_order import solve_bits
from crypto.arrays import Images
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import (
    bits_moved,
    bits_moved_and_xored,
    moved_and_added,
    moved_and_xored,
    noise,
    pixels_moved,
    planes_moved,
    pool_of,
    substituted,
    xored,
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "cipher", [bits_moved, planes_moved, bits_moved_and_xored, pixels_moved, moved_and_xored, xored]
)
def test_random_pairs_open_every_other_image(
    cipher: Callable[[Images, int], Images], channels: int
) -> None:
    plain, other = noise((40, 12, 10, channels)), smooth(3, 12, 10, channels)
    sealed = cipher(np.concatenate([plain, other]), 5)
    key = solve_bits(plain, sealed[:40])
    assert key is not None and not key.fits[0].is_poor
    assert np.array_equal(open_images(pool_of(sealed).spec, sealed[40:], key), other)
    arrays = key_arrays(key)
    assert np.array_equal(open_bits(sealed[40:], arrays["bits"], arrays["flips"]), other)


def test_bits_that_no_pair_tells_apart_are_counted() -> None:
    plain = noise((3, 16, 16, 1))
    key = solve_bits(plain, bits_moved(plain, 1))
    assert key is not None and key.fits[0].is_poor
    differences = np.unpackbits((plain[1:] ^ plain[0]).reshape(2, -1), axis=1).T
    counts = np.unique(differences, axis=0, return_counts=True)[1]
    assert key.fits[0].value == (counts == 1).sum() / len(differences)


@pytest.mark.parametrize("cipher", [substituted, moved_and_added])
def test_what_moves_no_bits_has_no_such_key(cipher: Callable[[Images, int], Images]) -> None:
    plain = noise((10, 12, 12, 1))
    assert solve_bits(plain, cipher(plain, 3)) is None


def test_one_pair_and_none_tell_nothing() -> None:
    for count in (0, 1):
        plain = noise((count, 4, 4, 1))
        assert solve_bits(plain, plain) is None
