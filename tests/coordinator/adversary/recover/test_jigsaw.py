"""The jigsaw attack: every ciphertext by itself, whatever the key scope, and what time does not reach."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Budget, Guess, Knowledge, Recovered, Tier
from coordinator.adversary.recover import jigsaw, pooled_key_recovery
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import share, smooth


def sealed(name: str, plain: np.ndarray, scope: str = "consortium", block: int = 8) -> MemoryPool:
    scheme = load(describe(name, plain.shape[1:], block, scope))
    return MemoryPool(scheme.spec, scheme.cipher(SecretKey(bytes([7]) * 32)).encrypt(plain))


def run(pool: MemoryPool, budget: Budget | None = None, seen: int = 1) -> Guess:
    knowledge = Knowledge(pool, np.arange(seen), np.arange(len(pool)), budget or Budget())
    return jigsaw.attack(knowledge)


@pytest.mark.parametrize("scope", ["consortium", "image"])
def test_a_colour_image_under_etc_is_solved_alone(scope):
    plain = smooth(2, 64, 64, 3, seed=2)
    pool = sealed("etc", plain, scope)
    guess = run(pool)
    assert [share(guess.images[i : i + 1], plain[i : i + 1], signs=True) for i in range(2)] == [1.0, 1.0]
    assert guess.key is None and guess.note == ""


def test_one_image_of_shuffled_blocks_and_pixels():
    plain = smooth(1, 96, 96, 3, seed=2)
    assert (run(sealed("block_pixel_shuffle", plain, block=16)).images == plain).all()


def test_each_row_from_itself_alone():
    pool = sealed("etc", smooth(3, 64, 64, 3, seed=2))
    whole = run(pool, seen=3)
    # The other rows, and those seen, are replaced by noise: the guess of the first stays as it is.
    noise = np.random.default_rng(0).integers(0, 256, pool.sealed.shape, np.uint8)
    noise[0] = pool.sealed[0]
    assert (run(MemoryPool(pool.spec, noise)).images[0] == whole.images[0]).all()
    assert (whole.images[0] != pool.sealed[0]).any()


def test_it_is_what_key_recovery_does_where_every_image_has_its_own_key():
    pool = sealed("etc", smooth(2, 32, 32, 3), "image")
    knowledge = Knowledge(pool, np.arange(1), np.arange(2))
    pooled = pooled_key_recovery.attack(knowledge)
    assert (pooled.images == run(pool).images).all()


def test_what_time_does_not_reach_stays_sealed_and_is_counted(monkeypatch):
    pool = sealed("etc", smooth(5, 32, 32, 3))
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    asked: list[int] = []
    ends: list[float] = []

    def slow(pool, seen, time_left) -> Recovered:
        asked.append(int(seen[0]))
        while time_left():
            clock[0] += 1.0
        ends.append(clock[0])
        shape = pool.spec.image_shape
        return Recovered(Table(shape, (8, 8), np.arange(16)[::-1].copy()), {}, ())

    monkeypatch.setitem(jigsaw.PUZZLES, "etc", slow)
    guess = run(pool, Budget(100.0, started=0.0))
    # A quarter of what is left for each of the first, but half of it for the last but one, and then all.
    assert ends[-1] == pytest.approx(100.0, abs=1.0) and ends[:2] == [25.0, 44.0]
    assert asked == [0, 1, 2, 3, 4] and guess.note == "truncated: out of time in 5 of 5 images"

    def takes_all(pool, seen, time_left) -> Recovered | None:
        clock[0] += 60.0
        return slow(pool, seen, lambda: False)

    clock[0] = 0.0
    asked.clear()
    monkeypatch.setitem(jigsaw.PUZZLES, "etc", takes_all)
    guess = run(pool, Budget(100.0, started=0.0))
    assert asked == [0, 1]
    assert guess.note.endswith("truncated: 3 of 5 images not reached and still sealed")
    assert (guess.images[2:] == pool.sealed[2:]).all() and (guess.images[:2] != pool.sealed[:2]).any()


def test_what_is_no_puzzle_says_so():
    pool = sealed("pe", smooth(2, 32, 32, 3))
    guess = run(pool)
    assert (guess.images == pool.sealed).all() and guess.note.startswith("no puzzle: pe")


def test_black_images_leave_nothing_to_identify():
    pool = sealed("etc", np.zeros((3, 32, 32, 1), np.uint8))
    guess = run(pool)
    assert guess.note == "3 of 3 images: nothing identifiable" and (guess.images == pool.sealed).all()
    assert guess.idle  # nothing was tried on a picture, so nothing was resisted


def test_it_is_part_of_an_audit_and_needs_one_ciphertext():
    about = ATTACKS["jigsaw"]
    assert about.tier == Tier.T0 and not about.uses_pool and about.in_suite
