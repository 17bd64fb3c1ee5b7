"""EtC: what a pool gives away, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.recover.etc import MOST_BLOCKS, recover
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.executors import apply
from crypto.scheme import describe, load
from tests.support.pictures import opened, orbit, sealed_pool, share, smooth


def forever() -> bool:
    return True


def run(pool: MemoryPool, time_left=forever):
    return recover(pool, np.arange(len(pool)), time_left)


@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "block"),
    [
        (1, 64, 64, 3, 8),
        (4, 64, 64, 1, 8),
        (4, 48, 80, 1, 8),
        (3, 80, 48, 3, 8),
        (20, 32, 32, 3, 4),
        (2, 96, 96, 3, 16),
    ],
)
def test_the_key_is_recovered_up_to_the_orbit(n, height, width, channels, block):
    plain = smooth(n, height, width, channels, seed=2)
    pool, truth = sealed_pool("etc", plain, block)
    found = run(pool)
    assert share(opened(pool, found), plain, signs=True) == 1.0
    assert found.notes == () and set(found.parts) == set(truth)
    assert all(found.parts[name].shape == truth[name].shape for name in truth)
    # The parts are the scheme's own: they seal what the table opens.
    algorithm = load(pool.spec).algorithm
    assert (algorithm.cipher(found.parts).encrypt(apply(found.table, pool.sealed)) == pool.sealed).all()


def test_the_key_opens_images_outside_the_rows_seen():
    plain = smooth(12, 64, 64, 3, seed=3)
    pool, _ = sealed_pool("etc", plain, 8)
    found = recover(pool, np.arange(4), forever)
    assert share(opened(pool, found)[4:], plain[4:], signs=True) == 1.0


def test_power_grows_with_the_pool():
    plain = smooth(8, 64, 64, 1, seed=1)
    shares = []
    for n in (1, 3, 8):
        pool, _ = sealed_pool("etc", plain[:n], 8)
        shares.append(share(opened(pool, run(pool)), plain[:n], signs=True))
    assert shares[0] < 0.9 and shares[1] > 0.95 and shares[2] == 1.0


def test_gray_form_from_a_few_images():
    plain = smooth(6, 64, 64, 3, seed=1, gray=3.0)
    pool, truth = sealed_pool("etc", plain, 8, form="gray")
    found = run(pool)
    assert set(found.parts) == set(truth) and found.table.shape == (64, 192, 1)
    guess, wide = opened(pool, found).astype(int), plain.astype(int)
    error = min(np.abs(one - wide).mean() for one in orbit(guess, True, plain.shape))
    # The way through YCbCr is within two gray levels.
    assert error < 1.0


def test_gray_form_of_gray_images_says_that_chroma_is_open():
    pool, _ = sealed_pool("etc", np.repeat(smooth(6, 64, 64, 1, seed=4), 3, 3), 8, form="gray")
    assert "signs and roles of the chroma planes not identifiable" in run(pool).notes


def test_constant_blocks_tell_nothing():
    mosaic = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    pool, _ = sealed_pool("etc", mosaic, 8)
    assert run(pool) is None


def test_noise_gives_no_false_claim():
    plain = smooth(6, 64, 64, 1, seed=5)
    noise = np.random.default_rng(1).integers(0, 256, plain.shape, np.uint8)
    pool = MemoryPool(describe("etc", plain.shape[1:], 8), noise)
    found = run(pool)
    assert sorted(found.parts["K1"]) == list(range(64))
    assert share(opened(pool, found), plain, signs=True) < 0.03


def test_out_of_time_says_so_and_still_opens():
    pool, _ = sealed_pool("etc", smooth(3, 64, 64, 3), 8)
    found = run(pool, lambda: False)
    assert "truncated: out of time" in found.notes
    assert opened(pool, found).shape == pool.sealed.shape


def test_the_same_pool_gives_the_same_key():
    pool, _ = sealed_pool("etc", smooth(2, 64, 64, 3, seed=6), 8)
    first, second = run(pool), run(pool)
    assert all((first.parts[name] == second.parts[name]).all() for name in first.parts)


def test_too_many_blocks_are_not_sought():
    pool = MemoryPool(describe("etc", (57, 56, 1), 1), np.zeros((1, 57, 56, 1), np.uint8))
    assert pool.spec.blocks > MOST_BLOCKS
    found = run(pool)
    assert "not sought" in found.notes[0] and not found.parts
    assert (apply(found.table, pool.sealed) == pool.sealed).all()
