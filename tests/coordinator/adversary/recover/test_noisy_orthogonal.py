"""Noise on orthogonal blocks: what moment matching, a Wiener filter and known pairs open nevertheless."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.pairs import chosen_plaintext, known_pairs
from coordinator.adversary.recover.moment_matching import attack
from coordinator.adversary.recover.wiener import WienerFilter
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Float64Array, Images
from crypto.cipher import MatrixCipher
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import key_of

KEY = SecretKey(bytes([5]) * 32)
COUNT = 6


def discs(n: int, seed: int, channels: int = 1) -> Images:
    """Return textured discs on black, lit from above, uint8 [n, 48, 48, channels]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] / 48 - 0.5
    out = np.empty((n, 48, 48, channels), np.uint8)
    for image in out:
        texture = gaussian_filter(rng.normal(size=(48, 48)), 2)
        inside = (y**2 + x**2 < rng.uniform(0.3, 0.45) ** 2).astype(float)
        for c in range(channels):
            light = (100 + 25 * c) * (1 - 0.9 * y - 0.3 * x) + 250 * texture
            image[..., c] = np.clip(light * inside + rng.normal(0, 1, (48, 48)), 0, 255)
    return out


@pytest.fixture(scope="module")
def public() -> Images:
    return discs(200, 2)


def guess_rows(sigma: int, public: Images, n: int = 150) -> tuple[Guess, Images]:
    plain = discs(n + COUNT, 1)
    scheme = load(describe("noisy_orthogonal", (48, 48, 1), 8, options={"sigma": sigma}))
    pool = MemoryPool(scheme.spec, scheme.cipher(KEY).encrypt(plain))
    return attack(Knowledge(pool, np.arange(n), np.arange(n, n + COUNT), public=public)), plain[n:]


def root_mean_square(guess: Images, plain: Images) -> float:
    return float(np.sqrt(((guess.astype(float) - plain) ** 2).mean()))


@pytest.mark.parametrize("sigma", [16, 32])
def test_a_biased_attacker_errs_by_less_than_the_bound_for_unbiased_ones(
    public: Images, sigma: int
) -> None:
    guess, plain = guess_rows(sigma, public)
    assert guess.note == "" and guess.images.dtype == np.uint8
    mean = np.broadcast_to(public.mean(0), plain.shape)
    assert root_mean_square(guess.images, plain) < min(sigma, 0.8 * root_mean_square(mean, plain))


def test_the_matrix_found_under_noise_is_nearly_the_key_s(public: Images) -> None:
    guess, _ = guess_rows(16, public)
    spec = describe("noisy_orthogonal", (48, 48, 1), 8, options={"sigma": 16})
    true = load(spec).parts(KEY)["matrix"]  # the nonce is no part of it
    # The directions in which public images vary most.
    blocks = public.reshape(-1, 6, 8, 6, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64).astype(float)
    axes = np.linalg.eigh(np.cov(blocks.T))[1][:, -6:]
    agreement = np.abs(((axes.T @ key_of(guess)["matrix"]) * (axes.T @ true)).sum(1))
    assert np.median(agreement) > 0.9


def test_much_noise_leaves_no_picture(public: Images) -> None:
    guess, plain = guess_rows(512, public)
    mean = np.broadcast_to(public.mean(0), plain.shape)
    assert root_mean_square(guess.images, plain) > 0.8 * root_mean_square(mean, plain)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_is_the_best_linear_one(channels: int) -> None:
    public, plain = discs(60, 3, channels), discs(8, 4, channels)
    noise = np.random.default_rng(0).normal(0, 40, plain.shape)
    noisy = (plain + noise).astype(np.float32)
    filtered = WienerFilter(public, 40).apply(noisy)
    assert filtered.shape == plain.shape and filtered.dtype == np.uint8
    smoothed = gaussian_filter(noisy, (0, 1.5, 1.5, 0)).clip(0, 255)
    assert root_mean_square(filtered, plain) < root_mean_square(smoothed, plain) < 40
    # Colours that vary together help each other.
    if channels == 3:
        alone = WienerFilter(public[..., :1], 40).apply(noisy[..., :1])
        assert root_mean_square(filtered[..., :1], plain[..., :1]) < root_mean_square(alone, plain[..., :1])


def test_the_filter_takes_images_smaller_than_its_window() -> None:
    public = discs(9, 5)[:, :4, 20:26]
    assert WienerFilter(public, 10).apply(public.astype(np.float32)).shape == public.shape


@pytest.mark.parametrize("chosen", [False, True])
def test_pairs_give_the_matrix(chosen: bool) -> None:
    rng = np.random.default_rng(6)
    plain = rng.integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    scheme = load(describe("noisy_orthogonal", (16, 16, 1), 4, options={"sigma": 16}))
    cipher = scheme.cipher(KEY)
    pool = MemoryPool(scheme.spec, cipher.encrypt(plain))
    row = np.arange(1)
    if chosen:
        guess = chosen_plaintext.attack(Knowledge(pool, row, row, oracle=lambda x: cipher.encrypt(x, 99)))
    else:
        guess = known_pairs.attack(Knowledge(pool, row, row, known=(plain[8:], pool.sealed[8:])))
    agreement: Float64Array = (key_of(guess)["matrix"] * scheme.parts(KEY)["matrix"]).sum(1)
    assert agreement.min() > 0.95 and "noise" in guess.note


def test_every_row_and_sealing_has_noise_of_its_own_over_one_matrix() -> None:
    spec = describe("noisy_orthogonal", (64, 64, 1), 8, options={"sigma": 16})
    again = describe("noisy_orthogonal", (64, 64, 1), 8, options={"sigma": 16})
    scheme = load(spec)
    first, second, other = scheme.parts(KEY, 0), scheme.parts(KEY, 1), load(again).parts(KEY, 0)
    assert np.array_equal(first["matrix"], other["matrix"])
    assert np.array_equal(first["matrix"], second["matrix"])
    noises = [parts["noise"].ravel() for parts in (first, second, other)]
    # 4096 values: standard errors are 1/90 of σ, and 1/64 of a correlation.
    assert all(abs(noise.std() / 16 - 1) < 0.06 and abs(noise.mean()) < 1.3 for noise in noises)
    assert np.abs(np.corrcoef(noises) - np.eye(3)).max() < 0.08
    # Under another sigma nothing is shared: two sealings would not cancel their noise.
    less = load(describe("noisy_orthogonal", (64, 64, 1), 8, options={"sigma": 8})).parts(KEY, 0)
    assert abs(float((less["matrix"] * first["matrix"]).sum())) / 64 < 0.2


def test_every_further_sealing_halves_the_noise_s_variance() -> None:
    plain = discs(1, 7)
    sealed = [
        load(describe("noisy_orthogonal", (48, 48, 1), 8, options={"sigma": 64})).cipher(KEY).encrypt(plain)
        for _ in range(8)
    ]
    clean = load(describe("noisy_orthogonal", (48, 48, 1), 8, options={"sigma": 64}))
    matrix = clean.parts(KEY)["matrix"]
    opened = MatrixCipher((48, 48, 1), 8, matrix).encrypt(plain)
    error = float(np.sqrt(((np.mean(sealed, axis=0) - opened) ** 2).mean()))
    assert math.isclose(error, 64 / math.sqrt(8), rel_tol=0.06)
