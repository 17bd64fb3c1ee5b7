"""Pools and pictures of any size: how much is asked for at once, and how soon a search ends when time is out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.puzzle import assembly as assemble
from coordinator.adversary.puzzle import block_refinement as restate
from coordinator.adversary.puzzle import side_matching as fits
from coordinator.adversary.puzzle import spanning_tree as tree
from coordinator.adversary.puzzle import swap_search as exchange
from coordinator.adversary.puzzle.block_symmetry import walks
from coordinator.adversary.recover import block_pixel_shuffle, moment_matching
from coordinator.adversary.recover import value_shuffle as values
from coordinator.adversary.recover.pooled_key_recovery import RECOVER
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec
from tests.support.pictures import smooth

IMAGES = 100_000


@dataclass
class Endless:
    """A pool of 100,000 rows that repeats a few sealed images, and counts what it is asked for."""

    spec: SchemeSpec
    few: np.ndarray
    most: int = 0
    total: int = 0
    asked: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return IMAGES

    def images(self, rows: np.ndarray) -> np.ndarray:
        self.most, self.total = max(self.most, len(rows)), self.total + len(rows)
        self.asked.update(rows.tolist())
        return self.few[rows % len(self.few)]


def endless(name: str, plain: np.ndarray, block: int) -> Endless:
    scheme = load(describe(name, plain.shape[1:], block))
    return Endless(scheme.spec, scheme.cipher(SecretKey(bytes(range(32)))).encrypt(plain))


#: Of each recovery, the most rows at a time and in all, with pictures of 32×32 in gray.
BOUNDS = {
    "block_pixel_shuffle": (32, 2000 + 3000),
    "value_shuffle": (32, 64 + 1000),
    "etc": (32, 200),
    "block_pixel": (200, 200),
    "le": (5860, 5860),
    "ele": (93_750, 2 * 93_750),  # pictures of 8×8: 12 million nibbles, too
    "pe": (64, 200_000),
}


@pytest.mark.parametrize("name", [name for name in RECOVER if name not in ("le", "ele", "pe")])
def test_a_pool_of_any_size_is_read_in_small_parts(name):
    pool = endless(name, smooth(40, 32, 32, seed=3), 8)
    found = RECOVER[name](pool, np.arange(IMAGES), lambda: True)
    at_once, in_all = BOUNDS[name]
    assert found is not None and 0 < pool.most <= at_once and pool.total <= in_all
    if name != "block_pixel_shuffle":
        assert any(note.startswith(("from ", "block order from ")) for note in found.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["le", "ele", "pe"])
def test_a_pool_of_any_size_is_read_in_small_parts_by_the_slower_ones(name):
    block, side = (4, 8) if name == "ele" else (4, 32)
    pool = endless(name, smooth(200, side, side, seed=3), block)
    RECOVER[name](pool, np.arange(IMAGES), lambda: True)
    at_once, in_all = BOUNDS[name]
    assert 0 < pool.most <= at_once and pool.total <= in_all


def test_moments_are_taken_of_a_pool_of_any_size_in_small_parts():
    plain = smooth(40, 32, 32, seed=3)
    pool = endless("orthogonal", plain, 8)
    knowledge = Knowledge(pool, np.arange(IMAGES), np.arange(4), public=smooth(40, 32, 32, seed=4))
    assert moment_matching.attack(knowledge).key is not None
    assert pool.most <= 32 and pool.total <= 2000 + 4


def test_images_without_texture_are_passed_over_and_not_held():
    plain = np.zeros((40, 32, 32, 1), np.uint8)
    plain[7] = smooth(1, 32, 32)[0]
    pool = endless("block_pixel_shuffle", plain, 8)
    blocks = block_pixel_shuffle.varied_blocks(pool, np.arange(IMAGES))
    assert pool.most == 32 and len(blocks) < 4 * block_pixel_shuffle._PARTS + 16


@pytest.mark.parametrize("module", [block_pixel_shuffle, values])
def test_large_blocks_fill_no_more_memory_than_small_ones(module, monkeypatch):
    pool = endless(module.__name__.rpartition(".")[2], smooth(40, 32, 32), 32)
    monkeypatch.setattr(module, "_HELD", 100 * 32 * 32)
    assert module.varied_blocks(pool, np.arange(IMAGES)).nbytes <= (100 + 32) * 32 * 32


def test_seams_of_a_large_pool_are_a_sample_and_it_says_so():
    pool = endless("block_pixel_shuffle", smooth(40, 16, 16, seed=3), 8)
    found = block_pixel_shuffle.recover(pool, np.arange(IMAGES), lambda: True)
    assert found.notes == ("block order from 2000 of 100000 images",)


# ---- when time is out -------------------------------------------------------------------------------------


class Turns:
    """Goes on for so many questions; afterwards it says no, and counts how often it is still asked."""

    def __init__(self, turns: int) -> None:
        self.left, self.after = turns, 0

    def __call__(self) -> bool:
        self.left -= 1
        self.after += self.left < 0
        return self.left >= 0


def walked(n: int = 2, blocks: int = 9, channels: int = 1) -> np.ndarray:
    sides = np.random.default_rng(0).normal(size=(n, 4, blocks, 4 * channels)).astype(np.float32)
    return walks(sides, channels)


def test_the_search_of_pairs_ends_at_the_strip_where_time_is_out(monkeypatch):
    monkeypatch.setattr(fits, "_STRIP", 36)  # a strip for every side
    every = fits.best_pairs(walked())
    assert len(fits.best_pairs(walked(), Turns(0))) == 0
    turns = Turns(3 * 4)
    some = fits.best_pairs(walked(), turns)
    # Nothing more is begun, and what was found is a part of what is found without a limit.
    assert turns.after <= 2 and 0 < len(some) < len(every)
    assert {tuple(pair) for pair in some.tolist()} <= {tuple(pair) for pair in every.tolist()}


def test_pairs_that_time_did_not_reach_say_nothing(monkeypatch):
    monkeypatch.setattr(fits, "_WEIGHED", 1)
    seen = walked()
    pairs, usual = fits.best_pairs(seen), fits.usual_fits(seen)
    whole, part = fits.weigh(seen, usual, pairs), fits.weigh(seen, usual, pairs, Turns(5))
    assert (part[:5] == whole[:5]).all() and not part[5:].any() and whole[5:].any()


def test_joins_and_states_end_when_time_is_out(monkeypatch):
    monkeypatch.setattr(tree, "_PAIRS", 2)
    seen = walked()
    pairs, usual = fits.best_pairs(seen), fits.usual_fits(seen)
    assert (tree.join(pairs, tree.alone(9), (3, 3), Turns(0)).name == np.arange(9)).all()
    two = tree.join(pairs, tree.alone(9), (3, 3), Turns(1))
    assert (two.name == tree.join(pairs[:2], tree.alone(9), (3, 3)).name).all()
    zero = np.zeros(9, np.int64)
    monkeypatch.setattr(restate, "state_costs", None)  # nothing is priced any more
    states = restate.improve(seen, usual, np.arange(9).reshape(3, 3), zero, zero > 0, zero, Turns(0))
    assert not any(part.any() for part in states)


def test_exchanges_end_in_the_midst_of_a_round(monkeypatch):
    made: list[str] = []
    for name in ("redeal", "swap_pairs", "shift_bands"):
        real = getattr(exchange, name)
        monkeypatch.setattr(exchange, name, lambda *a, n=name, f=real: (made.append(n), f(*a))[1])
    costs = np.random.default_rng(0).normal(size=(2, 16, 16))
    exchange.polish(np.arange(16).reshape(4, 4), *costs, Turns(4))
    assert made == ["redeal", "redeal", "swap_pairs"]


def test_no_picture_of_many_blocks_is_begun_when_time_is_out(monkeypatch):
    monkeypatch.setattr(assemble, "_QUICK", 15)
    costs = np.random.default_rng(0).normal(size=(2, 16, 16))
    grid = assemble.assemble(*costs, (4, 4), lambda: False)
    assert (grid == np.arange(16).reshape(4, 4)).all()
    # A small one is: it takes no time.
    monkeypatch.setattr(assemble, "_QUICK", 16)
    assert (assemble.assemble(*costs, (4, 4), lambda: False) != grid).any()


def test_margins_against_the_sorted_costs():
    costs = np.random.default_rng(0).integers(0, 5, (12, 12)).astype(float)  # many are equal
    expected = np.empty_like(costs)
    for i in range(12):
        for j in range(12):
            rest = [*np.delete(costs[i], j), *np.delete(costs[:, j], i)]
            expected[i, j] = costs[i, j] - min(rest)
    assert (assemble._margins(costs) == expected).all()
