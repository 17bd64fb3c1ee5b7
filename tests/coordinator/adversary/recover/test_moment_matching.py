"""Moment matching (T2): what public images and a shared linear map give away, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.recover.block_moments import Moments, fits_of, moments
from coordinator.adversary.recover.moment_matching import (
    agreeing_signs,
    attack,
    match,
    nearest_orthogonal,
)
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.cipher import MatrixCipher
from crypto.errors import CipherwardError
from crypto.kernels.blocks import to_blocks
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import key_of


def scans(n: int, side: int = 48, seed: int = 0, channels: int = 1) -> Images:
    """Return bright discs with texture on black, lit from above, uint8 [n, side, side, channels]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    out = np.empty((n, side, side, channels), np.uint8)
    for i in range(n):
        radius, dy, dx = rng.uniform(0.3, 0.45), *rng.uniform(-0.06, 0.06, 2)
        texture = gaussian_filter(rng.normal(size=(side, side)), 1.5)
        inside = (y - dy) ** 2 + (x - dx) ** 2 < radius**2
        for c in range(channels):
            light = (90 + 20 * c) * (1 - 0.9 * y - 0.3 * x) + 160 * texture
            out[i, :, :, c] = np.clip(light * inside + rng.normal(0, 1, inside.shape), 0, 255)
    return out


def case(
    n: int, public: Images | None, seconds: float = 60.0, key_scope: str = "consortium"
) -> tuple[Knowledge, Images]:
    """Return what the attack gets, and the 6 plain images that it is to guess. The pool's rows are `n` others."""
    plain = scans(n + 6, seed=1)
    scheme = load(describe("orthogonal", plain.shape[1:], 8, key_scope))
    sealed = scheme.cipher(SecretKey(bytes([5]) * 32)).encrypt(plain)
    pool = MemoryPool(scheme.spec, sealed)
    return Knowledge(pool, np.arange(n), np.arange(n, n + 6), Budget(seconds), public), plain[n:]


def likeness(guess: Guess, plain: Images) -> float:
    """Return the median SSIM of the guessed images."""
    return float(
        np.median(
            [structural_similarity(a, b, channel_axis=-1) for a, b in zip(guess.images, plain, strict=True)]
        )
    )


@pytest.fixture(scope="module")
def public() -> Images:
    return scans(200, seed=2)


def test_public_images_of_the_same_source_open_orthogonal_blocks(public: Images) -> None:
    knowledge, plain = case(200, public)
    guess = attack(knowledge)
    mean = np.repeat(public.mean(0, keepdims=True).round().astype(np.uint8), 6, axis=0)
    floor = likeness(Guess(mean), plain)
    assert guess.note == "" and guess.images.dtype == np.uint8
    assert likeness(guess, plain) > max(0.8, floor + 0.3)


def test_the_key_is_the_scheme_s_own_part(public: Images) -> None:
    knowledge, _ = case(60, public)
    guess = attack(knowledge)
    matrix = key_of(guess)["matrix"]
    assert matrix.dtype == np.float32 and matrix.shape == (64, 64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-4)
    opened = MatrixCipher(knowledge.pool.spec.image_shape, 8, matrix).decrypt(
        knowledge.pool.images(knowledge.rows)
    )
    assert (opened == guess.images).all()


def test_more_ciphertexts_open_more(public: Images) -> None:
    few, many = (
        likeness(attack(knowledge), plain) for knowledge, plain in (case(2, public), case(200, public))
    )
    assert many > few + 0.05


def test_a_key_from_pictures_of_the_same_source_is_believed(public: Images) -> None:
    guess = attack(case(200, public)[0])
    assert len(guess.fits) == 1 and not guess.is_uncertain


def test_a_key_from_public_noise_opens_nothing_and_is_doubted(public: Images) -> None:
    noise = np.random.default_rng(6).integers(0, 256, public.shape, np.uint8)
    knowledge, plain = case(200, noise)
    guess = attack(knowledge)
    assert likeness(guess, plain) < 0.3
    assert guess.is_uncertain


def test_another_matrix_than_the_key_fits_poorly(public: Images) -> None:
    plain = moments([public], 8)
    wrong = nearest_orthogonal(np.random.default_rng(5).normal(size=(64, 64))).astype(np.float32)
    right = np.eye(64, dtype=np.float32)
    assert fits_of(right, plain, plain)[0].value == pytest.approx(1.0)
    assert fits_of(wrong, plain, plain)[0].is_poor


def test_images_without_diagonal_neighbours_have_no_fit() -> None:
    row = moments([scans(20, side=16)[:, :8]], 8)
    assert fits_of(np.eye(64, dtype=np.float32), row, row) == ()


def test_moments_without_noise_give_the_matrix_exactly() -> None:
    plain = moments([scans(100, seed=3)], 4)
    q = nearest_orthogonal(np.random.default_rng(0).normal(size=(16, 16)))
    turned = [q.T @ part @ q for part in (plain.covariance, plain.right, plain.below, plain.diagonal)]
    np.testing.assert_allclose(match(Moments(plain.means @ q, *turned), plain, lambda: True), q, atol=0.02)


def test_moments_are_those_of_a_loop_and_do_not_depend_on_chunks() -> None:
    images = scans(5, side=12)
    result, chunked = moments([images], 4), moments([images[:2], images[2:]], 4)
    blocks = to_blocks(images, 4).reshape(5, 3, 3, 16).astype(np.float64) - 127.5
    mean = blocks.reshape(-1, 16).mean(0)
    right = [np.outer(b[y, x], b[y, x + 1]) for b in blocks for y in range(3) for x in range(2)]
    below = [np.outer(b[y, x], b[y + 1, x]) for b in blocks for y in range(2) for x in range(3)]
    diagonal = [np.outer(b[y, x], b[y + 1, x + 1]) for b in blocks for y in range(2) for x in range(2)]
    flat = blocks.reshape(-1, 16)
    expected = (
        blocks.mean(0).reshape(9, 16),
        flat.T @ flat / 45 - np.outer(mean, mean),
        np.mean(right, axis=0) - np.outer(mean, mean),
        np.mean(below, axis=0) - np.outer(mean, mean),
        np.mean(diagonal, axis=0) - np.outer(mean, mean),
    )
    names = ("means", "covariance", "right", "below", "diagonal")
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(result, name), value, rtol=1e-4, atol=0.02)
        np.testing.assert_allclose(getattr(chunked, name), value, rtol=1e-4, atol=0.02)


def test_signs_that_agree_are_found_among_noise() -> None:
    rng = np.random.default_rng(4)
    signs = rng.choice([-1.0, 1.0], 40)
    noise = rng.normal(size=(40, 40))
    result = agreeing_signs(np.outer(signs, signs) + noise + noise.T)
    assert (result * result[0] == signs * signs[0]).all()


def test_without_public_images_the_ciphertext_s_picture_comes_back() -> None:
    knowledge, plain = case(10, None)
    guess = attack(knowledge)
    assert guess.note == "needs public images" and guess.key is None
    assert guess.images.shape == plain.shape and likeness(guess, plain) < 0.5


def test_a_key_for_every_image_is_reported_and_not_guessed(public: Images) -> None:
    knowledge, _ = case(10, public, key_scope="image")
    guess = attack(knowledge)
    assert guess.key is None and guess.note == "every image has a key of its own"


def test_noise_gives_no_picture(public: Images) -> None:
    knowledge, plain = case(60, public)
    pool = knowledge.pool
    shape = (len(pool), *pool.spec.image_shape)
    noise = np.random.default_rng(6).normal(127.5, 60, shape).astype(np.float32)
    guess = attack(replace(knowledge, pool=MemoryPool(pool.spec, noise)))
    assert guess.key is not None and likeness(guess, plain) < 0.3


def test_public_images_of_another_shape_are_refused() -> None:
    knowledge, _ = case(10, scans(4, side=24))
    with pytest.raises(CipherwardError, match="cannot be matched"):
        attack(knowledge)


def test_constant_images_identify_nothing(public: Images) -> None:
    pool = MemoryPool(describe("orthogonal", (48, 48, 1), 8), np.full((3, 48, 48, 1), 127.5, np.float32))
    guess = attack(Knowledge(pool, np.arange(3), np.arange(2), public=public))
    assert guess.note == "nothing identifiable" and guess.key is None and guess.idle


def test_out_of_time_it_returns_what_it_has(public: Images) -> None:
    knowledge, _ = case(60, public, seconds=0.0)
    guess = attack(knowledge)
    assert guess.note == "truncated: out of time"
    matrix = key_of(guess)["matrix"]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-4)


def test_the_same_pool_gives_the_same_guess(public: Images) -> None:
    first, second = (attack(case(30, public)[0]) for _ in range(2))
    assert (first.images == second.images).all() and (
        key_of(first)["matrix"] == key_of(second)["matrix"]
    ).all()
