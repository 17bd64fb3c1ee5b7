"""Moment matching of NeuraCrypt: pictures from ciphertexts, with public images of the same kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.picture_measures import put_in_place, share_named
from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.recover import token_moments
from coordinator.adversary.recover.toned_patches import TonedPatches
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Float64Array, Images
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.symmetry import EVERY_MOVE
from tests.support.pictures import grainy, smooth

KEY = SecretKey(bytes(range(32)))
SIDE, BLOCK, POOL, OPENED = 32, 8, 300, 8


def attacked(plain: Images, public: Images | None, pool_size: int = POOL, **options: object) -> Guess:
    """Return what moment matching makes of the images that follow the first `pool_size` ones."""
    settings = {"width": 1024, "depth": 1, **options}
    spec = describe("neuracrypt", plain.shape[1:], BLOCK, options=settings)
    scheme = load(
        replace(spec, options={**spec.options, "nonce": "07" * 16})
    )  # a drawn one would order the tokens anew in every run
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(KEY).encrypt(plain)))
    shown = np.arange(pool_size, len(plain))
    return ATTACKS["moment_matching"].attack(Knowledge(pool, np.arange(pool_size), shown, public=public))


def test_ciphertexts_outside_the_pool_open_to_pictures_that_name_their_images() -> None:
    plain, public = grainy(POOL + OPENED, SIDE, SIDE, seed=1), grainy(POOL, SIDE, SIDE, seed=2)
    guess = attacked(plain, public)
    outside = plain[POOL:]
    whole = np.ones(plain.shape[1:], bool)
    opened = put_in_place(guess.images, outside, EVERY_MOVE, BLOCK, whole, alone=False)
    gallery = np.concatenate([outside, public[:92]])
    assert share_named(opened, gallery) >= 0.75
    assert guess.key is None and not guess.is_uncertain and not guess.idle


def test_public_images_that_tell_nothing_leave_it_uncertain() -> None:
    plain = smooth(POOL + OPENED, SIDE, SIDE, seed=1)
    noise = np.random.default_rng(3).integers(0, 256, (POOL, SIDE, SIDE, 1)).astype(np.uint8)
    assert attacked(plain, noise).is_uncertain


def test_the_same_pool_gives_the_same_guess() -> None:
    plain, public = smooth(48, SIDE, SIDE, seed=1), smooth(40, SIDE, SIDE, seed=2)
    first, second = (attacked(plain, public, 40) for _ in range(2))
    assert np.array_equal(first.images, second.images) and first.fits == second.fits


@pytest.mark.parametrize(
    ("side", "pool_size", "public_size", "words"),
    [
        (32, 31, 40, "32 ciphertexts"),
        (32, 40, 31, "as many public images"),
        (16, 40, 40, "needs 8 patches"),
        (32, 40, 0, "public"),
    ],
)
def test_what_it_lacks_it_says(side: int, pool_size: int, public_size: int, words: str) -> None:
    plain, public = smooth(pool_size + 2, side, side), smooth(40, side, side, seed=2)[:public_size]
    guess = attacked(plain, public, pool_size)
    assert guess.idle and words in guess.note and len(guess.images) == 2


def test_too_many_patches_are_not_sought() -> None:
    plain = smooth(20, 66, 66)
    scheme = load(describe("neuracrypt", plain.shape[1:], 2, options={"width": 16, "depth": 1}))
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(KEY).encrypt(plain)))
    rows = np.arange(20)
    pairs = (plain, pool.sealed)
    knowledge = Knowledge(pool, rows, rows[:2], public=smooth(20, 66, 66, seed=2), known=pairs)
    for attack in ("moment_matching", "match_tokens", "known_pairs"):
        guess = ATTACKS[attack].attack(knowledge)
        assert guess.idle and "1089 patches, at most 1024" in guess.note


def test_constant_images_end_in_doubt_and_not_in_an_error() -> None:
    flat = np.full((40, SIDE, SIDE, 1), 90, np.uint8)
    guess = attacked(flat, flat, 32)
    assert guess.images.shape == (8, SIDE, SIDE, 1) and guess.is_uncertain


def test_turns_of_components_are_found_from_cross_covariances() -> None:
    rng = np.random.default_rng(0)
    places, count, images = 12, 3, 4000
    # Factors that neighbouring places share, so that every two places have a cross-covariance.
    factors = rng.gamma(2.0, 1.0, (images, 8))
    mixed = np.einsum("if,nfk->ink", factors, rng.normal(size=(places, 8, count)))
    scores = mixed + 0.3 * rng.normal(size=mixed.shape)
    scores = (scores - scores.mean(0)) / scores.std(0)
    turns = np.linalg.qr(rng.normal(size=(places, count, count)))[0]
    turned = (scores.transpose(1, 0, 2) @ turns).transpose(1, 0, 2)
    halves = turned[: images // 2], scores[images // 2 :]
    found, fit = token_moments.align(*halves, np.random.default_rng(1), lambda: True)
    back = token_moments.turned_scores(halves[0], found)
    correlation = float(np.corrcoef(back.ravel(), scores[: images // 2].ravel())[0, 1])
    assert abs(correlation) > 0.9 and fit > 0.9


def test_patches_are_told_apart_from_the_tone_of_their_image() -> None:
    plain = smooth(6, SIDE, SIDE, 3)
    brighter = (plain // 2 + 60).astype(np.uint8)
    one, other = TonedPatches.of(plain, BLOCK), TonedPatches.of(brighter, BLOCK)
    assert np.abs(one.values - other.values).max() < 0.1
    back: Float64Array = one.values
    assert np.abs(one.images(back).astype(int) - one.images(2 * back).astype(int)).max() == 0
    values = one.images(back).astype(float)
    assert abs(float(np.median(values.mean((1, 2, 3)))) - one.mean) < 3
