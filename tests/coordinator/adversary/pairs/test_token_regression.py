"""Pictures of NeuraCrypt from known pairs."""

from __future__ import annotations

import numpy as np

from benchmarks.picture_measures import share_named
from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import smooth

KEY = SecretKey(bytes(range(32)))
SIDE, BLOCK, OPENED = 32, 8, 8


def attacked(plain: Images, known: Images, **options: object) -> Guess:
    """Return what known pairs make of the ciphertexts of `plain`; the pairs are of the key of the pool."""
    settings = {"width": 1024, "depth": 1, **options}
    scheme = load(describe("neuracrypt", plain.shape[1:], BLOCK, options=settings))
    cipher = scheme.cipher(KEY)
    sealed = np.asarray(cipher.encrypt(np.concatenate([plain, known])))
    pool = MemoryPool(scheme.spec, sealed[: len(plain)])
    every = np.arange(len(plain))
    pairs = (known, sealed[len(plain) :])
    return ATTACKS["known_pairs"].attack(Knowledge(pool, every, every, known=pairs))


def test_pairs_open_pictures_of_other_ciphertexts() -> None:
    images = smooth(OPENED + 60, SIDE, SIDE, seed=1)
    guess = attacked(images[:OPENED], images[OPENED:])
    gallery = np.concatenate([images[:OPENED], smooth(92, SIDE, SIDE, seed=2)])
    assert share_named(guess.images, gallery) >= 0.75
    assert guess.key is None and not guess.is_uncertain and "60 known pairs" in guess.note


def test_pairs_of_other_images_are_doubted() -> None:
    images = smooth(OPENED + 60, SIDE, SIDE, seed=1)
    settings = {"width": 1024, "depth": 1}
    scheme = load(describe("neuracrypt", images.shape[1:], BLOCK, options=settings))
    sealed = np.asarray(scheme.cipher(KEY).encrypt(images))
    pool = MemoryPool(scheme.spec, sealed[:OPENED])
    every = np.arange(OPENED)
    wrong = (images[OPENED:], np.roll(sealed[OPENED:], 7, 0))
    assert ATTACKS["known_pairs"].attack(Knowledge(pool, every, every, known=wrong)).is_uncertain


def test_a_few_pairs_are_too_few_and_it_says_so() -> None:
    images = smooth(12, SIDE, SIDE)
    guess = attacked(images[:5], images[5:])
    assert guess.idle and guess.key is None and "needs 8 known pairs" in guess.note


def test_an_order_that_stays_is_no_obstacle() -> None:
    images = smooth(OPENED + 60, SIDE, SIDE, seed=1)
    guess = attacked(images[:OPENED], images[OPENED:], shuffle=False)
    assert share_named(guess.images, images) >= 0.75
