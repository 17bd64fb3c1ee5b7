"""Attacks on NeuraCrypt out of time: they end at the step that they are at, and say so."""

from __future__ import annotations

from itertools import count
from typing import NoReturn

import numpy as np
import pytest

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.recover import token_places
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.encoder_cipher import EncoderNetwork
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import smooth

SIDE, BLOCK, POOL, OPENED = 32, 8, 36, 4
NAMES = ("moment_matching", "known_pairs", "match_tokens")
SCHEME = load(describe("neuracrypt", (SIDE, SIDE, 1), BLOCK, options={"width": 64, "depth": 1}))
PLAIN = smooth(POOL + OPENED, SIDE, SIDE, seed=1)
SEALED = np.asarray(SCHEME.cipher(SecretKey(bytes(range(32)))).encrypt(PLAIN))


def attacked(name: str, seconds: float = 1e6) -> Guess:
    known = (PLAIN[:POOL], SEALED[:POOL])
    public = PLAIN if name == "match_tokens" else smooth(32, SIDE, SIDE, seed=2)
    rows = np.arange(0 if name == "match_tokens" else POOL, POOL + OPENED)  # which matches no less than 16
    pool = MemoryPool(SCHEME.spec, SEALED)
    return ATTACKS[name].attack(
        Knowledge(pool, np.arange(POOL), rows, Budget(seconds), public=public, known=known)
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_time_no_network_is_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise AssertionError("a network was run")

    monkeypatch.setattr(EncoderNetwork, "vectors", fail)
    guess = attacked(name, 0.0)
    assert guess.note.endswith("truncated: out of time") and not guess.idle
    assert np.array_equal(guess.images[-OPENED:], SCHEME.picture(SEALED[POOL:]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_time_that_ends_at_any_step_ends_the_attack_there(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count()
    monkeypatch.setattr(Budget, "time_left", lambda _: next(asked) >= 0)
    complete = attacked(name)
    steps = next(asked)
    assert complete.note.count("truncated") == 0 and steps > 20
    asked, last = count(), int(share * (steps - 1))
    monkeypatch.setattr(Budget, "time_left", lambda _: next(asked) < last)
    guess = attacked(name)
    assert guess.images.shape == complete.images.shape and guess.note.endswith("truncated: out of time")
    assert next(asked) - last <= 20  # components still get their signs, one after the other


def test_places_are_those_of_the_first_start_where_there_is_no_time_for_another() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(40, 16, 8)).astype(np.float32)
    asked = count()
    places = token_places.match_places(tokens, [tokens], np.random.default_rng(1), lambda: next(asked) < 1)
    assert sorted(places) == list(range(16)) and next(asked) == 3


def test_clusters_of_an_interrupted_step_are_those_of_the_step_before() -> None:
    tokens = np.random.default_rng(0).normal(size=(10, 16, 8)).astype(np.float32)
    once, _ = token_places.cluster_tokens(tokens, iter([True] * 10 + [False]).__next__)
    asked = count()
    interrupted, _ = token_places.cluster_tokens(tokens, lambda: next(asked) < 15)
    assert np.array_equal(once, interrupted)
