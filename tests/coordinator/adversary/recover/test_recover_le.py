"""Learnable encryption: what a pool gives away, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.recover.le import (
    flips_to_bytes,
    recover,
    signed_nibbles,
    solve_reversal,
    tied_flips,
)
from coordinator.adversary.time_budget import always
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, Images
from crypto.kernels.executors import apply
from crypto.scheme import describe, load
from crypto.schemes.le import reversal_bytes
from tests.support.pictures import coloured_texture, recovered, sealed_pool, share


def pictures(n: int, height: int, width: int, channels: int, seed: int = 0) -> Images:
    """Return smooth fields over the whole range, rather dark, red bright and blue dim, uint8 [n, h, w, c]."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, height, width, channels), np.uint8)
    for image in out:
        shared = np.zeros((height, width))
        for s in (1.5, 5):
            shared = shared + s * gaussian_filter(rng.normal(size=(height, width)), s, mode="nearest")
        for c in range(channels):
            own = gaussian_filter(rng.normal(size=(height, width)), 4, mode="nearest") * 4
            field = shared + (0.5 if c != 1 else 0.1) * own
            image[..., c] = np.clip(115 - 10 * c + 50 * field / field.std() + rng.normal(0, 1), 0, 255)
    return out


def sealed(
    plain: Images, key: int = 7, mask: str = "tied", block: int = 4
) -> tuple[MemoryPool, dict[str, AnyArray]]:
    return sealed_pool("le", plain, block, key, mask=mask)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_five_colour_images_give_the_key_and_its_tied_mask(seed: int) -> None:
    plain = pictures(7, 32, 32, 3, seed=seed)
    pool, truth = sealed(plain, seed)
    key = recovered(recover, pool, 5)
    assert key.notes == ()
    assert (key.parts["key"] == truth["key"]).all()
    assert (key.parts["reversal"] == truth["reversal"]).all()
    assert (apply(key.table, pool.sealed) == plain).all()
    assert (load(pool.spec).algorithm.cipher(key.parts).decrypt(pool.sealed) == plain).all()


@pytest.mark.parametrize(("height", "width", "block"), [(48, 32, 4), (48, 48, 2), (48, 48, 6)])
def test_gray_images_and_other_blocks(height: int, width: int, block: int) -> None:
    plain = pictures(10, height, width, 1, seed=4)
    pool, truth = sealed(plain, block=block)
    key = recovered(recover, pool, 8)
    assert (key.parts["key"] == truth["key"]).all()
    assert (apply(key.table, pool.sealed) == plain).all()


def test_an_independent_mask_is_found_as_far_as_it_shows() -> None:
    plain = pictures(10, 32, 32, 3, seed=5)
    pool, truth = sealed(plain, mask="independent")
    key = recovered(recover, pool, 8)
    assert (key.parts["key"] == truth["key"]).all()
    assert (apply(key.table, pool.sealed) == plain).all()
    assert (load(pool.spec).algorithm.cipher(key.parts).decrypt(pool.sealed) == plain).all()
    wrong = key.parts["reversal"] ^ truth["reversal"]
    assert (wrong == wrong[truth["key"]]).all()  # whole cycles of the key, which show nothing


@pytest.mark.parametrize("empty", [[2], [0, 1]])
def test_empty_colour_planes_do_not_disturb_the_others(empty: list[int]) -> None:
    plain = pictures(12, 32, 32, 3, seed=6)
    plain[..., empty] = 0
    pool, _ = sealed(plain)
    key = recovered(recover, pool, 10)
    assert share(apply(key.table, pool.sealed), plain, signs=True) == 1.0
    assert not any(fit.is_poor for fit in key.fits)
    # With two planes empty, too few flips are known to confirm a state by.
    assert (key.notes == ()) == (len(empty) == 1)


@pytest.mark.parametrize("mask", ["tied", "independent"])
@pytest.mark.parametrize("seed", [1, 2])
def test_texture_finer_than_colour_differs(mask: str, seed: int) -> None:
    """As in stained tissue: neighbours are less alike than the colours of one pixel."""
    plain = coloured_texture(12, (170, 110, 150), (30, 45, 35), 0.6, own=0.25, seed=seed)
    pool, truth = sealed(plain, seed, mask)
    key = recovered(recover, pool, 10)
    assert share(apply(key.table, pool.sealed), plain, signs=True) == 1.0
    if mask == "tied":
        assert (key.parts["key"] == truth["key"]).all() and key.notes == ()


@pytest.mark.parametrize(
    ("levels", "contrasts", "own"),
    [((120, 110, 140), (45, 45, -45), 0.5), ((120, 110, 140), (10, 10, 10), 4.0)],
    ids=["one colour the negative of the others", "colours that hardly correlate"],
)
def test_the_mask_tells_the_signs_of_colours(
    levels: tuple[int, ...], contrasts: tuple[int, ...], own: float
) -> None:
    plain = coloured_texture(12, levels, contrasts, 1.5, own, seed=1)
    pool, truth = sealed(plain, 2)
    key = recovered(recover, pool, 10)
    assert (key.parts["key"] == truth["key"]).all() and key.notes == ()
    assert (apply(key.table, pool.sealed) == plain).all()


def test_a_layout_that_explains_little_is_said_to_be_uncertain() -> None:
    plain = coloured_texture(1, (170, 110, 150), (30, 45, 35), 0.6, own=0.25, seed=1)
    pool, _ = sealed(plain)
    key = recovered(recover, pool, 1)
    assert [fit.is_poor for fit in key.fits] == [True] and "attack uncertain" in str(key.fits[0])


@pytest.mark.slow
def test_more_images_tell_more() -> None:
    plain = pictures(40, 16, 16, 3, seed=6)
    shares = []
    for n in (1, 8):
        pool, truth = sealed(plain)
        keys = [recover(pool, np.arange(k * 8, k * 8 + n), always) for k in range(5)]
        shares.append([0.0 if f is None else (f.parts["key"] == truth["key"]).mean() for f in keys])
    assert np.mean(shares[0]) < 0.9 < np.mean(shares[1]) and min(shares[1]) == 1.0


def test_one_image_gives_a_picture_of_its_own() -> None:
    plain = pictures(1, 64, 64, 3, seed=2)
    pool, _ = sealed(plain)
    opened = apply(recovered(recover, pool, 1).table, pool.sealed)
    assert np.corrcoef(opened.ravel(), plain.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("mask", ["tied", "independent"])
def test_noise_and_constant_blocks_tell_nothing(mask: str) -> None:
    noise = np.random.default_rng(8).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    for plain in (noise, noise[:1], np.full((4, 16, 16, 3), 90, np.uint8)):
        pool, _ = sealed(plain, mask=mask)
        assert recover(pool, np.arange(len(plain)), always) is None


def test_a_wrong_mask_is_not_claimed() -> None:
    """In a pool that claims a tied mask but has another, the note says so, and the images open all the same."""
    plain = pictures(10, 32, 32, 3, seed=9)
    pool, _ = sealed(plain, mask="independent")
    mislabelled = MemoryPool(describe("le", (32, 32, 3), 4, options={"mask": "tied"}), pool.sealed)
    key = recovered(recover, mislabelled, 10)
    assert any("fits nowhere" in note for note in key.notes)
    opened = apply(key.table, mislabelled.sealed)
    assert min(np.abs(a.astype(int) - plain).mean() for a in (opened, 255 - opened)) < 25


def test_out_of_time_is_said_and_the_table_still_opens() -> None:
    pool, _ = sealed(pictures(4, 32, 32, 3))
    key = recovered(recover, pool, 4, lambda: False)
    assert key.notes[-1].startswith("truncated")
    opened = apply(key.table, pool.sealed)
    assert (apply(key.table.inverse(), opened) == pool.sealed).all()


def test_the_same_pool_gives_the_same_key_whatever_its_other_rows_hold() -> None:
    pool, _ = sealed(pictures(6, 24, 24, 3))
    spoiled = MemoryPool(pool.spec, pool.sealed.copy())
    spoiled.sealed[3:] = 1
    first, again, second = (recovered(recover, p, 3) for p in (pool, pool, spoiled))
    for name, part in first.parts.items():
        assert (part == again.parts[name]).all() and (part == second.parts[name]).all()


# ---- its parts -----------------------------------------------------------------------------------------


def test_nibbles_are_those_of_the_scheme() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    signed = signed_nibbles(image, 2)
    assert signed.shape == (2, 2, 3, 24) and signed.dtype == np.float32
    for n, row, column, k in np.ndindex(2, 2, 3, 12):
        y, x, c = 2 * row + k // 6, 2 * column + k // 3 % 2, k % 3
        value = int(image[n, y, x, c])
        assert signed[n, row, column, k] == value % 16 - 7.5
        assert signed[n, row, column, 12 + k] == value // 16 - 7.5


@pytest.mark.parametrize("seed", range(5))
def test_masks_and_flips_belong_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    key, mask = rng.permutation(24), rng.random(24) < 0.5
    flips = mask[key] ^ mask
    assert (flips_to_bytes(flips) == reversal_bytes(key[None], mask[None])[0]).all()
    solved, unsolved = solve_reversal(key, flips)
    assert unsolved == 0 and ((solved[key] ^ solved) == flips).all()
    spoiled = flips.copy()
    spoiled[3] ^= True
    assert solve_reversal(key, spoiled)[1] == 1
    tied = key > 12
    assert (tied_flips(key) == (tied[key] ^ tied)).all()
