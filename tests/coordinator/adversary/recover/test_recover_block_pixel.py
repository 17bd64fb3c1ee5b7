"""Key recovery of block_pixel: what a pool of ciphertexts gives away, and what it does not."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from coordinator.adversary.contract import Recovered
from coordinator.adversary.recover.block_pixel import recover
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.kernels.executors import apply
from crypto.scheme import load
from crypto.spec import SchemeSpec
from tests.support.pictures import coloured_texture, fields, recovered, sealed_pool, share, smooth


def within(limit: int) -> TimeLeft:
    """Return a `TimeLeft` that holds for so many questions."""
    questions = count()
    return lambda: next(questions) < limit


def orbit(images: Images) -> list[Images]:
    """Return the eight symmetries of square images, in either sign."""
    both = [images, 255 - images]
    flipped = both + [i.transpose(0, 2, 1, 3) for i in both]
    return [np.rot90(i, k, (1, 2)) for i in flipped for k in range(4)]


def likeness(result: Recovered, pool: MemoryPool, plain: Images, rows: slice) -> float:
    """Return the mean correlation of opened and plain images, under the best element of the orbit."""
    opened = apply(result.table, pool.sealed[rows])
    target = plain[rows].reshape(len(opened), -1).astype(float)

    def mean(guess: Images) -> float:
        flat = guess.reshape(len(guess), -1).astype(float)
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(flat, target, strict=True)]))

    return max(mean(guess) for guess in orbit(opened))


def assert_is_key(result: Recovered, spec: SchemeSpec) -> None:
    values = spec.block**2 * spec.image_shape[2]
    assert sorted(result.parts["K1"]) == list(range(spec.blocks))
    assert result.parts["K2"].shape == result.parts["mask"].shape == (spec.blocks, values)
    assert (np.sort(result.parts["K2"], 1) == np.arange(values)).all() and result.parts[
        "mask"
    ].dtype == bool
    sealed = np.random.default_rng(1).integers(0, 256, (2, *spec.image_shape), dtype=np.uint8)
    again = load(spec).algorithm.cipher(result.parts).encrypt(apply(result.table, sealed))
    assert (again == sealed).all()


@pytest.fixture(scope="module")
def plain() -> Images:
    return fields(130, 48, 48)


@pytest.fixture(scope="module")
def from_120(plain: Images) -> Recovered:
    """Return the key that 120 images give, which takes seconds."""
    pool, _ = sealed_pool("block_pixel", plain, 8)
    return recovered(recover, pool, 120)


@pytest.mark.long
def test_a_pool_opens_images_outside_it(plain: Images, from_120: Recovered) -> None:
    pool, parts = sealed_pool("block_pixel", plain, 8)
    result = from_120
    assert_is_key(result, pool.spec)
    mask = result.parts["mask"]
    assert max((mask == parts["mask"]).mean(), (mask != parts["mask"]).mean()) > 0.999
    assert likeness(result, pool, plain, slice(120, 130)) > 0.9
    assert result.notes == ()


@pytest.mark.long
def test_more_images_open_more(plain: Images, from_120: Recovered) -> None:
    pool, _ = sealed_pool("block_pixel", plain, 8)
    results = (recovered(recover, pool, 8), from_120)
    few, many = (likeness(result, pool, plain, slice(120, 130)) for result in results)
    assert many > few + 0.1


def test_colour_is_opened_too() -> None:
    plain = fields(90, 32, 32, 3, seed=2)
    pool, _ = sealed_pool("block_pixel", plain, 8)
    result = recovered(recover, pool, 80)
    assert_is_key(result, pool.spec)
    opened = apply(result.table, pool.sealed[80:]).mean(3, keepdims=True).astype(np.uint8)
    target = plain[80:].mean(3).reshape(10, -1)
    best = max(
        np.mean([np.corrcoef(a.ravel(), b)[0, 1] for a, b in zip(guess, target, strict=True)])
        for guess in orbit(opened)
    )
    assert best > 0.8


@pytest.mark.parametrize(("levels", "empty"), [((190, 80, 150), []), ((100, 80, 90), [1])])
@pytest.mark.long
def test_small_blocks_in_colour_are_opened_exactly(levels: tuple[int, ...], empty: list[int]) -> None:
    """Where red is bright and green dark, the negative of one is nearer to the other than the value itself."""
    plain = coloured_texture(130, levels, (30, 45, 35), 1.5, own=0.5, seed=3)[:, :16, :16]
    plain[..., empty] = 0
    pool, _ = sealed_pool("block_pixel", np.ascontiguousarray(plain), 4)
    result = recovered(recover, pool, 120)
    assert_is_key(result, pool.spec)
    assert share(apply(result.table, pool.sealed[120:]), plain[120:], signs=True) > 0.99
    assert not any(fit.is_poor for fit in result.fits)


def test_pictures_that_never_change_identify_nothing() -> None:
    pool, _ = sealed_pool("block_pixel", np.full((20, 16, 16, 1), 90, np.uint8), 4)
    assert recover(pool, np.arange(20), always) is None


def test_a_single_block_in_colour_is_laid_out() -> None:
    pool, _ = sealed_pool("block_pixel", smooth(12, 8, 8, 3), 8)
    assert_is_key(recovered(recover, pool, 12), pool.spec)


def test_one_image_identifies_nothing(plain: Images) -> None:
    pool, _ = sealed_pool("block_pixel", plain[:1], 8)
    assert recover(pool, np.arange(1), always) is None


@pytest.mark.long
def test_noise_opens_nothing() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (30, 24, 24, 1), dtype=np.uint8)
    pool, _ = sealed_pool("block_pixel", noise, 4)
    result = recovered(recover, pool, 25)
    assert_is_key(result, pool.spec)
    assert likeness(result, pool, noise, slice(25, 30)) < 0.2


@pytest.mark.parametrize("limit", [0, 3, 20, 200])
def test_out_of_time_a_whole_key_comes_back(plain: Images, limit: int) -> None:
    pool, _ = sealed_pool("block_pixel", plain[:20], 8)
    result = recovered(recover, pool, 20, within(limit))
    assert_is_key(result, pool.spec)
    assert "truncated: out of time" in result.notes


@pytest.mark.parametrize(
    ("height", "width", "block"), [(8, 8, 8), (8, 32, 8), (12, 20, 4), (6, 9, 3), (6, 8, 2)]
)
def test_any_shape_gives_a_key(height: int, width: int, block: int) -> None:
    plain = fields(12, height, width, seed=5)
    pool, _ = sealed_pool("block_pixel", plain, block)
    assert_is_key(recovered(recover, pool, 12), pool.spec)


def test_the_same_pool_gives_the_same_key(plain: Images) -> None:
    pool, _ = sealed_pool("block_pixel", plain[:20, :24, :24], 8)
    first, second = recovered(recover, pool, 20), recovered(recover, pool, 20)
    for name in first.parts:
        assert (first.parts[name] == second.parts[name]).all()
