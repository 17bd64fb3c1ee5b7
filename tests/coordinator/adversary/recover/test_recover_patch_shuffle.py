"""Patches in another order for every image: each is a puzzle by itself, under every key scope."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Knowledge, Tier
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import smooth


@pytest.mark.parametrize("attack", ["jigsaw", "pooled_key_recovery"])
@pytest.mark.parametrize("scope", ["consortium", "image"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_put_together_alone(attack: str, scope: str, channels: int) -> None:
    plain = smooth(4, 56, 56, channels)
    scheme = load(describe("patch_shuffle", (56, 56, channels), 14, scope))
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(SecretKey(bytes(32))).encrypt(plain)))
    knowledge = Knowledge(pool, np.arange(1), np.arange(4))
    guess = ATTACKS[attack].attack(knowledge)
    assert (guess.images == plain).mean() > 0.9 and not guess.idle and guess.key is None
    assert ATTACKS["pooled_key_recovery"].tier_used(knowledge) == Tier.T0


def test_an_image_of_one_colour_tells_nothing() -> None:
    scheme = load(describe("patch_shuffle", (32, 32, 1), 8))
    pool = MemoryPool(scheme.spec, np.full((1, 32, 32, 1), 9, np.uint8))
    guess = ATTACKS["jigsaw"].attack(Knowledge(pool, np.arange(1), np.arange(1)))
    assert guess.idle and "nothing identifiable" in guess.note
