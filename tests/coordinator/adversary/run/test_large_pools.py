"""Pools and pictures of any size: how much is read at once, and how soon a search ends when its time is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.puzzle import (
    assembly,
    block_refinement,
    constrained_tree,
    side_matching,
    spanning_tree,
    swap_search,
)
from coordinator.adversary.puzzle.block_symmetry import sides_to_walks
from coordinator.adversary.recover import block_pixel_shuffle, moment_matching, value_shuffle
from coordinator.adversary.recover.methods import METHODS
from crypto.arrays import AnyArray, Float32Array, Images, Rows
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec
from tests.support.pictures import smooth

IMAGES = 100_000


@dataclass
class CountingPool:
    """A pool of 100,000 rows that repeats a few sealed images, and counts the rows that are read.

    Attributes:
        few: the sealed images.
        most: the most rows that were read at once.
        total: the rows that were read in all.
        asked: the numbers of the rows that were read.
    """

    spec: SchemeSpec
    few: AnyArray
    most: int = 0
    total: int = 0
    asked: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return IMAGES

    def images(self, rows: Rows) -> AnyArray:
        """Return the sealed images of these rows."""
        self.most, self.total = max(self.most, len(rows)), self.total + len(rows)
        self.asked.update(rows.tolist())
        images: AnyArray = self.few[rows % len(self.few)]
        return images


def counting_pool(name: str, plain: Images, block: int) -> CountingPool:
    height, width, channels = plain.shape[1:]
    scheme = load(describe(name, (height, width, channels), block))
    return CountingPool(scheme.spec, scheme.cipher(SecretKey(bytes(range(32)))).encrypt(plain))


#: The most rows that each recovery reads at once and in all, with gray pictures of 32×32.
BOUNDS = {
    "block_pixel_shuffle": (32, 2000 + 3000),
    "value_shuffle": (32, 64 + 1000),
    "etc": (32, 200),
    "block_pixel": (500, 1100),
    "le": (5860, 5860),
    "ele": (93_750, 2 * 93_750),  # with pictures of 8×8, which also hold 12 million nibbles
    "pe": (4_000_000 // 32**2, 200_000),  # four million values
}


@pytest.mark.parametrize(
    "name",
    ["block_pixel_shuffle", "value_shuffle", "etc", pytest.param("block_pixel", marks=pytest.mark.slow)],
)
def test_a_pool_of_any_size_is_read_in_small_parts(name: str) -> None:
    pool = counting_pool(name, smooth(40, 32, 32, seed=3), 8)
    recovered = METHODS[name].recover(pool, np.arange(IMAGES), lambda: True)
    at_once, in_all = BOUNDS[name]
    assert recovered is not None and 0 < pool.most <= at_once and pool.total <= in_all
    if name != "block_pixel_shuffle":
        assert any(note.startswith(("from ", "block order from ")) for note in recovered.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["le", "ele", "pe"])
def test_a_pool_of_any_size_is_read_in_small_parts_by_the_slower_ones(name: str) -> None:
    block, side = (4, 8) if name == "ele" else (4, 32)
    pool = counting_pool(name, smooth(200, side, side, seed=3), block)
    METHODS[name].recover(pool, np.arange(IMAGES), lambda: True)
    at_once, in_all = BOUNDS[name]
    assert 0 < pool.most <= at_once and pool.total <= in_all


def test_moments_of_a_pool_of_any_size_are_read_in_small_parts() -> None:
    plain = smooth(40, 32, 32, seed=3)
    pool = counting_pool("orthogonal", plain, 8)
    knowledge = Knowledge(pool, np.arange(IMAGES), np.arange(4), public=smooth(40, 32, 32, seed=4))
    assert moment_matching.attack(knowledge).key is not None
    assert pool.most <= 32 and pool.total <= 2000 + 4


def test_images_without_texture_are_skipped_and_not_kept() -> None:
    plain = np.zeros((40, 32, 32, 1), np.uint8)
    plain[7] = smooth(1, 32, 32)[0]
    pool = counting_pool("block_pixel_shuffle", plain, 8)
    blocks = block_pixel_shuffle.sample_varied_blocks(pool, np.arange(IMAGES))
    assert pool.most == 32 and len(blocks) < 4 * block_pixel_shuffle.MOST_SUBBLOCKS + 16


@pytest.mark.parametrize("module", [block_pixel_shuffle, value_shuffle])
def test_large_blocks_fill_no_more_memory_than_small_ones(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = counting_pool(module.__name__.rpartition(".")[2], smooth(40, 32, 32), 32)
    monkeypatch.setattr(module, "MOST_HELD_VALUES", 100 * 32 * 32)
    assert module.sample_varied_blocks(pool, np.arange(IMAGES)).nbytes <= (100 + 32) * 32 * 32


def test_seams_of_a_large_pool_are_a_sample_and_the_notes_say_so() -> None:
    pool = counting_pool("block_pixel_shuffle", smooth(40, 16, 16, seed=3), 8)
    recovered = block_pixel_shuffle.recover(pool, np.arange(IMAGES), lambda: True)
    assert recovered is not None and recovered.notes == ("block order from 2000 of 100000 images",)


# ---- when the time is over ------------------------------------------------------------------------------------


class Turns:
    """A `TimeLeft` that holds for a number of calls, and counts the calls after those in `after`."""

    def __init__(self, turns: int) -> None:
        self.left, self.after = turns, 0

    def __call__(self) -> bool:
        self.left -= 1
        self.after += self.left < 0
        return self.left >= 0


def random_walks(n: int = 2, blocks: int = 9, channels: int = 1) -> Float32Array:
    sides = np.random.default_rng(0).normal(size=(n, 4, blocks, 4 * channels)).astype(np.float32)
    return sides_to_walks(sides, channels)


def test_the_search_for_pairs_ends_with_the_strip_in_which_the_time_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(side_matching, "MOST_MOMENTS", 36)  # a strip for every side
    all_pairs = side_matching.best_pairs(random_walks())
    assert len(side_matching.best_pairs(random_walks(), Turns(0))) == 0
    turns = Turns(3 * 4)
    first_pairs = side_matching.best_pairs(random_walks(), turns)
    # Nothing more is started, and the result is a part of the result without a limit.
    assert turns.after <= 2 and 0 < len(first_pairs) < len(all_pairs)
    assert {tuple(pair) for pair in first_pairs.tolist()} <= {tuple(pair) for pair in all_pairs.tolist()}


def test_pairs_that_were_not_reached_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_matching, "MOST_COMPARED", 1)
    sides = random_walks()
    pairs, usual = side_matching.best_pairs(sides), side_matching.typical_likelihoods(sides)
    full, part = (
        side_matching.pair_costs(sides, usual, pairs),
        side_matching.pair_costs(sides, usual, pairs, Turns(5)),
    )
    assert (part[:5] == full[:5]).all() and not part[5:].any() and full[5:].any()


def test_joins_and_states_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spanning_tree, "PAIRS_AT_ONCE", 2)
    sides = random_walks()
    pairs, usual = side_matching.best_pairs(sides), side_matching.typical_likelihoods(sides)
    assert (
        spanning_tree.join_pairs(pairs, spanning_tree.single_blocks(9), (3, 3), Turns(0)).label
        == np.arange(9)
    ).all()
    two = spanning_tree.join_pairs(pairs, spanning_tree.single_blocks(9), (3, 3), Turns(1))
    assert (
        two.label == spanning_tree.join_pairs(pairs[:2], spanning_tree.single_blocks(9), (3, 3)).label
    ).all()
    zero = np.zeros(9, np.int64)
    monkeypatch.setattr(block_refinement, "state_costs", None)  # no state is scored any more
    states = block_refinement.refine_states(
        sides, usual, np.arange(9).reshape(3, 3), zero, zero > 0, zero, Turns(0)
    )
    assert not any(part.any() for part in states)


def test_swaps_end_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            called.append(name)
            return function(*args)

        return call

    for name in ("reassign_cells", "swap_pairs", "shift_bands"):
        monkeypatch.setattr(swap_search, name, recorded(name, getattr(swap_search, name)))
    across, down = np.random.default_rng(0).normal(size=(2, 16, 16))
    swap_search.local_search(np.arange(16).reshape(4, 4), across, down, Turns(4))
    assert called == ["reassign_cells", "reassign_cells", "swap_pairs"]


def test_no_picture_of_many_blocks_is_started_without_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "QUICK_BLOCKS", 15)
    across, down = np.random.default_rng(0).normal(size=(2, 16, 16))
    grid = assembly.assemble(across, down, (4, 4), lambda: False)
    assert (grid == np.arange(16).reshape(4, 4)).all()
    # A small picture is assembled in any case, because it takes no time.
    monkeypatch.setattr(assembly, "QUICK_BLOCKS", 16)
    assert (assembly.assemble(across, down, (4, 4), lambda: False) != grid).any()


def test_margins_against_the_sorted_costs() -> None:
    costs = np.random.default_rng(0).integers(0, 5, (12, 12)).astype(float)  # many are equal
    expected = np.empty_like(costs)
    for i in range(12):
        for j in range(12):
            rest = [*np.delete(costs[i], j), *np.delete(costs[:, j], i)]
            expected[i, j] = costs[i, j] - min(rest)
    assert (constrained_tree.join_margins(costs) == expected).all()
