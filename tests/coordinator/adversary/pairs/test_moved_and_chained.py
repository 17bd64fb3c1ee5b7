"""Pairs give the order, the keystream and the chaining of ciphers by chaotic maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coordinator.adversary.opened import open_images
from coordinator.adversary.pairs.moved_and_chained import (
    solve_chained,
    solve_moved_keystream,
    solve_moved_substitution,
)
from crypto.arrays import Images
from crypto.kernels.chaining import chainings
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import (
    chained,
    lines_moved,
    moved_and_added,
    moved_and_substituted,
    moved_and_xored,
    noise,
    pool_of,
    substituted,
    xored,
)


@pytest.mark.parametrize("seal", [moved_and_xored, moved_and_added])
@pytest.mark.parametrize("channels", [1, 3])
def test_random_pairs_give_the_order_and_the_stream_exactly(
    seal: Callable[[Images, int], Images], channels: int
) -> None:
    plain = noise((8 + 4, 12, 14, channels))
    pool = pool_of(seal(plain, 3))
    [key] = solve_moved_keystream(plain[:8], pool.sealed[:8])
    assert np.array_equal(open_images(pool.spec, pool.sealed, key), plain)
    assert not any(fit.is_poor for fit in key.fits)


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_random_pairs_give_the_order_and_the_substitution_exactly(channels: int, is_own: bool) -> None:
    plain = noise((8 + 4, 32, 34, channels))
    pool = pool_of(moved_and_substituted(plain, 3, is_own=is_own))
    key = solve_moved_substitution(plain[:8], pool.sealed[:8])
    assert key is not None and not key.fits[0].is_poor
    assert np.array_equal(open_images(pool.spec, pool.sealed, key), plain)


@pytest.mark.parametrize("seal", [moved_and_xored, moved_and_added])
def test_two_gray_pairs_leave_the_order_open_and_the_fit_says_so(
    seal: Callable[[Images, int], Images],
) -> None:
    plain = noise((2, 16, 16, 1))
    [key] = solve_moved_keystream(plain, seal(plain, 3))
    assert key.fits[0].is_poor
    [chain] = solve_chained(plain, chained(seal(plain, 3), is_xor=seal is moved_and_xored))
    assert chain.fits[0].is_poor


def test_one_pair_and_pairs_of_another_cipher_give_no_order() -> None:
    plain = smooth(6, 12, 12)
    assert solve_moved_keystream(plain[:1], moved_and_xored(plain[:1], 3)) == []
    assert solve_moved_keystream(plain, substituted(plain, 3)) == []
    assert list(solve_chained(plain, lines_moved(substituted(plain, 3), 3))) == []
    assert solve_moved_substitution(plain[:1], moved_and_substituted(plain[:1], 3)) is None
    assert solve_moved_substitution(plain, moved_and_xored(plain, 3)) is None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inner", [xored, moved_and_xored, substituted, moved_and_substituted])
def test_pairs_give_the_chaining_and_what_was_chained(
    inner: Callable[[Images, int], Images], channels: int
) -> None:
    plain = noise((20 + 4, 20, 22, channels))
    for way in chainings(channels):
        pool = pool_of(chained(inner(plain, 3), is_xor=way.is_xor, step=way.step))
        keys = list(solve_chained(plain[:20], pool.sealed[:20]))
        assert [key.chaining for key in keys] == [way]
        assert np.array_equal(open_images(pool.spec, pool.sealed, keys[0]), plain)
