"""The attacks on one ciphertext, on a gallery and on weak seeds: what they find, and what they must not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from coordinator.adversary.contract import Attack, Budget, Knowledge
from coordinator.adversary.decode import edge_guided, leading_bit, minimum_difference, reidentify
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.symmetry import COLOUR_ORDERS, colour_orders
from tests.support.pictures import sealed_pool, smooth


def knowledge_of(
    pool: MemoryPool, rows: int, budget: float = 600.0, public: Images | None = None
) -> Knowledge:
    """Return what an attack on the first rows of a pool gets."""
    return Knowledge(pool, np.arange(1), np.arange(rows), Budget(budget), public)


def likeness(first: AnyArray, second: AnyArray) -> float:
    """Return the mean correlation of images with their partners, 0 where one is constant."""
    a, b = (v.reshape(len(v), -1).astype(float) for v in (first, second))
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(norms, 1e-9)).mean())


def rough(n: int, channels: int, seed: int = 0) -> Images:
    """Return noise, uint8 [n, 12, 14, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (n, 12, 14, channels), np.uint8)


# ---- the edge-guided form of the leading bit ------------------------------------------------------------------


def test_edges_are_followed_as_by_hand() -> None:
    # 200 is read as dark, 55. 60 or 195 beside 55: 60. Below 55: 250 or 5, and so on.
    image = np.array([[200, 60, 190], [250, 128, 127]], np.uint8)[None, :, :, None]
    assert edge_guided.follow_edges(image)[0, :, :, 0].tolist() == [[55, 60, 65], [5, 127, 127]]


def test_edges_against_loops() -> None:
    image = rough(2, 3)
    out = np.zeros(image.shape)
    for i, y, x, c in np.ndindex(image.shape):
        value = float(image[i, y, x, c])
        before = [out[i, y, x - 1, c]] * (x > 0) + [out[i, y - 1, x, c]] * (y > 0)
        choices = sorted((value, 255 - value))
        out[i, y, x, c] = min(choices, key=lambda v: sum((v - b) ** 2 for b in before))
    assert (edge_guided.follow_edges(image) == out).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_edges_find_what_the_leading_bit_finds(channels: int) -> None:
    pool, _ = sealed_pool("pe", smooth(3, 32, 32, channels), 4)
    guess = edge_guided.attack(knowledge_of(pool, 3))
    assert guess.key is None
    assert (guess.images == leading_bit.attack(knowledge_of(pool, 3)).images).all()


def test_dark_pictures_are_read_under_a_key_for_every_image() -> None:
    plain = smooth(4, 32, 32) // 2
    spec = describe("pe", (32, 32, 1), 4, "image")
    pool = MemoryPool(spec, load(spec).cipher(SecretKey(bytes(32))).encrypt(plain))
    for attack in (edge_guided.attack, minimum_difference.attack):
        assert (attack(knowledge_of(pool, 4)).images == plain).all()


# ---- the minimum difference -----------------------------------------------------------------------------------


def test_the_minimum_difference_as_by_hand() -> None:
    # Dark values 10 20 30; then 30 10 20 and 250 → 5, 22, 12 in other orders; below the first: 20 30 11.
    row = [[[10, 20, 30], [30, 10, 20]], [[235, 30, 11], [12, 5, 22]]]
    image = np.array(row, np.uint8)
    decoded = minimum_difference.decode(image, COLOUR_ORDERS, False)
    assert decoded.tolist() == [[[10, 20, 30], [10, 20, 30]], [[11, 20, 30], [5, 12, 22]]]


@pytest.mark.parametrize(("channels", "mean"), itertools.product((1, 3), (False, True)))
def test_the_minimum_difference_against_loops(channels: int, mean: bool) -> None:
    """All 6 × 8 states of a pixel, or 2, against the six orders that the attack compares."""
    image = rough(1, channels, seed=channels)[0]
    orders = colour_orders(channels)
    out = np.zeros(image.shape)
    for y, x in np.ndindex(image.shape[:2]):
        if x == y == 0:
            out[0, 0] = np.minimum(image[0, 0], 255 - image[0, 0])
            continue
        near = out[y, x - 1] if y == 0 else out[y - 1, x]
        if mean and x and y:
            near = (out[y - 1, x] + out[y, x - 1]) / 2
        states = [
            np.where(signs, 255.0 - image[y, x, order], image[y, x, order])
            for order in orders
            for signs in itertools.product((False, True), repeat=channels)
        ]
        out[y, x] = min(states, key=lambda s: np.abs(s - near).sum())
    assert (minimum_difference.decode(image, orders, mean) == out).all()


def test_roughness_sums_differences() -> None:
    assert minimum_difference.roughness(np.array([[[0], [5]], [[9], [255]]], np.uint8)) == 5 + 246 + 9 + 250


def test_the_smoother_decoding_is_the_guess() -> None:
    plain = smooth(6, 32, 32, 3, gray=0.2) // 2
    pool, _ = sealed_pool("pe", plain, 4, colour_shuffle=True)
    guess = minimum_difference.attack(knowledge_of(pool, 6))
    assert guess.note.startswith("the mean of two neighbours was better in ") and guess.note.endswith(
        " of 6 images"
    )
    for image, sealed in zip(guess.images, pool.sealed, strict=True):
        both = [minimum_difference.decode(sealed, COLOUR_ORDERS, mean) for mean in (False, True)]
        smoother = min(both, key=minimum_difference.roughness)
        assert any((smoother[..., order] == image).all() for order in COLOUR_ORDERS)
    assert (guess.images == minimum_difference.attack(knowledge_of(pool, 6)).images).all()


def test_colours_that_differ_much_are_put_in_order() -> None:
    plain = smooth(4, 32, 32, 3, gray=1.0).astype(int) // 8
    plain += np.array([80, 45, 10])
    pool, _ = sealed_pool("pe", plain.astype(np.uint8), 4, colour_shuffle=True)
    guess = minimum_difference.attack(knowledge_of(pool, 4))
    right = [
        max((image[..., o] == p).all(-1).mean() for o in COLOUR_ORDERS)
        for image, p in zip(guess.images, plain, strict=True)
    ]
    assert min(right) > 0.95
    assert likeness(pool.sealed, plain) < 0.3


@pytest.mark.parametrize("attack", [edge_guided.attack, minimum_difference.attack])
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_read_from_noise(attack: Attack, channels: int) -> None:
    plain = smooth(20, 32, 32, channels)
    pool, _ = sealed_pool("noise", plain, 4)
    assert abs(likeness(attack(knowledge_of(pool, 20)).images, plain)) < 0.05


def test_out_of_time_images_stay_sealed_and_are_counted() -> None:
    plain = smooth(3, 16, 16, 3)
    pool, _ = sealed_pool("pe", plain, 4, colour_shuffle=True)
    guess = minimum_difference.attack(knowledge_of(pool, 3, budget=0.0))
    assert (guess.images == pool.sealed).all() and "truncated: out of time at image 0 of 3" in guess.note
    pool, _ = sealed_pool("block_pixel", plain, 4)
    guess = reidentify.attack(knowledge_of(pool, 3, 0.0, plain))
    assert (guess.images == pool.sealed).all() and "truncated: out of time in 3 of 3 images" in guess.note


@pytest.mark.parametrize("attack", [edge_guided.attack, minimum_difference.attack, reidentify.attack])
@pytest.mark.parametrize(("name", "options"), [("etc", {"form": "gray"}), ("orthogonal", {}), ("etc", {})])
def test_sealed_images_of_other_shapes_and_kinds_become_pictures(
    attack: Attack, name: str, options: dict[str, Any]
) -> None:
    pool, _ = sealed_pool(name, smooth(2, 16, 16, 3), 8, **options)
    guess = attack(knowledge_of(pool, 2))
    assert guess.images.dtype == np.uint8 and guess.images.shape == (2, 16, 16, 3)


# ---- re-identification ------------------------------------------------------------------------------------------

LINKABLE = [
    ("plain", 1, {}),
    ("block_pixel_shuffle", 1, {}),
    ("block_pixel_shuffle", 3, {}),
    ("value_shuffle", 3, {}),
    ("block_pixel", 3, {}),
    ("pe", 3, {"colour_shuffle": True}),
    ("pe", 1, {}),
    ("le", 3, {"mask": "independent"}),
    ("ele", 3, {}),
    ("etc", 3, {}),
    ("etc", 3, {"form": "gray"}),
    ("orthogonal", 3, {}),
    ("orthogonal", 1, {}),
]


@pytest.mark.parametrize(("name", "channels", "options"), LINKABLE)
@pytest.mark.parametrize("scope", ["consortium", "image"])
def test_every_scheme_is_linked_to_a_gallery(
    name: str, channels: int, options: dict[str, Any], scope: str
) -> None:
    gallery = smooth(60, 24, 24, channels, gray=0.3)
    truth = np.random.default_rng(1).permutation(40)[:12]  # the last 20 stand for strangers
    spec = describe(name, (24, 24, channels), 4, scope, options)
    pool = MemoryPool(spec, load(spec).cipher(SecretKey(bytes([3]) * 32)).encrypt(gallery[truth]))
    found, equals = reidentify.link(spec, pool.images, np.arange(12), gallery)
    assert (found == truth).all() and (equals == 1).all()
    guess = reidentify.attack(knowledge_of(pool, 12, public=gallery))
    assert guess.key is None and guess.note == "12 of 12 linked in a gallery of 60"
    assert (guess.images == gallery[truth]).all()
    strangers = reidentify.attack(knowledge_of(pool, 12, public=gallery[40:]))
    assert strangers.note == "0 of 12 linked in a gallery of 20"
    assert (strangers.images == load(spec).picture(pool.sealed)).all()


def test_noise_is_linked_to_nothing() -> None:
    gallery = smooth(20, 24, 24)
    pool, _ = sealed_pool("noise", gallery, 4)
    guess = reidentify.attack(knowledge_of(pool, 20, public=gallery))
    assert guess.note == "0 of 20 linked in a gallery of 20" and (guess.images == pool.sealed).all()


def test_one_gray_level_in_one_pixel_is_noticed() -> None:
    plain = smooth(2, 24, 24)
    near = plain.copy()
    near[:, 12, 12] = np.where(plain[:, 12, 12] < 128, plain[:, 12, 12] + 1, plain[:, 12, 12] - 1)
    for name in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "pe", "etc", "le", "ele"):
        pool, _ = sealed_pool(name, plain, 4)
        assert (
            reidentify.link(pool.spec, pool.images, np.arange(2), near)[0] == reidentify.NO_MATCH
        ).all(), name


def test_copies_in_the_gallery_are_counted() -> None:
    plain = smooth(3, 24, 24)
    pool, _ = sealed_pool("pe", plain, 4)
    guess = reidentify.attack(knowledge_of(pool, 3, public=plain[[0, 1, 1]]))
    assert guess.note == "2 of 3 linked in a gallery of 3, 1 of them to several images"


def test_a_gallery_is_needed_and_must_fit() -> None:
    pool, _ = sealed_pool("pe", smooth(2, 24, 24), 4)
    guess = reidentify.attack(knowledge_of(pool, 2))
    assert guess.note == "needs a gallery of plain images" and guess.idle
    with pytest.raises(CipherwardError, match="a gallery of"):
        reidentify.attack(knowledge_of(pool, 2, public=smooth(2, 16, 16)))
