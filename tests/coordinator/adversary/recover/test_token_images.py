"""Ciphertexts of NeuraCrypt that hold no tokens: one of them must not end an attack on all others."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.recover.token_images import are_tokens
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import smooth

SIDE, BLOCK, POOL, OPENED = 32, 8, 36, 4
SCHEME = load(describe("neuracrypt", (SIDE, SIDE, 1), BLOCK, options={"width": 64, "depth": 1}))
PLAIN = smooth(POOL + OPENED, SIDE, SIDE, seed=1)
SEALED = np.asarray(SCHEME.cipher(SecretKey(bytes(range(32)))).encrypt(PLAIN))


def attacked(name: str, sealed: AnyArray) -> Guess:
    """Return what an attack makes of these ciphertexts, of which the last ones are to be guessed."""
    pool = MemoryPool(SCHEME.spec, sealed)
    rows = np.arange(0 if name == "match_tokens" else POOL, POOL + OPENED)  # which matches no less than 16
    known = (PLAIN[:POOL], sealed[:POOL])
    public = PLAIN if name == "match_tokens" else smooth(32, SIDE, SIDE, seed=2)
    return ATTACKS[name].attack(Knowledge(pool, np.arange(POOL), rows, public=public, known=known))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e19])
@pytest.mark.parametrize("name", ["moment_matching", "known_pairs"])
def test_a_ciphertext_without_tokens_is_left_out_of_the_pool(name: str, value: float) -> None:
    hostile = SEALED.copy()
    hostile[3, 0, 0, 0] = value
    guess = attacked(name, hostile)
    assert not guess.idle and "1 ciphertext holds no tokens of a network: left out" in guess.note
    others = np.delete(np.arange(POOL), 3)
    if (
        name == "known_pairs"
    ):  # the pool of the other attack is in a random order, of which the rows are a part
        pool = MemoryPool(SCHEME.spec, SEALED)
        known = (PLAIN[others], SEALED[others])
        without = ATTACKS[name].attack(Knowledge(pool, others, np.arange(POOL, POOL + OPENED), known=known))
        assert np.array_equal(guess.images, without.images) and guess.fits == without.fits


@pytest.mark.parametrize("name", ["moment_matching", "known_pairs", "match_tokens"])
def test_a_ciphertext_to_guess_without_tokens_leaves_the_others_as_they_are(name: str) -> None:
    hostile = SEALED.copy()
    hostile[POOL + 1, 5] = np.nan
    guess = attacked(name, hostile)
    assert guess.note.endswith("1 ciphertext to guess holds no tokens of a network")
    if name != "match_tokens":  # whose matching is of all rows together
        assert np.array_equal(np.delete(guess.images, 1, 0), np.delete(attacked(name, SEALED).images, 1, 0))


@pytest.mark.parametrize("name", ["moment_matching", "known_pairs"])
def test_a_pool_without_tokens_is_not_attacked(name: str) -> None:
    hostile = SEALED.copy()
    hostile[: POOL - 4] = np.inf
    guess = attacked(name, hostile)
    assert guess.idle and "32 ciphertexts hold no tokens of a network: left out" in guess.note


@pytest.mark.parametrize("options", [{"width": 2048, "depth": 0}, {"width": 16, "depth": 4}])
def test_tokens_of_the_brightest_and_darkest_images_are_taken_for_tokens(options: dict[str, int]) -> None:
    scheme = load(describe("neuracrypt", (64, 64, 3), 32, options=options))
    images = np.zeros((3, 64, 64, 3), np.uint8)
    images[1], images[2, :32] = 255, 255
    assert are_tokens(np.asarray(scheme.cipher(SecretKey(bytes(32))).encrypt(images))).all()
