"""The weak-seed search: planted seeds are found, real keys are not, and the generators are the libraries' own."""

from __future__ import annotations

import random

import numpy as np
import pytest

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.seeds import brute_force
from coordinator.adversary.seeds.weak_generators import GENERATORS, Generator
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images, Int64Array
from crypto.kernels.executors import apply
from crypto.scheme import describe
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle
from tests.support.pictures import key_of, sealed_pool, smooth


def library_permutations(name: str, seed: int, *sizes: int) -> list[Int64Array]:
    """Return the permutations of these sizes that a library draws in turn from a seed."""
    if name == "random.Random":
        source, out = random.Random(seed), []
        for size in sizes:
            order = list(range(size))
            source.shuffle(order)
            out.append(np.array(order))
        return out
    rng: np.random.RandomState | np.random.Generator
    rng = np.random.default_rng(seed) if name.endswith("default_rng") else np.random.RandomState(seed)
    return [rng.permutation(size) for size in sizes]


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: g.name)
@pytest.mark.parametrize("sizes", [(196, 64), (3136, 4), (2, 1), (5, 900)])
@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 + 7, 2**32 - 2])
def test_generators_are_the_libraries_own(generator: Generator, sizes: tuple[int, int], seed: int) -> None:
    k1, k2 = generator.draws(seed, 2, *sizes)
    for i in range(2):
        first, second = library_permutations(generator.name, seed + i, *sizes)
        assert (k1[i] == first).all() and (k2[i] == second).all()


def weakly_sealed(
    plain: Images, generator: str, seed: int, is_inverted: bool = False, is_anew: bool = False
) -> MemoryPool:
    """Return a pool whose key a re-implementation drew from a seed, in one of the usual ways."""
    spec = describe("block_pixel_shuffle", plain.shape[1:], 8)
    k1, k2 = library_permutations(generator, seed, spec.blocks, 16)
    if is_anew:
        (k2,) = library_permutations(generator, seed, 16)
    if is_inverted:
        k1, k2 = np.argsort(k1), np.argsort(k2)
    return MemoryPool(spec, apply(BlockPixelShuffle(spec).table({"K1": k1, "K2": k2}), plain))


def search(pool: MemoryPool, seeds: range, pool_size: int = 4, budget: float = 60.0) -> Guess:
    return brute_force.search(Knowledge(pool, np.arange(pool_size), np.arange(3), Budget(budget)), seeds)


@pytest.mark.parametrize("generator", [g.name for g in GENERATORS])
@pytest.mark.parametrize(("is_inverted", "is_anew"), [(False, False), (True, False), (True, True)])
def test_a_planted_seed_is_found(generator: str, is_inverted: bool, is_anew: bool) -> None:
    plain = smooth(4, 64, 64)
    pool = weakly_sealed(plain, generator, 1234, is_inverted, is_anew)
    guess = search(pool, range(3000))
    assert guess.note == f"weak seed 1234 of {generator}"
    assert (guess.images == plain[:3]).all()
    assert sorted(key_of(guess)) == ["K1", "K2", "gather"]


def test_one_image_is_enough_and_the_search_repeats() -> None:
    plain = smooth(4, 128, 128, 3)
    pool = weakly_sealed(plain, "random.Random", 77)
    first, again = (search(pool, range(500), pool_size=1) for _ in range(2))
    assert first.note == "weak seed 77 of random.Random"
    assert (first.images == plain[:3]).all()
    assert all((key_of(first)[k] == key_of(again)[k]).all() for k in key_of(first))


def test_our_own_keys_have_no_weak_seed() -> None:
    pool, _ = sealed_pool("block_pixel_shuffle", smooth(4, 64, 64), 8)
    guess = search(pool, range(2000))
    assert guess.key is None and (guess.images == pool.sealed[:3]).all()
    assert guess.note.startswith("no weak seed among the first 2000 of 2000 of each of 3 generators (")
    assert "truncated" not in guess.note


def test_a_seed_outside_the_range_is_not_found() -> None:
    pool = weakly_sealed(smooth(4, 64, 64), "numpy.random.RandomState", 5000)
    assert search(pool, range(2000)).key is None
    assert search(pool, range(4900, 5100)).note == "weak seed 5000 of numpy.random.RandomState"


def test_out_of_time_it_says_how_many_seeds_were_tried() -> None:
    pool = weakly_sealed(smooth(4, 64, 64), "numpy.random.RandomState", 5)
    guess = search(pool, range(2000), budget=0.0)
    assert (
        guess.note
        == "no weak seed among the first 0 of 2000 of each of 3 generators; truncated: out of time"
    )


@pytest.mark.parametrize(
    ("name", "note"), [("noise", "for block_pixel_shuffle only"), ("etc", "for block_pixel_shuffle only")]
)
def test_other_schemes_are_left_sealed(name: str, note: str) -> None:
    pool, _ = sealed_pool(name, smooth(3, 32, 32), 8)
    guess = brute_force.attack(Knowledge(pool, np.arange(3), np.arange(3)))
    assert guess.note == note and guess.key is None and (guess.images == pool.sealed).all()


def test_nothing_is_found_in_noise_or_on_black() -> None:
    spec = describe("block_pixel_shuffle", (64, 64, 1), 8)
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 1), np.uint8)
    found = search(MemoryPool(spec, noise), range(2000))
    assert found.key is None and not found.idle
    black = search(MemoryPool(spec, noise * 0), range(2000))
    assert black.note == "nothing identifiable" and black.idle


def test_thumbnails_against_loops() -> None:
    rng = np.random.default_rng(0)
    costs = rng.random((12, 12)).astype(np.float32)
    costs += costs.T
    orders = np.stack([rng.permutation(12) for _ in range(3)])
    sums = brute_force.thumbnail_costs(costs, orders, 4)
    for order, both in zip(orders, sums, strict=True):
        for thumbnail, total in zip((np.argsort(order), order), both, strict=True):
            grid = thumbnail.reshape(3, 4)
            down = sum(costs[grid[y, x], grid[y + 1, x]] for y in range(2) for x in range(4))
            right = sum(costs[grid[y, x], grid[y, x + 1]] for y in range(3) for x in range(3))
            assert total == pytest.approx(down + right, rel=1e-5)
