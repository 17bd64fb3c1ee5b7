"""Key recovery of block_pixel: what a pool of ciphertexts gives away, its parts against loops, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.contract import Recovered
from coordinator.adversary.puzzle.adjacency import block_distances, order_blocks
from coordinator.adversary.puzzle.grid_layout import grid_kernel, symmetries
from coordinator.adversary.recover.block_pixel import recover
from coordinator.adversary.values.block_layout import (
    beside,
    cost,
    lay_alone,
    leaning,
    nearest,
    swap_beside,
    upright,
)
from coordinator.adversary.values.colour_block_layout import components, lay_values, triples
from coordinator.adversary.values.value_distances import relative_signs, tree_signs, value_distances
from crypto.kernels.blocks import to_blocks
from crypto.kernels.executors import apply
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec


@dataclass
class Memory:
    """Sealed images held in memory."""

    spec: SchemeSpec
    sealed: np.ndarray

    def __len__(self) -> int:
        return len(self.sealed)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self.sealed[rows]


def fields(n: int, height: int, width: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """uint8 [n, h, w, c]: smooth fields, darker towards the border, each its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shade = 1 - 0.5 * np.hypot(y / height - 0.5, x / width - 0.5)
    out = np.empty((n, height, width, channels), np.uint8)
    for i in range(n):
        base = sum(
            scale * gaussian_filter(rng.normal(size=(height, width)), scale) for scale in (1.5, 4.0, 10.0)
        )
        for c in range(channels):
            own = base + (
                2.0 * gaussian_filter(rng.normal(size=(height, width)), 2.0) if channels == 3 else 0
            )
            out[i, :, :, c] = np.clip(shade * (95 + 75 * own / own.std() * 0.6), 0, 255)
    return out


def sealed_pool(plain: np.ndarray, block: int, key: int = 7) -> tuple[Memory, dict[str, np.ndarray]]:
    kind = load(describe("block_pixel", plain.shape[1:], block))
    secret = SecretKey(bytes([key]) * 32)
    return Memory(kind.spec, kind.cipher(secret).encrypt(plain)), kind.parts(secret)


def always() -> bool:
    return True


def within(limit: int) -> Callable[[], bool]:
    """Time that runs out after so many questions."""
    asked = count()
    return lambda: next(asked) < limit


def found(pool: Memory, n: int, time_left: Callable[[], bool] = always) -> Recovered:
    result = recover(pool, np.arange(n), time_left)
    assert result is not None
    return result


def orbit(images: np.ndarray) -> list[np.ndarray]:
    """The eight symmetries of square images, in either sign."""
    both = [images, 255 - images]
    flipped = both + [i.transpose(0, 2, 1, 3) for i in both]
    return [np.rot90(i, k, (1, 2)) for i in flipped for k in range(4)]


def likeness(result: Recovered, pool: Memory, plain: np.ndarray, rows: slice) -> float:
    """Mean correlation of opened with plain images, under the best one element of the orbit."""
    opened = apply(result.table, pool.sealed[rows])
    target = plain[rows].reshape(len(opened), -1).astype(float)

    def mean(guess: np.ndarray) -> float:
        flat = guess.reshape(len(guess), -1).astype(float)
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(flat, target, strict=True)]))

    return max(mean(guess) for guess in orbit(opened))


def assert_a_key(result: Recovered, spec: SchemeSpec) -> None:
    values = spec.block**2 * spec.image_shape[2]
    assert sorted(result.parts["K1"]) == list(range(spec.blocks))
    assert result.parts["K2"].shape == result.parts["mask"].shape == (spec.blocks, values)
    assert (np.sort(result.parts["K2"], 1) == np.arange(values)).all() and result.parts[
        "mask"
    ].dtype == bool
    sealed = np.random.default_rng(1).integers(0, 256, (2, *spec.image_shape), dtype=np.uint8)
    again = load(spec).algorithm.table(result.parts)
    assert (apply(again, apply(result.table, sealed)) == sealed).all()


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return fields(130, 48, 48)


# ---- the whole ----------------------------------------------------------------------------------------


def test_a_pool_opens_images_outside_it(plain):
    pool, parts = sealed_pool(plain, 8)
    result = found(pool, 120)
    assert_a_key(result, pool.spec)
    mask = result.parts["mask"]
    assert max((mask == parts["mask"]).mean(), (mask != parts["mask"]).mean()) > 0.999
    assert likeness(result, pool, plain, slice(120, 130)) > 0.9
    assert result.notes == ()


def test_more_images_open_more(plain):
    pool, _ = sealed_pool(plain, 8)
    few, many = (likeness(found(pool, n), pool, plain, slice(120, 130)) for n in (8, 100))
    assert many > few + 0.1


def test_colour_is_opened_too():
    plain = fields(90, 32, 32, 3, seed=2)
    pool, _ = sealed_pool(plain, 8)
    result = found(pool, 80)
    assert_a_key(result, pool.spec)
    opened = apply(result.table, pool.sealed[80:]).mean(3, keepdims=True).astype(np.uint8)
    target = plain[80:].mean(3).reshape(10, -1)
    best = max(
        np.mean([np.corrcoef(a.ravel(), b)[0, 1] for a, b in zip(guess, target, strict=True)])
        for guess in orbit(opened)
    )
    assert best > 0.8


def test_pictures_that_never_change_identify_nothing():
    pool, _ = sealed_pool(np.full((20, 16, 16, 1), 90, np.uint8), 4)
    assert recover(pool, np.arange(20), always) is None


def test_one_image_identifies_nothing(plain):
    pool, _ = sealed_pool(plain[:1], 8)
    assert recover(pool, np.arange(1), always) is None


def test_noise_opens_nothing():
    noise = np.random.default_rng(3).integers(0, 256, (30, 24, 24, 1), dtype=np.uint8)
    pool, _ = sealed_pool(noise, 4)
    result = found(pool, 25)
    assert_a_key(result, pool.spec)
    assert likeness(result, pool, noise, slice(25, 30)) < 0.2


@pytest.mark.parametrize("limit", [0, 3, 20, 200])
def test_out_of_time_a_whole_key_comes_back(plain, limit):
    pool, _ = sealed_pool(plain[:20], 8)
    result = found(pool, 20, within(limit))
    assert_a_key(result, pool.spec)
    assert "truncated: out of time" in result.notes


@pytest.mark.parametrize(
    ("height", "width", "block"), [(8, 8, 8), (8, 32, 8), (12, 20, 4), (6, 9, 3), (6, 8, 2)]
)
def test_any_shape_gives_a_key(height, width, block):
    plain = fields(12, height, width, seed=5)
    pool, _ = sealed_pool(plain, block)
    assert_a_key(found(pool, 12), pool.spec)


def test_the_same_pool_gives_the_same_key(plain):
    pool, _ = sealed_pool(plain[:20, :24, :24], 8)
    first, second = found(pool, 20), found(pool, 20)
    for name in first.parts:
        assert (first.parts[name] == second.parts[name]).all()


# ---- values of one block ------------------------------------------------------------------------------


def test_value_distances_are_those_of_a_loop():
    values = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    equal, opposite = value_distances(values)
    wide = values.astype(float)
    for k in range(6):
        for other in range(6):
            if k != other:
                assert equal[k, other] == pytest.approx(
                    np.log1p(abs(wide[k] - wide[other])).mean(), rel=1e-5
                )
                both = np.log1p(abs(wide[k] + wide[other] - 255)).mean()
                assert opposite[k, other] == pytest.approx(both, rel=1e-5)


def test_masks_are_found_from_twenty_images(plain):
    rng = np.random.default_rng(1)
    for block in to_blocks(plain[:20], 8)[..., 0].transpose(1, 2, 0)[:8]:  # [V, n]
        flipped = rng.random(64) < 0.5
        signs = relative_signs(*value_distances(np.where(flipped[:, None], 255 - block, block)))
        assert (signs == (flipped ^ flipped[0] ^ signs[0])).all()


def test_signs_follow_the_strongest_tree():
    coupling = np.array([[0, -3, 1, 0], [-3, 0, -2, 0.5], [1, -2, 0, -4], [0, 0.5, -4, 0]], float)
    assert tree_signs(coupling).tolist() == [1, -1, 1, -1]


def test_a_block_alone_is_laid_out_up_to_symmetries():
    rng = np.random.default_rng(2)
    row, column = np.divmod(np.arange(64), 8)
    true = rng.permutation(64)
    away = np.hypot(row[:, None] - row, column[:, None] - column)
    cells = lay_alone((away / (away + 3))[np.ix_(true, true)], 8)
    assert max((turned[cells] == true).mean() for turned in symmetries(8)) == 1.0


def test_colour_values_fall_into_their_components():
    rng = np.random.default_rng(3)
    row, column = np.divmod(np.arange(36), 6)
    away = np.hypot(row[:, None] - row, column[:, None] - column)
    near = np.kron(1 - np.eye(3), np.ones((36, 36))) * 9 + np.tile(away, (3, 3))
    true = rng.permutation(108)
    member, cell = lay_values(near[np.ix_(true, true)], 6)
    assert all(len(set(true[own] // 36)) == 1 for own in member)
    places = np.concatenate([[true[own] % 36 for own in member]])
    assert max((turned[cell] == places).mean() for turned in symmetries(6)) > 0.95


def test_gray_kept_as_colour_falls_into_threes():
    values = np.repeat(np.arange(12) * 10.0, 3)
    distances = abs(values[:, None] - values)
    assert components(distances, 12) is None
    found_threes = triples(distances)
    assert sorted(found_threes.ravel()) == list(range(36))
    assert (np.ptp(values[found_threes], axis=0) == 0).all()


# ---- blocks beside each other --------------------------------------------------------------------------


def test_neighbours_are_nearest_whatever_the_order_inside(plain):
    rng = np.random.default_rng(4)
    blocks = to_blocks(plain[:100], 8)[..., 0].transpose(1, 2, 0)  # [36, 64, n]
    shuffled = np.stack([block[rng.permutation(64)] for block in blocks])
    distances = block_distances(shuffled, 8)
    row, column = np.divmod(np.arange(36), 6)
    touch = abs(row[:, None] - row) + abs(column[:, None] - column) == 1
    near = np.argsort(distances + 9 * np.eye(36), 1)[:, :2]
    assert np.take_along_axis(touch, near, 1).mean() > 0.9
    assert (distances == distances.T).all()


def test_blocks_are_put_in_order_by_their_distances():
    rng = np.random.default_rng(5)
    row, column = np.divmod(np.arange(36), 6)
    away = abs(row[:, None] - row) + abs(column[:, None] - column)
    distances = np.where(away == 1, 1.0, 1.4) + rng.uniform(0, 0.1, (36, 36))
    start = np.arange(36)
    moved = rng.choice(36, 14, replace=False)
    start[moved] = start[rng.permutation(moved)]
    grid = order_blocks((distances + distances.T) / 2, start.reshape(6, 6))
    assert (away[grid[:, 1:], grid[:, :-1]] == 1).all() and (away[grid[1:], grid[:-1]] == 1).all()


def test_nearest_is_the_least_of_a_loop():
    rng = np.random.default_rng(6)
    first, second = (rng.integers(0, 256, (k, 4), dtype=np.uint8) for k in (5, 7))
    for way, other in enumerate((second.astype(float), 255.0 - second)):
        gaps = np.log1p(abs(first[:, None].astype(float) - other)).mean(2).min(1)
        np.testing.assert_allclose(nearest(first, second)[way], gaps, rtol=1e-5)


def test_values_lean_towards_the_neighbour_they_are_like():
    row, column = np.divmod(np.arange(16), 4)
    near = np.stack([row, 3 - column, 3 - row, column]).astype(float) + 1.0  # up, right, down, left
    linear = leaning(near, 4)
    for turned in symmetries(4):
        assert (upright(turned[None], [linear], 4)[0] == np.arange(16)).all()
    lonely = near.copy()
    lonely[1:] = np.nan
    assert np.isfinite(leaning(lonely, 4)).all()


@pytest.mark.parametrize("present", [(0,), (1,), (2,), (3,), (0, 1, 2, 3), ()])
def test_beside_is_the_sum_of_a_loop_over_the_rows_across_the_seams(present):
    side, rng = 4, np.random.default_rng(7)
    canvas = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    own = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    corners = [(0, 4), (4, 8), (8, 4), (4, 0)]  # up, right, down, left of the middle
    faces = [canvas[y : y + 4, x : x + 4] if d in present else None for d, (y, x) in enumerate(corners)]
    apart, where = [], []
    for d in present:
        for y in range(corners[d][0], corners[d][0] + 4):
            for x in range(corners[d][1], corners[d][1] + 4):
                if 2 <= y < 10 and 2 <= x < 10:  # two deep
                    apart.append(np.log1p(abs(own.astype(float) - canvas[y, x])).mean(1))
                    where.append((y - 4, x - 4))
    expected = np.zeros((16, 16))
    for cell in range(16 if present else 0):
        for gap, (y, x) in zip(apart, where, strict=True):
            squared = (cell // 4 - y) ** 2 + (cell % 4 - x) ** 2
            expected[:, cell] += gap / np.median(apart) * np.exp(-squared / 3.0)
    np.testing.assert_allclose(beside(own, faces, side), expected, rtol=1e-4)


def test_swaps_never_raise_the_cost_and_end_where_no_swap_helps():
    rng = np.random.default_rng(8)
    distances = rng.random((9, 9))
    distances = distances + distances.T
    np.fill_diagonal(distances, 0)
    linear, kernel = rng.random((9, 9)), grid_kernel(3, 3)
    start = rng.permutation(9)
    end = swap_beside(distances, kernel, linear, start, 50)
    reached = cost(distances, kernel, linear, end)
    assert sorted(end) == list(range(9)) and reached <= cost(distances, kernel, linear, start)
    for a in range(9):
        for b in range(a):
            other = end.copy()
            other[[a, b]] = other[[b, a]]
            assert cost(distances, kernel, linear, other) >= reached - 1e-9
