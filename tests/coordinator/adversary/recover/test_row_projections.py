"""Moment matching of block projections: places, rotations, the fit, and what it must not claim."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.recover import moment_matching, row_places
from coordinator.adversary.recover.row_projections import rows_of
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.key_share import open_sealed
from parties.scoring.measures import ssims
from tests.support.pictures import smooth

KEY = SecretKey(bytes(range(32)))
SIDE, BLOCK, GUESSED = 48, 8, 8


def heads(n: int, seed: int) -> Images:
    """Return pictures with more of a level and slope to the lower right, uint8 [n, 48, 48, 1]: places differ."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    fields = smooth(n, SIDE, SIDE, seed=seed).astype(float)
    shade = (0.25 + 0.5 * y + 0.25 * x * y)[None, ..., None]
    shaded: Images = (fields * shade).clip(0, 255).astype(np.uint8)
    return shaded


def matched(pool_size: int, **options: Any) -> tuple[Guess, Images, MemoryPool]:
    """Attack a pool sealed under KEY; return the guess, the plain images of its rows, and the pool."""
    plain = heads(GUESSED + pool_size, seed=1)
    scheme = load(describe("block_projection", (SIDE, SIDE, 1), BLOCK, options=options))
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(KEY).encrypt(plain)))
    knowledge = Knowledge(
        pool, GUESSED + np.arange(pool_size), np.arange(GUESSED), public=heads(200, seed=2)
    )
    return moment_matching.attack(knowledge), plain[:GUESSED], pool


def best_ssim(guess: Images, plain: Images) -> float:
    """Return the median SSIM, as it is or mirrored."""
    return max(float(np.median(ssims(pictures, plain))) for pictures in (guess, guess[:, :, ::-1]))


@pytest.mark.parametrize("matrices", ["place", "shared"])
def test_pictures_are_seen_through_a_rotation_for_each_place(matrices: str) -> None:
    guess, plain, pool = matched(100, matrices=matrices, shuffle=False, noise=25)
    sealed = load(pool.spec).picture(pool.sealed[:GUESSED])
    assert best_ssim(guess.images, plain) > 0.5 > best_ssim(sealed, plain) + 0.2
    assert not guess.is_uncertain and "no step has seen" in str(guess.fits[0])


def test_shuffled_blocks_come_back_to_their_places() -> None:
    guess, plain, pool = matched(150, noise=0)
    assert guess.key is not None
    order = load(pool.spec).parts(KEY)["K1"]
    across = SIDE // BLOCK
    mirrored = order // across * across + across - 1 - order % across
    right = max((guess.key["places"] == truth).mean() for truth in (order, mirrored))
    assert right > 0.8 and best_ssim(guess.images, plain) > 0.4


def test_the_key_opens_what_was_guessed() -> None:
    guess, _, pool = matched(60, shuffle=False, noise=0)
    assert guess.key is not None
    assert np.array_equal(open_sealed(guess.key, pool.sealed[:GUESSED], pool.spec), guess.images)


def test_wrong_public_images_are_no_sure_answer() -> None:
    plain = heads(60, seed=1)
    scheme = load(describe("block_projection", (SIDE, SIDE, 1), BLOCK, options={"noise": 0}))
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(KEY).encrypt(plain)))
    noise = np.random.default_rng(0).integers(0, 256, (100, SIDE, SIDE, 1), dtype=np.uint8)
    guess = moment_matching.attack(Knowledge(pool, np.arange(8, 60), np.arange(8), public=noise))
    assert guess.is_uncertain and best_ssim(guess.images, plain[:8]) < 0.4


def test_columns_are_linked_by_their_rows_lengths() -> None:
    plain = heads(80, seed=3)
    spec = load(describe("block_projection", (SIDE, SIDE, 1), BLOCK, options={"noise": 0})).spec
    lengths = np.sqrt((rows_of(plain, spec) ** 2).mean(3))
    shuffle = np.random.default_rng(0).permutation(36)
    chains = row_places.link_columns(row_places.below_costs(lengths[:, shuffle]), (6, 6))
    assert sorted(block for chain in chains for block in chain) == list(range(36))
    links = [(shuffle[a], shuffle[b]) for chain in chains for a, b in itertools.pairwise(chain)]
    assert np.mean([b == a + 6 for a, b in links]) > 0.9 and max(map(len, chains)) <= 6
