"""Pixel-based encryption: what a pool gives away, and what it does not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.recover.pe import (
    add_colour_costs,
    add_sign_costs,
    colour_signs,
    has_similar_neighbours,
    recover,
    relation_costs,
)
from coordinator.adversary.time_budget import always
from coordinator.adversary.values.group_synchronisation import PERMUTATIONS, grid_edges
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, BoolArray, Images
from crypto.kernels.executors import apply
from crypto.scheme import load
from crypto.symmetry import COLOUR_ORDERS
from tests.support.pictures import coloured_texture, recovered, sealed_pool, share


def pictures(n: int, height: int, width: int, channels: int, seed: int = 0) -> Images:
    """Return smooth fields over the whole range, rather dark, uint8 [n, h, w, c]. Colours differ in part."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, height, width, channels), np.uint8)
    for image in out:
        shared = np.zeros((height, width))
        for s in (2, 6):
            shared = shared + s * gaussian_filter(rng.normal(size=(height, width)), s, mode="nearest")
        for c in range(channels):
            own = gaussian_filter(rng.normal(size=(height, width)), 4, mode="nearest") * 4
            field = shared + (0.8 if c != 1 else 0.2) * own
            image[..., c] = np.clip((115 - 8 * c) + 60 * field / field.std() + rng.normal(0, 1), 0, 255)
    return out


def sealed(
    plain: Images, key: int = 7, shuffle: bool = False, block: int = 4
) -> tuple[MemoryPool, dict[str, AnyArray]]:
    return sealed_pool("pe", plain, block, key, colour_shuffle=shuffle)


def up_to_sign(flips: BoolArray, truth: BoolArray) -> float:
    share = float((flips == truth).mean())
    return max(share, 1 - share)


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [pytest.param(48, 48, 1, marks=pytest.mark.slow), (40, 24, 3), (64, 48, 1)],
)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ten_images_give_every_flip(height: int, width: int, channels: int, seed: int) -> None:
    plain = pictures(12, height, width, channels, seed=seed)
    pool, truth = sealed(plain, seed)
    key = recovered(recover, pool, 10)
    assert key.notes == ()
    assert key.parts["negative"].dtype == bool
    assert up_to_sign(key.parts["negative"], truth["negative"]) == 1.0
    opened = apply(key.table, pool.sealed)
    assert (opened == plain).all() or (255 - opened == plain).all()
    assert opened.mean() <= 127.5  # the darker of the two


@pytest.mark.long
def test_colours_are_put_in_order() -> None:
    plain = pictures(14, 32, 32, 3)
    pool, truth = sealed(plain, shuffle=True)
    key = recovered(recover, pool, 12)
    opened = apply(key.table, pool.sealed)
    fits = [
        (np.abs(candidate[..., list(order)].astype(int) - plain).max() == 0)
        for candidate in (opened, 255 - opened)
        for order in itertools.permutations(range(3))
    ]
    assert sum(fits) == 1
    # The parts are the scheme's own: its table from them undoes the encryption in the same way.
    again = load(pool.spec).algorithm.cipher(key.parts).decrypt(pool.sealed)
    assert (again == opened).all()
    elements = PERMUTATIONS.product[key.parts["order"], PERMUTATIONS.inverse[truth["order"]]]
    # The found order is h·(the true order) for one h, which is the same in every pixel, in either reading.
    other = PERMUTATIONS.product[PERMUTATIONS.inverse[truth["order"]], key.parts["order"]]
    assert len(np.unique(elements)) == 1 or len(np.unique(other)) == 1


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("grain", [1.0, pytest.param(1.5, marks=pytest.mark.slow)])
def test_bright_and_dark_colours_keep_one_sign(shuffle: bool, grain: float) -> None:
    """As in stained tissue: the negative of one colour is nearer to another colour than the colour itself."""
    plain = coloured_texture(14, (200, 90, 150), (30, 45, 35), grain, own=0.25, seed=1)
    pool, _ = sealed(plain, 2, shuffle)
    assert share(apply(recovered(recover, pool, 14).table, pool.sealed), plain, signs=True) == 1.0


@pytest.mark.slow
def test_more_images_tell_more() -> None:
    plain = pictures(60, 32, 32, 3, seed=3)
    shares = []
    for n in (1, 2, 4, 10):
        pool, truth = sealed(plain)
        pools = [np.arange(k * 10, k * 10 + n) for k in range(5)]
        shares.append(
            np.mean(
                [
                    up_to_sign(recovered(recover, pool, p).parts["negative"], truth["negative"])
                    for p in pools
                ]
            )
        )
    assert shares[0] < shares[1] < shares[2] <= shares[3] and shares[3] == 1.0


def test_one_image_gives_what_folding_gives() -> None:
    plain = pictures(1, 32, 32, 1)
    pool, _ = sealed(plain)
    opened = apply(recovered(recover, pool, 1).table, pool.sealed)
    assert (opened == np.minimum(plain, 255 - plain)).all()


def test_a_constant_pool_is_read_as_dark() -> None:
    pool, _ = sealed(np.full((3, 16, 16, 1), 30, np.uint8))
    opened = apply(recovered(recover, pool, 3).table, pool.sealed)
    assert (opened == 30).all()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n", [1, 20])
def test_noise_tells_nothing(n: int, shuffle: bool) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    pool, _ = sealed(noise, shuffle=shuffle)
    assert recover(pool, np.arange(n), always) is None


@pytest.mark.parametrize("shuffle", [False, True])
def test_out_of_time_is_said_and_the_table_still_opens(shuffle: bool) -> None:
    plain = pictures(40, 16, 16, 3)
    pool, _ = sealed(plain, shuffle=shuffle)
    key = recovered(recover, pool, 40, lambda: False)
    assert any(note.startswith("truncated") for note in key.notes)
    opened = apply(key.table, pool.sealed)
    assert (apply(key.table.inverse(), opened) == pool.sealed).all()


def test_the_same_pool_gives_the_same_key() -> None:
    pool, _ = sealed(pictures(4, 24, 24, 3), shuffle=True)
    first, second = (recovered(recover, pool, 4) for _ in range(2))
    for name, part in first.parts.items():
        assert (part == second.parts[name]).all()


def test_only_the_pool_rows_are_used() -> None:
    plain = pictures(8, 24, 24, 1)
    pool, _ = sealed(plain)
    spoiled = MemoryPool(pool.spec, pool.sealed.copy())
    spoiled.sealed[5:] = 77
    first, second = (recovered(recover, p, 5).parts["negative"] for p in (pool, spoiled))
    assert (first == second).all()


# ---- its parts -----------------------------------------------------------------------------------------


def test_signs_of_colours_follow_their_edges() -> None:
    rng = np.random.default_rng(3)
    edges = rng.normal(size=(9, 7, 1, 5)).cumsum(0)
    planes = edges * np.array([1.0, 0.3, -2.0])[:, None] + np.array([90.0, -80.0, 10.0])[:, None]
    assert colour_signs(planes.astype(np.float32)).tolist() == [1, 1, -1]
    assert colour_signs(planes[:, :, :1].astype(np.float32)).tolist() == [1]


def test_costs_are_summed_as_by_hand() -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(0, 256, (2 * 3 * 3, 4), dtype=np.uint8)
    i, j = grid_edges(2, 3, 3, True)
    costs = np.ones((len(i), 2), np.float32)
    add_sign_costs(values, i, j, costs)
    for e in range(len(i)):
        a, b = values[i[e]].astype(float), values[j[e]].astype(float)
        expected = [1 + (np.abs(a - b) ** 0.8).sum(), 1 + (np.abs(255 - a - b) ** 0.8).sum()]
        assert costs[e] == pytest.approx(expected, rel=1e-4)

    pixels, signs = values.reshape(6, 3, 4), rng.choice([-1.0, 1.0], (6, 3)).astype(np.float32)
    i, j = grid_edges(2, 3, 1, False)
    pairs = np.zeros((len(i), 3, 3), np.float32)
    add_colour_costs(pixels, signs, i, j, pairs)
    z = (pixels - 127.5) * signs[..., None]
    relations = relation_costs(pairs)
    for e in range(len(i)):
        for k, order in enumerate(COLOUR_ORDERS):
            expected = sum(np.abs(z[i[e], a] - z[j[e], order[a]]).sum() for a in range(3))
            assert relations[e, k] == pytest.approx(expected, rel=1e-4)


def test_similar_neighbours_tell_pictures_from_noise() -> None:
    i, j = grid_edges(24, 24, 1, False)
    rng = np.random.default_rng(7)
    assert has_similar_neighbours(pictures(2, 24, 24, 1).reshape(2, -1).T, i, j)
    assert not has_similar_neighbours(rng.integers(0, 256, (576, 6), dtype=np.uint8), i, j)
    assert has_similar_neighbours(np.full((576, 2), 9, np.uint8), i, j)
