"""The jigsaw attack: every ciphertext by itself, under any key scope, and what happens when time runs out."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.contract import Budget, Ciphertexts, Guess, Knowledge, Recovered, Tier
from coordinator.adversary.recover import jigsaw, pooled_key_recovery
from coordinator.adversary.recover.methods import METHODS, Method
from coordinator.adversary.registry import ATTACKS
from coordinator.adversary.time_budget import TimeLeft
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images, Rows
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import share, smooth


def sealed(name: str, plain: Images, scope: str = "consortium", block: int = 8) -> MemoryPool:
    scheme = load(describe(name, plain.shape[1:], block, scope))
    return MemoryPool(scheme.spec, scheme.cipher(SecretKey(bytes([7]) * 32)).encrypt(plain))


def run(pool: MemoryPool, budget: Budget | None = None, pool_size: int = 1) -> Guess:
    knowledge = Knowledge(pool, np.arange(pool_size), np.arange(len(pool)), budget or Budget())
    return jigsaw.attack(knowledge)


@pytest.mark.parametrize("scope", ["consortium", "image"])
def test_a_colour_image_under_etc_is_solved_alone(scope: str) -> None:
    plain = smooth(2, 64, 64, 3, seed=2)
    pool = sealed("etc", plain, scope)
    guess = run(pool)
    assert [share(guess.images[i : i + 1], plain[i : i + 1], signs=True) for i in range(2)] == [1.0, 1.0]
    assert guess.key is None and guess.note == ""


def test_one_image_of_shuffled_blocks_and_pixels() -> None:
    plain = smooth(1, 96, 96, 3, seed=2)
    assert (run(sealed("block_pixel_shuffle", plain, block=16)).images == plain).all()


def test_each_row_from_itself_alone() -> None:
    pool = sealed("etc", smooth(3, 64, 64, 3, seed=2))
    before = run(pool, pool_size=3)
    # The other rows and the rest of the pool are replaced by noise. The guess of the first row does not change.
    noise = np.random.default_rng(0).integers(0, 256, pool.sealed.shape, np.uint8)
    noise[0] = pool.sealed[0]
    assert (run(MemoryPool(pool.spec, noise)).images[0] == before.images[0]).all()
    assert (before.images[0] != pool.sealed[0]).any()


def test_it_is_what_key_recovery_does_where_every_image_has_its_own_key() -> None:
    pool = sealed("etc", smooth(2, 32, 32, 3), "image")
    knowledge = Knowledge(pool, np.arange(1), np.arange(2))
    pooled = pooled_key_recovery.attack(knowledge)
    assert (pooled.images == run(pool).images).all()


def test_rows_that_time_does_not_reach_stay_sealed_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = sealed("etc", smooth(5, 32, 32, 3))
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    tried: list[int] = []
    ends: list[float] = []

    def slow(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered:
        tried.append(int(pool_rows[0]))
        while time_left():
            clock[0] += 1.0
        ends.append(clock[0])
        shape = pool.spec.image_shape
        return Recovered(Table(shape, (8, 8), np.arange(16)[::-1].copy()), {}, ())

    monkeypatch.setitem(METHODS, "etc", Method(slow, is_puzzle=True))
    guess = run(pool, Budget(100.0, started=0.0))
    # The first rows get a quarter of the time left each, the last but one half of it, and the last all of it.
    assert ends[-1] == pytest.approx(100.0, abs=1.0) and ends[:2] == [25.0, 44.0]
    assert tried == [0, 1, 2, 3, 4] and guess.note == "truncated: out of time in 5 of 5 images"

    def takes_all(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered:
        clock[0] += 60.0
        return slow(pool, pool_rows, lambda: False)

    clock[0] = 0.0
    tried.clear()
    monkeypatch.setitem(METHODS, "etc", Method(takes_all, is_puzzle=True))
    guess = run(pool, Budget(100.0, started=0.0))
    assert tried == [0, 1]
    assert guess.note.endswith("truncated: 3 of 5 images not reached and still sealed")
    assert (guess.images[2:] == pool.sealed[2:]).all() and (guess.images[:2] != pool.sealed[:2]).any()


def test_what_is_no_puzzle_says_so() -> None:
    pool = sealed("pe", smooth(2, 32, 32, 3))
    guess = run(pool)
    assert (guess.images == pool.sealed).all() and guess.note.startswith("no puzzle: pe")


def test_black_images_leave_nothing_to_identify() -> None:
    pool = sealed("etc", np.zeros((3, 32, 32, 1), np.uint8))
    guess = run(pool)
    assert guess.note == "3 of 3 images: nothing identifiable" and (guess.images == pool.sealed).all()
    assert guess.idle  # nothing could be tried, so this says nothing about the scheme


def test_it_is_part_of_an_audit_and_needs_one_ciphertext() -> None:
    info = ATTACKS["jigsaw"]
    assert info.tier == Tier.T0 and not info.uses_pool and info.in_suite
