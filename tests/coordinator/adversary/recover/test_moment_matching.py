"""Moment matching (T2): what public images and a shared linear map give away, and what they do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.recover.moment_matching import (
    Moments,
    agreeing_signs,
    attack,
    match,
    moments,
    nearest_orthogonal,
)
from crypto.cipher import MatrixCipher
from crypto.errors import CipherwardError
from crypto.kernels.blocks import to_blocks
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec


@dataclass
class Memory:
    """Sealed images held in memory."""

    spec: SchemeSpec
    sealed: np.ndarray

    def __len__(self) -> int:
        return len(self.sealed)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self.sealed[rows]


def scans(n: int, side: int = 48, seed: int = 0, channels: int = 1) -> np.ndarray:
    """uint8 [n, side, side, channels]: a bright disc with texture on black, lit from above, each its own."""
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


def knowledge(
    n: int, public: np.ndarray | None, seconds: float = 60.0, **spec: object
) -> tuple[Knowledge, np.ndarray]:
    """(what the attack gets, the 6 plain images it is to guess); `n` other images are seen."""
    plain = scans(n + 6, seed=1)
    kind = load(describe("orthogonal", plain.shape[1:], 8, **spec))
    sealed = kind.cipher(SecretKey(bytes([5]) * 32)).encrypt(plain)
    pool = Memory(kind.spec, sealed)
    given = Knowledge(pool, np.arange(n), np.arange(n, n + 6), Budget(seconds), public)
    return given, plain[n:]


def likeness(guess: Guess, plain: np.ndarray) -> float:
    return float(
        np.median(
            [structural_similarity(a, b, channel_axis=-1) for a, b in zip(guess.images, plain, strict=True)]
        )
    )


@pytest.fixture(scope="module")
def public() -> np.ndarray:
    return scans(200, seed=2)


def test_public_images_of_the_same_source_open_orthogonal_blocks(public):
    given, plain = knowledge(200, public)
    guess = attack(given)
    mean = np.repeat(public.mean(0, keepdims=True).round().astype(np.uint8), 6, axis=0)
    floor = likeness(Guess(mean), plain)
    assert guess.note == "" and guess.images.dtype == np.uint8
    assert likeness(guess, plain) > max(0.8, floor + 0.3)


def test_the_key_is_the_scheme_s_own_part(public):
    given, _ = knowledge(60, public)
    guess = attack(given)
    assert guess.key is not None
    matrix = guess.key["matrix"]
    assert matrix.dtype == np.float32 and matrix.shape == (64, 64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-4)
    opened = MatrixCipher(given.pool.spec.image_shape, 8, matrix).decrypt(given.pool.images(given.rows))
    assert (opened == guess.images).all()


def test_more_ciphertexts_open_more(public):
    few, many = (
        likeness(attack(given), plain) for given, plain in (knowledge(2, public), knowledge(200, public))
    )
    assert many > few + 0.05


def test_moments_without_noise_give_the_matrix_exactly():
    plain = moments([scans(100, seed=3)], 4)
    q = nearest_orthogonal(np.random.default_rng(0).normal(size=(16, 16)))
    turned = [q.T @ part @ q for part in (plain.covariance, plain.right, plain.below)]
    np.testing.assert_allclose(match(Moments(plain.means @ q, *turned), plain, lambda: True), q, atol=0.02)


def test_moments_are_those_of_a_loop_and_do_not_depend_on_chunks():
    images = scans(5, side=12)
    found, chunked = moments([images], 4), moments([images[:2], images[2:]], 4)
    blocks = to_blocks(images, 4).reshape(5, 3, 3, 16).astype(np.float64) - 127.5
    mean = blocks.reshape(-1, 16).mean(0)
    right = [np.outer(b[y, x], b[y, x + 1]) for b in blocks for y in range(3) for x in range(2)]
    below = [np.outer(b[y, x], b[y + 1, x]) for b in blocks for y in range(2) for x in range(3)]
    flat = blocks.reshape(-1, 16)
    expected = (
        blocks.mean(0).reshape(9, 16),
        flat.T @ flat / 45 - np.outer(mean, mean),
        np.mean(right, axis=0) - np.outer(mean, mean),
        np.mean(below, axis=0) - np.outer(mean, mean),
    )
    for name, value in zip(("means", "covariance", "right", "below"), expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, atol=0.02)
        np.testing.assert_allclose(getattr(chunked, name), value, rtol=1e-4, atol=0.02)


def test_signs_that_agree_are_found_among_noise():
    rng = np.random.default_rng(4)
    signs = rng.choice([-1.0, 1.0], 40)
    noise = rng.normal(size=(40, 40))
    found = agreeing_signs(np.outer(signs, signs) + noise + noise.T)
    assert (found * found[0] == signs * signs[0]).all()


def test_without_public_images_the_ciphertext_s_picture_comes_back():
    given, plain = knowledge(10, None)
    guess = attack(given)
    assert guess.note == "needs public images" and guess.key is None
    assert guess.images.shape == plain.shape and likeness(guess, plain) < 0.5


def test_a_key_for_every_image_is_said_and_not_guessed(public):
    given, _ = knowledge(10, public, key_scope="image")
    guess = attack(given)
    assert guess.key is None and guess.note == "every image has a key of its own"


def test_noise_gives_no_picture(public):
    given, plain = knowledge(60, public)
    noise = np.random.default_rng(6).normal(127.5, 60, given.pool.sealed.shape).astype(np.float32)
    guess = attack(Knowledge(Memory(given.pool.spec, noise), given.pool_rows, given.rows, public=public))
    assert guess.key is not None and likeness(guess, plain) < 0.3


def test_public_images_of_another_shape_are_refused():
    given, _ = knowledge(10, scans(4, side=24))
    with pytest.raises(CipherwardError, match="cannot be matched"):
        attack(given)


def test_constant_images_identify_nothing(public):
    pool = Memory(describe("orthogonal", (48, 48, 1), 8), np.full((3, 48, 48, 1), 127.5, np.float32))
    guess = attack(Knowledge(pool, np.arange(3), np.arange(2), public=public))
    assert guess.note == "nothing identifiable" and guess.key is None


def test_out_of_time_it_hands_back_what_it_has(public):
    given, _ = knowledge(60, public, seconds=0.0)
    guess = attack(given)
    assert guess.note == "truncated: out of time"
    matrix = guess.key["matrix"]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-4)


def test_the_same_pool_gives_the_same_guess(public):
    first, second = (attack(knowledge(30, public)[0]) for _ in range(2))
    assert (first.images == second.images).all() and (first.key["matrix"] == second.key["matrix"]).all()
