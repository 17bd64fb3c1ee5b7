"""Value shuffling: what a pool gives away, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Recovered
from coordinator.adversary.recover.fixed_entries import most_in_place
from coordinator.adversary.recover.value_shuffle import recover
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.executors import apply
from crypto.scheme import describe, load
from tests.support.pictures import is_same_layout, opened, recovered, sealed_pool, share, smooth


def run(pool: MemoryPool, time_left: TimeLeft = always) -> Recovered:
    return recovered(recover, pool, len(pool), time_left)


@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "block"),
    [
        (3, 64, 64, 1, 8),
        (4, 64, 64, 3, 8),
        (4, 48, 80, 1, 8),
        (6, 80, 48, 3, 8),
        (20, 32, 32, 3, 4),
        (3, 96, 96, 1, 16),
        (60, 24, 32, 1, 2),
    ],
)
def test_the_key_is_recovered_up_to_the_orbit(
    n: int, height: int, width: int, channels: int, block: int
) -> None:
    plain = smooth(n, height, width, channels, seed=1)
    pool, truth = sealed_pool("value_shuffle", plain, block)
    key = run(pool)
    assert share(opened(pool, key), plain, signs=False) == 1.0
    assert is_same_layout(key.parts["K2"], truth["K2"], block, channels)
    assert key.notes == ()
    algorithm = load(pool.spec).algorithm
    assert (algorithm.cipher(key.parts).encrypt(apply(key.table, pool.sealed)) == pool.sealed).all()


@pytest.mark.long
def test_one_image_is_enough_where_it_is_textured() -> None:
    plain = smooth(1, 128, 128, 3, seed=2, gray=2.0)
    pool, truth = sealed_pool("value_shuffle", plain, 8)
    key = run(pool)
    assert is_same_layout(key.parts["K2"], truth["K2"], 8, 3)
    assert share(opened(pool, key), plain, signs=False) == 1.0


@pytest.mark.long
@pytest.mark.parametrize(
    ("levels", "contrasts"), [((200, 110, 150), (0.25, 1.0, 0.6)), ((120, 110, 130), (1.0, 1.0, -1.0))]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_planes_that_differ_in_level_and_contrast_are_turned_alike(
    levels: tuple[int, ...], contrasts: tuple[float, ...], seed: int
) -> None:
    """All planes show one field, as stained tissue does, so that equal places do not hold near values."""
    field = smooth(4, 64, 64, 1, seed).astype(np.float32) - 110
    plain = np.clip(np.array(levels) + field * np.array(contrasts), 0, 255).astype(np.uint8)
    pool, truth = sealed_pool("value_shuffle", plain, 8)
    key = run(pool)
    assert is_same_layout(key.parts["K2"], truth["K2"], 8, 3)
    assert share(opened(pool, key), plain, signs=False) == 1.0


@pytest.mark.slow
def test_power_grows_with_the_pool() -> None:
    plain = smooth(40, 16, 16, 3, seed=4)
    right = []
    for n in (1, 40):
        pool, truth = sealed_pool("value_shuffle", plain[:n], 8)
        right.append(is_same_layout(run(pool).parts["K2"], truth["K2"], 8, 3))
    assert right == [False, True]


def test_what_stays_in_place_tells_turn_order_and_frame() -> None:
    plain = smooth(4, 64, 64, 3, seed=5)
    for seed in (1, 2):
        pool, truth = sealed_pool("value_shuffle", plain, 8, seed, fixed_blocks=20, fixed_values=100)
        key = run(pool)
        assert (key.parts["K2"] == truth["K2"]).all() and (key.parts["K1"] == truth["K1"]).all()
        assert (opened(pool, key) == plain).all()


def test_most_in_place_finds_a_shift_and_ignores_what_is_not_fixed() -> None:
    k1 = np.roll(np.arange(20).reshape(4, 5), (1, 2), (0, 1)).ravel()
    place, colour = np.arange(9), np.zeros(9, np.int64)
    found = most_in_place(k1, place, colour, (4, 5), 1, (3, 0))
    assert (found[0] == np.arange(20)).all() and (found[1] == place).all()
    assert (most_in_place(k1, place, colour, (4, 5), 1, (0, 0))[0] == k1).all()


def test_gray_pictures_sent_as_colour_open_too() -> None:
    plain = np.repeat(smooth(4, 64, 64, 1, seed=6), 3, 3)
    pool, _ = sealed_pool("value_shuffle", plain, 8)
    assert share(opened(pool, run(pool)), plain, signs=False) == 1.0


def test_constant_blocks_tell_nothing() -> None:
    mosaic = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8).repeat(8, 1).repeat(8, 2)
    pool, _ = sealed_pool("value_shuffle", mosaic, 8)
    assert recover(pool, np.arange(len(pool)), always) is None


def test_blocks_of_one_pixel() -> None:
    pool, _ = sealed_pool("value_shuffle", smooth(3, 4, 4, 1), 1)
    key = run(pool)
    assert sorted(key.parts["K1"]) == list(range(16)) and key.parts["K2"].tolist() == [0]


def test_noise_gives_no_false_claim() -> None:
    plain = smooth(6, 64, 64, 1, seed=5)
    noise = np.random.default_rng(1).integers(0, 256, plain.shape, np.uint8)
    pool = MemoryPool(describe("value_shuffle", plain.shape[1:], 8), noise)
    assert share(opened(pool, run(pool)), plain, signs=False) < 0.03


def test_out_of_time_says_so_and_still_opens() -> None:
    pool, _ = sealed_pool("value_shuffle", smooth(3, 64, 64, 3), 8)
    key = run(pool, lambda: False)
    assert "truncated: out of time" in key.notes
    assert sorted(key.parts["K2"]) == list(range(192)) and opened(pool, key).shape == pool.sealed.shape


@pytest.mark.long
def test_the_same_pool_gives_the_same_key() -> None:
    pool, _ = sealed_pool("value_shuffle", smooth(2, 32, 32, 3, seed=6), 8)
    first, second = run(pool), run(pool)
    assert all((first.parts[name] == second.parts[name]).all() for name in first.parts)
