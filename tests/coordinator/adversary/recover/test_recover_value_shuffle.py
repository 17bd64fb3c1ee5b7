"""Value shuffling: what a pool gives away, its colours and layout, and what it does not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle.grid_layout import symmetries
from coordinator.adversary.recover.value_shuffle import most_in_place, recover
from coordinator.adversary.values.colour_classes import (
    colour_layout,
    gray_pixels,
    neighbours,
    split_colours,
)
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.executors import apply
from crypto.scheme import describe, load
from tests.support.pictures import opened, sealed_pool, share, smooth


def forever() -> bool:
    return True


def run(pool: MemoryPool, time_left=forever):
    return recover(pool, np.arange(len(pool)), time_left)


def same_layout(k2: np.ndarray, truth: np.ndarray, side: int, channels: int) -> bool:
    """Whether some turn of the block and order of the colours makes them equal."""
    place, colour = np.divmod(k2, channels)
    for turn, order in itertools.product(symmetries(side), itertools.permutations(range(channels))):
        if (turn[place] * channels + np.array(order)[colour] == truth).all():
            return True
    return False


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
def test_the_key_is_recovered_up_to_the_orbit(n, height, width, channels, block):
    plain = smooth(n, height, width, channels, seed=1)
    pool, truth = sealed_pool("value_shuffle", plain, block)
    found = run(pool)
    assert share(opened(pool, found), plain, signs=False) == 1.0
    assert same_layout(found.parts["K2"], truth["K2"], block, channels)
    assert found.notes == ()
    algorithm = load(pool.spec).algorithm
    assert (algorithm.cipher(found.parts).encrypt(apply(found.table, pool.sealed)) == pool.sealed).all()


def test_one_image_is_enough_where_it_is_textured():
    plain = smooth(1, 128, 128, 3, seed=2, gray=2.0)
    pool, truth = sealed_pool("value_shuffle", plain, 8)
    found = run(pool)
    assert same_layout(found.parts["K2"], truth["K2"], 8, 3)
    assert share(opened(pool, found), plain, signs=False) == 1.0


def test_power_grows_with_the_pool():
    plain = smooth(40, 16, 16, 3, seed=4)
    right = []
    for n in (1, 40):
        pool, truth = sealed_pool("value_shuffle", plain[:n], 8)
        right.append(same_layout(run(pool).parts["K2"], truth["K2"], 8, 3))
    assert right == [False, True]


def test_what_stays_in_place_tells_turn_order_and_frame():
    plain = smooth(4, 64, 64, 3, seed=5)
    for key in (1, 2):
        pool, truth = sealed_pool("value_shuffle", plain, 8, key, fixed_blocks=20, fixed_values=100)
        found = run(pool)
        assert (found.parts["K2"] == truth["K2"]).all() and (found.parts["K1"] == truth["K1"]).all()
        assert (opened(pool, found) == plain).all()


def test_most_in_place_finds_a_shift_and_ignores_what_is_not_fixed():
    k1 = np.roll(np.arange(20).reshape(4, 5), (1, 2), (0, 1)).ravel()
    place, colour = np.arange(9), np.zeros(9, np.int64)
    found = most_in_place(k1, place, colour, (4, 5), 1, (3, 0))
    assert (found[0] == np.arange(20)).all() and (found[1] == place).all()
    assert (most_in_place(k1, place, colour, (4, 5), 1, (0, 0))[0] == k1).all()


def test_gray_pictures_sent_as_colour_open_too():
    plain = np.repeat(smooth(4, 64, 64, 1, seed=6), 3, 3)
    pool, _ = sealed_pool("value_shuffle", plain, 8)
    assert share(opened(pool, run(pool)), plain, signs=False) == 1.0


def test_constant_blocks_tell_nothing():
    mosaic = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8).repeat(8, 1).repeat(8, 2)
    pool, _ = sealed_pool("value_shuffle", mosaic, 8)
    assert run(pool) is None


def test_blocks_of_one_pixel():
    pool, _ = sealed_pool("value_shuffle", smooth(3, 4, 4, 1), 1)
    found = run(pool)
    assert sorted(found.parts["K1"]) == list(range(16)) and found.parts["K2"].tolist() == [0]


def test_noise_gives_no_false_claim():
    plain = smooth(6, 64, 64, 1, seed=5)
    noise = np.random.default_rng(1).integers(0, 256, plain.shape, np.uint8)
    pool = MemoryPool(describe("value_shuffle", plain.shape[1:], 8), noise)
    assert share(opened(pool, run(pool)), plain, signs=False) < 0.03


def test_out_of_time_says_so_and_still_opens():
    pool, _ = sealed_pool("value_shuffle", smooth(3, 64, 64, 3), 8)
    found = run(pool, lambda: False)
    assert "truncated: out of time" in found.notes
    assert sorted(found.parts["K2"]) == list(range(192)) and opened(pool, found).shape == pool.sealed.shape


def test_the_same_pool_gives_the_same_key():
    pool, _ = sealed_pool("value_shuffle", smooth(2, 64, 64, 3, seed=6), 8)
    first, second = run(pool), run(pool)
    assert all((first.parts[name] == second.parts[name]).all() for name in first.parts)


# ---- colours --------------------------------------------------------------------------------------


def coloured_distances(side: int, across: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distances, place, colour) of shuffled positions; two colours are `across` further apart than one."""
    rng = np.random.default_rng(seed)
    whole = rng.permutation(side * side * 3)
    place, colour = np.divmod(whole, 3)
    y, x = np.divmod(place, side)
    far = np.hypot(y[:, None] - y, x[:, None] - x)
    values = far / (far + 3) + across * (colour[:, None] != colour) + 0.02 * rng.random(far.shape)
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0.0)
    return values, place, colour


@pytest.mark.parametrize("across", [0.6, 0.3, 0.27])
def test_colours_are_split(across):
    distances, _, colour = coloured_distances(6, across, 1)
    found = split_colours(distances, 3)
    assert len(set(zip(found.tolist(), colour.tolist(), strict=True))) == 3


def test_colours_that_nothing_tells_apart_are_still_balanced():
    values = np.random.default_rng(0).random((48, 48))
    found = split_colours((values + values.T) * (1 - np.eye(48)), 3)
    assert np.bincount(found).tolist() == [16, 16, 16]


@pytest.mark.parametrize("across", [0.4, 0.02])
def test_places_and_colours_are_found_together(across):
    distances, place, colour = coloured_distances(6, across, 2)
    assert (gray_pixels(distances, 3) is not None) == (across < 0.1)
    found = colour_layout(distances, 6, 3)
    assert same_layout(found[0] * 3 + found[1], place * 3 + colour, 6, 3)


def test_neighbours_are_mutual_and_never_oneself():
    distances, _, _ = coloured_distances(4, 0.3, 3)
    near = neighbours(distances, 2)
    assert (near == near.T).all() and not near.diagonal().any() and (near.sum(1) >= 2).all()
    for i in range(len(near)):
        others = np.delete(np.arange(len(near)), i)
        nearest = others[np.argsort(distances[i, others])[:2]]
        assert near[i, nearest].all()
