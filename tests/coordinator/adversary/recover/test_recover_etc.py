"""EtC: what a pool gives away, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Recovered
from coordinator.adversary.recover.etc import MOST_BLOCKS, recover
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.executors import apply
from crypto.scheme import describe, load
from tests.support.pictures import opened, orbit, recovered, sealed_pool, share, smooth


def run(pool: MemoryPool, time_left: TimeLeft = always) -> Recovered:
    return recovered(recover, pool, len(pool), time_left)


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
def test_the_key_is_recovered_up_to_the_orbit(
    n: int, height: int, width: int, channels: int, block: int
) -> None:
    plain = smooth(n, height, width, channels, seed=2)
    pool, truth = sealed_pool("etc", plain, block)
    key = run(pool)
    assert share(opened(pool, key), plain, signs=True) == 1.0
    assert key.notes == () and set(key.parts) == set(truth)
    assert all(key.parts[name].shape == truth[name].shape for name in truth)
    # The parts are the scheme's own: they seal what the table opens.
    algorithm = load(pool.spec).algorithm
    assert (algorithm.cipher(key.parts).encrypt(apply(key.table, pool.sealed)) == pool.sealed).all()


def test_the_key_opens_images_outside_the_pool_rows() -> None:
    plain = smooth(12, 64, 64, 3, seed=3)
    pool, _ = sealed_pool("etc", plain, 8)
    key = recovered(recover, pool, 4)
    assert share(opened(pool, key)[4:], plain[4:], signs=True) == 1.0


def test_power_grows_with_the_pool() -> None:
    plain = smooth(8, 64, 64, 1, seed=1)
    shares = []
    for n in (1, 3, 8):
        pool, _ = sealed_pool("etc", plain[:n], 8)
        shares.append(share(opened(pool, run(pool)), plain[:n], signs=True))
    assert shares[0] < 0.9 and shares[1] > 0.95 and shares[2] == 1.0


def test_gray_form_from_a_few_images() -> None:
    plain = smooth(6, 64, 64, 3, seed=1, gray=3.0)
    pool, truth = sealed_pool("etc", plain, 8, form="gray")
    key = run(pool)
    assert set(key.parts) == set(truth) and key.table.shape == (64, 192, 1)
    guesses = orbit(opened(pool, key), True, plain.shape)
    error = min(np.abs(guess.astype(int) - plain.astype(int)).mean() for guess in guesses)
    # The way through YCbCr is within two gray levels.
    assert error < 1.0


def test_gray_form_of_gray_images_says_that_chroma_is_open() -> None:
    pool, _ = sealed_pool("etc", np.repeat(smooth(6, 64, 64, 1, seed=4), 3, 3), 8, form="gray")
    assert "signs and roles of the chroma planes not identifiable" in run(pool).notes


def test_constant_blocks_tell_nothing() -> None:
    mosaic = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    pool, _ = sealed_pool("etc", mosaic, 8)
    assert recover(pool, np.arange(len(pool)), always) is None


def test_noise_gives_no_false_claim() -> None:
    plain = smooth(6, 64, 64, 1, seed=5)
    noise = np.random.default_rng(1).integers(0, 256, plain.shape, np.uint8)
    pool = MemoryPool(describe("etc", plain.shape[1:], 8), noise)
    key = run(pool)
    assert sorted(key.parts["K1"]) == list(range(64))
    assert share(opened(pool, key), plain, signs=True) < 0.03


def test_out_of_time_says_so_and_still_opens() -> None:
    pool, _ = sealed_pool("etc", smooth(3, 64, 64, 3), 8)
    key = run(pool, lambda: False)
    assert "truncated: out of time" in key.notes
    assert opened(pool, key).shape == pool.sealed.shape


def test_the_same_pool_gives_the_same_key() -> None:
    pool, _ = sealed_pool("etc", smooth(2, 64, 64, 3, seed=6), 8)
    first, second = run(pool), run(pool)
    assert all((first.parts[name] == second.parts[name]).all() for name in first.parts)


def test_too_many_blocks_are_not_sought() -> None:
    pool = MemoryPool(describe("etc", (57, 56, 1), 1), np.zeros((1, 57, 56, 1), np.uint8))
    assert pool.spec.blocks > MOST_BLOCKS
    key = run(pool)
    assert "not sought" in key.notes[0] and not key.parts
    assert (apply(key.table, pool.sealed) == pool.sealed).all()
