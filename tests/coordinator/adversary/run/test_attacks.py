"""The attacks as the suite runs them: what they must recover, what they must not, and what must not stop them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from coordinator.adversary.contract import Budget, Guess, Knowledge, Tier
from coordinator.adversary.decode import as_is, leading_bit
from coordinator.adversary.recover import block_pixel_shuffle, pooled_key_recovery
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, Images
from crypto.kernels.blocks import from_blocks
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import describe, load


def pictures(n: int, height: int, width: int, channels: int = 1, seed: int = 0) -> Images:
    """Return smooth fields of three scales with a few sharp-edged discs, uint8 [n, h, w, c]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    out = np.empty((n, height, width, channels), np.uint8)
    for i in range(n):
        field = np.zeros((height, width))
        for scale in (2.0, 6.0, 20.0):
            layer = gaussian_filter(rng.normal(size=(height, width)), scale)
            field += scale**0.5 * layer / layer.std()
        for _ in range(4):
            cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.08, 0.25) * width
            field += rng.uniform(-3, 3) * ((y - cy) ** 2 + (x - cx) ** 2 < r**2)
        field = (field - field.min()) / np.ptp(field)
        for c in range(channels):
            gain = rng.uniform(0.6, 1.0)
            out[i, :, :, c] = np.clip(255 * gain * field + rng.normal(0, 1, field.shape), 0, 255)
    return out


def sealed_pool(
    plain: Images, block: int, scheme: str = "block_pixel_shuffle", key: int = 7
) -> tuple[MemoryPool, Mapping[str, AnyArray]]:
    """Return a pool of sealed images, and the parts of the key of block_pixel_shuffle (none for other schemes)."""
    height, width, channels = plain.shape[1:]
    spec = describe(scheme, (height, width, channels), block)
    secret, kind = SecretKey(bytes([key]) * 32), load(spec)
    parts = kind.parts(secret) if scheme == "block_pixel_shuffle" else {}
    return MemoryPool(spec, kind.cipher(secret).encrypt(plain)), parts


ROWS = 3


def run(pool: MemoryPool, rows: int = ROWS, budget: float = 600.0) -> Guess:
    """Recover the key from the whole pool, and open its first rows."""
    pool_rows = np.arange(len(pool))
    return pooled_key_recovery.attack(Knowledge(pool, pool_rows, pool_rows[:rows], Budget(budget)))


def key_of(guess: Guess) -> Mapping[str, AnyArray]:
    """Return the recovered key of a guess that must have one."""
    assert guess.key is not None
    return guess.key


def assert_well_formed(guess: Guess, pool: MemoryPool) -> None:
    """Check shapes and dtypes, and that the key opens the images of the guess."""
    assert guess.images.dtype == np.uint8
    assert guess.images.shape[1:] == pool.spec.image_shape
    if guess.key is not None:
        assert guess.key["gather"].dtype == np.int32
        for name, size in (("gather", None), ("K1", pool.spec.blocks), ("K2", (pool.spec.block // 2) ** 2)):
            expected = pool.spec.image_shape[0] * pool.spec.image_shape[1] if size is None else size
            assert sorted(guess.key[name]) == list(range(expected))
        table = Table.flat(pool.spec.image_shape, guess.key["gather"])
        assert (apply(table, pool.images(np.arange(len(guess.images)))) == guess.images).all()


# ---- one ciphertext -----------------------------------------------------------------------------------


def test_a_pool_attack_on_one_image_is_an_attack_of_tier_0() -> None:
    pool, _ = sealed_pool(np.zeros((3, 32, 32, 1), np.uint8), 8)
    rows = np.arange(3)
    info = ATTACKS["pooled_key_recovery"]
    assert info.tier_used(Knowledge(pool, rows, rows)) is Tier.T1
    assert info.tier_used(Knowledge(pool, rows[:1], rows)) is Tier.T0
    assert ATTACKS["moment_matching"].tier_used(Knowledge(pool, rows[:1], rows)) is Tier.T2
    own_keys = MemoryPool(describe("le", (32, 32, 1), 8, "image"), pool.sealed)
    assert info.tier_used(Knowledge(own_keys, rows, rows)) is Tier.T0


def test_every_attack_is_described() -> None:
    assert all(name == about.name and about.needs and about.source for name, about in ATTACKS.items())
    assert {name for name, about in ATTACKS.items() if about.uses_pool} == {
        "pooled_key_recovery",
        "moment_matching",
        "gan",
        "sia_gan",
        "learned_stem",
        "weights",
    }


def test_as_is_returns_the_ciphertext() -> None:
    pool, _ = sealed_pool(pictures(3, 16, 16), 8)
    guess = as_is.attack(Knowledge(pool, np.arange(3), np.array([2, 0])))
    assert guess.key is None
    assert (guess.images == pool.sealed[[2, 0]]).all()


def test_leading_bit_folds_the_bright_half() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    pool = MemoryPool(describe("plain", (16, 16, 1), 8), values)
    guess = leading_bit.attack(Knowledge(pool, np.array([0]), np.array([0])))
    expected = [v if v <= 127 else 255 - v for v in range(256)]
    assert guess.images.ravel().tolist() == expected


# ---- the key of block_pixel_shuffle ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "block"),
    [
        (8, 64, 64, 1, 8),
        (3, 224, 224, 1, 16),
        (6, 96, 48, 3, 8),
        (8, 40, 72, 1, 4),
        (6, 96, 120, 1, 12),
        (8, 128, 96, 1, 32),
        (60, 16, 20, 1, 2),
    ],
)
def test_the_key_is_recovered_exactly(n: int, height: int, width: int, channels: int, block: int) -> None:
    plain = pictures(n, height, width, channels)
    pool, truth = sealed_pool(plain, block)
    guess = run(pool)
    assert_well_formed(guess, pool)
    assert (key_of(guess)["K2"] == truth["K2"]).all()
    assert (key_of(guess)["K1"] == truth["K1"]).all()
    assert (guess.images == plain[:3]).all()
    opened = apply(Table.flat(pool.spec.image_shape, key_of(guess)["gather"]), pool.images(np.arange(n)))
    assert (opened == plain).all()
    assert guess.note == ""


def test_one_image_is_enough_where_it_is_textured() -> None:
    plain = pictures(1, 128, 128, seed=3)
    pool, truth = sealed_pool(plain, 16)
    guess = run(pool, rows=1)
    assert (key_of(guess)["K2"] == truth["K2"]).all() and (guess.images == plain).all()


def test_the_key_opens_images_outside_the_pool_rows() -> None:
    plain = pictures(12, 64, 64)
    pool, _ = sealed_pool(plain, 8)
    guess = pooled_key_recovery.attack(Knowledge(pool, np.arange(8), np.array([11, 9])))
    assert (guess.images == plain[[11, 9]]).all()


def test_black_borders_do_not_move_the_picture() -> None:
    plain = pictures(40, 64, 64)
    rng = np.random.default_rng(0)
    for image in plain:  # black except for an ellipse that sometimes touches the border
        y, x = np.mgrid[:64, :64]
        half = rng.uniform(0.36, 0.54, 2) * 64
        centre = 31.5 + rng.uniform(-4, 4, 2)
        image[((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 > 1] = 0
    pool, truth = sealed_pool(plain, 8)
    guess = run(pool)
    assert (key_of(guess)["K2"] == truth["K2"]).all()
    varied = plain.reshape(40, 8, 8, 8, 8).max((0, 2, 4)).ravel() > 0  # by plain block
    assert (key_of(guess)["K1"] == truth["K1"])[varied[truth["K1"]]].all()


def test_a_guess_can_be_repeated() -> None:
    pool, _ = sealed_pool(pictures(4, 64, 64), 8)
    first, again = run(pool), run(pool)
    assert all((key_of(first)[name] == key_of(again)[name]).all() for name in key_of(first))


def test_two_keys_in_one_pool_are_not_recovered() -> None:
    plain = pictures(8, 64, 64)
    (pool, truth), (other, _) = sealed_pool(plain, 8, key=1), sealed_pool(plain, 8, key=2)
    mixed = MemoryPool(pool.spec, np.concatenate([pool.sealed[:4], other.sealed[4:]]))
    assert (key_of(run(mixed))["K1"] == truth["K1"]).mean() < 0.5


# ---- the controls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "block"), [(64, 64, 8), (96, 64, 16), (45, 60, 5)])
def test_plain_gives_the_identity(height: int, width: int, block: int) -> None:
    plain = pictures(6, height, width)
    pool, _ = sealed_pool(plain, block, "plain")
    guess = run(pool)
    assert_well_formed(guess, pool)
    assert (key_of(guess)["K2"] == np.arange((block // 2) ** 2)).all()
    grid = np.arange(pool.spec.blocks).reshape(pool.spec.grid)
    shifts = itertools.product(range(grid.shape[0]), range(grid.shape[1]))
    recovered = np.argsort(key_of(guess)["K1"])
    assert any((np.roll(grid, shift, (0, 1)).ravel() == recovered).all() for shift in shifts)


def test_noise_gives_nothing() -> None:
    plain = pictures(30, 64, 64)
    pool, _ = sealed_pool(plain, 8, "noise")
    guess = run(pool, rows=30)
    assert_well_formed(guess, pool)
    likeness = [
        abs(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])
        for a, b in zip(guess.images, plain, strict=True)
    ]
    assert np.mean(likeness) < 0.05  # 1/64 by chance, for 4096 pixels
    assert (key_of(guess)["K1"] == np.arange(64)).mean() < 0.15


def test_images_shuffled_under_keys_of_their_own_give_nothing() -> None:
    plain = pictures(8, 64, 64)
    rng = np.random.default_rng(1)
    sealed = np.stack([rng.permutation(image.reshape(-1)).reshape(64, 64, 1) for image in plain])
    guess = run(MemoryPool(describe("block_pixel_shuffle", (64, 64, 1), 8), sealed), rows=8)
    likeness = np.corrcoef(guess.images.reshape(8, -1), plain.reshape(8, -1))[:8, 8:]
    assert np.abs(np.diag(likeness)).mean() < 0.1


# ---- what must not stop it --------------------------------------------------------------------------------


def test_black_images_and_constant_blocks_leave_nothing_to_identify() -> None:
    black = np.zeros((4, 32, 32, 1), np.uint8)
    tiles = np.random.default_rng(0).integers(0, 256, (4, 16, 1, 1), np.uint8)
    for plain in (black, from_blocks(np.tile(tiles, (1, 1, 64, 1)), 32, 32)):
        pool, _ = sealed_pool(plain, 8)
        guess = run(pool)
        assert guess.note == "nothing identifiable" and guess.key is None
        assert (guess.images == pool.sealed[:3]).all()


def test_constant_sub_blocks_give_the_block_order_alone() -> None:
    plain = pictures(12, 32, 32).repeat(4, 1).repeat(4, 2)
    pool, truth = sealed_pool(plain, 8)
    guess = run(pool)
    assert guess.note.startswith("pixel order not identifiable")
    assert (key_of(guess)["K1"] == truth["K1"]).all() and (guess.images == plain[:3]).all()


def test_one_varied_image_among_black_ones_is_found() -> None:
    plain = np.concatenate([np.zeros((300, 32, 32, 1), np.uint8), pictures(1, 32, 32)])
    pool, truth = sealed_pool(plain, 8)
    assert (key_of(run(pool))["K2"] == truth["K2"]).all()


def test_out_of_time_it_still_guesses_and_says_so() -> None:
    pool, _ = sealed_pool(pictures(4, 64, 64), 8)
    guess = run(pool, budget=0.0)
    assert_well_formed(guess, pool)
    assert "truncated" in guess.note


@pytest.mark.parametrize(
    ("height", "width", "block"), [(8, 8, 8), (8, 24, 8), (2, 2, 2), (3, 6, 3), (4, 4, 1)]
)
def test_smallest_grids(height: int, width: int, block: int) -> None:
    plain = pictures(3, height, width)
    name = "plain" if block % 2 else "block_pixel_shuffle"
    pool, _ = sealed_pool(plain, block, name)
    assert_well_formed(run(pool), pool)


def test_too_many_blocks_are_left_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_pixel_shuffle, "MOST_BLOCKS", 10)
    pool, truth = sealed_pool(pictures(4, 64, 64), 8)
    guess = run(pool)
    assert "block order not sought" in guess.note
    assert (key_of(guess)["K2"] == truth["K2"]).all() and (key_of(guess)["K1"] == np.arange(64)).all()


# ---- real images --------------------------------------------------------------------------------------------


def slices(folder: Path, n: int, seed: int) -> Images:
    """Return gray slices of real MRI, uint8 [n, h, w, 1]."""
    paths = sorted((folder / "train").rglob("*.jpg"))
    chosen = np.random.default_rng(seed).permutation(len(paths))[:n]
    return np.stack([np.asarray(Image.open(paths[i]).convert("L"))[..., None] for i in chosen])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_brain_scan_gives_the_pixel_order(real_mri: Path, seed: int) -> None:
    pool, truth = sealed_pool(slices(real_mri, 1, seed), 16)
    assert (key_of(run(pool))["K2"] == truth["K2"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_brain_scans_give_the_whole_key(real_mri: Path, seed: int) -> None:
    plain = slices(real_mri, 100, seed)
    pool, truth = sealed_pool(plain, 16)
    guess = run(pool)
    assert (key_of(guess)["K1"] == truth["K1"]).all() and (key_of(guess)["K2"] == truth["K2"]).all()
    assert (guess.images == plain[:3]).all()


def test_the_suite_is_imported_without_torch() -> None:
    code = "import sys, coordinator.adversary.run.suite; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- what says nothing about a scheme -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["block_pixel_shuffle", "value_shuffle", "etc", "le", "block_pixel", "sub_block_etc"]
)
def test_a_pool_of_one_gray_says_nothing_about_a_scheme(name: str) -> None:
    pool = sealed_pool(np.full((6, 32, 32, 1), 40, np.uint8), 8, name)[0]
    guess = run(pool)
    assert guess.note == "nothing identifiable" and guess.idle and guess.key is None


def test_neighbours_that_are_no_more_alike_than_any_two_values_are_a_failure() -> None:
    """With no key as the result, pe has compared them: of images of one gray it opens the key."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 1), np.uint8)
    guess = run(sealed_pool(noise, 8, "pe")[0])
    assert guess.note == "nothing identifiable" and not guess.idle and guess.key is None
    assert run(sealed_pool(np.full((6, 32, 32, 1), 40, np.uint8), 8, "pe")[0]).key is not None


@pytest.mark.parametrize(
    ("name", "shape", "block"),
    [
        ("block_pixel_shuffle", (114, 112, 1), 2),
        ("value_shuffle", (57, 56, 1), 1),
        ("value_shuffle", (128, 64, 1), 64),
        ("etc", (57, 56, 1), 1),
        ("block_pixel", (66, 64, 1), 2),
        ("block_pixel", (32, 32, 3), 32),
        ("sub_block_etc", (114, 112, 1), 2),
        ("patch_shuffle", (57, 56, 1), 1),
    ],
)
def test_what_is_too_large_to_be_sought_is_no_failure(
    name: str, shape: tuple[int, int, int], block: int
) -> None:
    """It was reported as withstood: block_pixel with blocks of 4 on images of 224, for one."""
    options = {"sub_block": 2} if name == "sub_block_etc" else {}
    spec = describe(name, shape, block, options=options)
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), np.uint8)
    guess = run(MemoryPool(spec, images))
    assert guess.is_uncertain and not guess.idle
    assert "not sought" in guess.note or name == "patch_shuffle"  # each image alone: notes are of all rows
