"""The matching challenge of NeuraCrypt: ciphertexts name their images, and say when they do not."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.pairs import known_pairs, match_tokens
from coordinator.adversary.recover import token_places
from coordinator.adversary.recover.token_images import by_patch
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import coloured_texture, smooth

KEY = SecretKey(bytes(range(32)))
SIDE, BLOCK, IMAGES = 32, 8, 60


def challenge(plain: Images, candidates: Images, **options: object) -> tuple[Guess, Images]:
    """Seal images in another order, attack with candidates, and return the guess and the images in that order."""
    settings = {"width": 1024, "depth": 1, **options}
    scheme = load(describe("neuracrypt", plain.shape[1:], BLOCK, options=settings))
    shuffled = plain[np.random.default_rng(5).permutation(len(plain))]
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(KEY).encrypt(shuffled)))
    every = np.arange(len(plain))
    return ATTACKS["match_tokens"].attack(Knowledge(pool, every, every, public=candidates)), shuffled


def share_named(guess: Guess, plain: Images) -> float:
    return float((guess.images == plain).all((1, 2, 3)).mean())


def test_every_ciphertext_names_its_image_without_a_pair() -> None:
    plain = smooth(IMAGES, SIDE, SIDE)
    guess, shuffled = challenge(plain, plain)
    assert share_named(guess, shuffled) == 1.0 and not guess.is_uncertain and guess.key is None


def test_candidates_may_hold_other_images() -> None:
    plain = smooth(IMAGES + 20, SIDE, SIDE)
    guess, shuffled = challenge(plain[:IMAGES], plain)
    assert share_named(guess, shuffled) > 0.9


def test_pictures_that_are_alike_at_all_places_are_matched_too() -> None:
    # Textures without a middle: distributions of distances are the same at every place.
    plain = coloured_texture(IMAGES, (150, 100, 140), (40, 45, 35), 3.0, 0.4, 3)
    guess, shuffled = challenge(plain, plain)
    assert share_named(guess, shuffled) == 1.0 and not guess.is_uncertain


def test_so_few_ciphertexts_that_any_matching_fits_are_not_matched() -> None:
    guess, _ = challenge(smooth(15, SIDE, SIDE), smooth(IMAGES, SIDE, SIDE, seed=9))
    assert guess.idle and "from 16" in guess.note
    for seed in range(3):
        wrong, _ = challenge(smooth(16, SIDE, SIDE, seed=seed), smooth(IMAGES, SIDE, SIDE, seed=9))
        assert not wrong.idle and wrong.is_uncertain


def test_images_that_are_not_among_the_candidates_are_not_found() -> None:
    guess, shuffled = challenge(smooth(IMAGES, SIDE, SIDE), smooth(IMAGES, SIDE, SIDE, seed=9))
    assert share_named(guess, shuffled) == 0.0 and guess.is_uncertain


def test_tokens_of_a_place_are_gathered_whatever_their_order() -> None:
    plain = smooth(12, SIDE, SIDE)
    options = {"width": 1024, "depth": 1, "shuffle": False}
    cipher = load(describe("neuracrypt", (SIDE, SIDE, 1), BLOCK, options=options)).cipher(KEY)
    tokens = by_patch(np.asarray(cipher.encrypt(plain)), BLOCK)
    rng = np.random.default_rng(0)
    mixed = np.stack([image[rng.permutation(16)] for image in tokens])
    gathered, centres = token_places.cluster_tokens(mixed, lambda: True)
    assert np.array_equal(token_places.to_clusters(mixed, centres), gathered)
    places = [
        [int(np.flatnonzero((tokens[i] == token).all(1))[0]) for token in gathered[i]] for i in range(12)
    ]
    assert all(order == places[0] for order in places) and sorted(places[0]) == list(range(16))


def test_what_it_lacks_it_says() -> None:
    plain = smooth(4, SIDE, SIDE)
    few, _ = challenge(plain, plain[:2])
    assert few.idle and "plain images" in few.note
    with pytest.raises(CipherwardError, match="cannot be the images"):
        challenge(plain, smooth(8, 16, 16))
    pool = MemoryPool(describe("plain", (SIDE, SIDE, 1), BLOCK), plain)
    guess = match_tokens.attack(Knowledge(pool, np.arange(4), np.arange(4), public=plain))
    assert guess.idle and guess.note == "for neuracrypt only"


def test_pairs_open_no_ciphertext_of_it() -> None:
    plain = smooth(6, SIDE, SIDE)
    scheme = load(describe("neuracrypt", (SIDE, SIDE, 1), BLOCK, options={"width": 16}))
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(KEY).encrypt(plain)))
    known = (plain[3:], pool.sealed[3:])
    guess = known_pairs.attack(Knowledge(pool, np.arange(1), np.arange(3), known=known))
    assert guess.key is None and "no key opens neuracrypt" in guess.note
