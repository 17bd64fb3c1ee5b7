"""Extended learnable encryption: what a pool gives away, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.recover.ele import LEAST_IMAGES, recover, unmoved
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.adversary.recover.upright_blocks import turn_upright
from coordinator.adversary.time_budget import always
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, Images
from crypto.kernels.blocks import to_blocks
from crypto.kernels.executors import apply
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.symmetry import COLOUR_ORDERS
from tests.support.pictures import coloured_texture, recovered, sealed_pool, share


def pictures(n: int, side: int, seed: int = 0) -> Images:
    """Return smooth gray fields over most of the range, uint8 [n, side, side, 1]."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, side, side, 1), np.uint8)
    for image in out:
        field = np.zeros((side, side))
        for s in (1.5, 5):
            field = field + s * gaussian_filter(rng.normal(size=(side, side)), s, mode="nearest")
        field = 115 + 55 * (field - field.mean()) / field.std() + rng.normal(0, 25)
        image[..., 0] = np.clip(field + rng.normal(0, 1, field.shape), 0, 255)
    return out


def sealed(plain: Images, mask: str = "tied") -> tuple[MemoryPool, dict[str, AnyArray]]:
    return sealed_pool("ele", plain, 4, mask=mask)


def likeness(opened: Images, plain: Images) -> float:
    """Return the greatest correlation over the picture's eight symmetries and two signs."""
    best = 0.0
    for face in (opened, opened[:, :, ::-1]):
        for turns in range(4):
            turned = np.rot90(face, turns, (1, 2))
            best = max(best, abs(float(np.corrcoef(turned.ravel(), plain.ravel())[0, 1])))
    return best


def test_a_tied_mask_gives_the_whole_key() -> None:
    plain = pictures(220, 16)
    pool, truth = sealed(plain)
    key = recovered(recover, pool, 200)
    opened = apply(key.table, pool.sealed[200:])
    assert (key.parts["K1"] == truth["K1"]).all()
    assert (key.parts["keys"] == truth["keys"]).all()
    assert (key.parts["reversal"] == truth["reversal"]).all()
    assert (opened == plain[200:]).all()
    assert key.notes == ("16 of 16 blocks confirmed by their masks",)


def test_an_independent_mask_leaves_symmetries_and_sign() -> None:
    plain = pictures(220, 16, seed=1)
    pool, _ = sealed(plain, "independent")
    key = recovered(recover, pool, 200)
    assert likeness(apply(key.table, pool.sealed[200:]), plain[200:]) > 0.9


def test_parts_make_the_same_table() -> None:
    pool, _ = sealed(pictures(80, 16, seed=2))
    key = recovered(recover, pool, 80)
    assert sorted(key.parts["K1"]) == list(range(16))
    assert (np.sort(key.parts["keys"], 1) == np.arange(32)).all()
    sealed_again = apply(key.table.inverse(), apply(key.table, pool.sealed))
    assert (sealed_again == pool.sealed).all()
    sealing = key.table.inverse()
    assert sealing.order is not None and (sealing.order == key.parts["K1"]).all()
    assert sealing.inner is not None
    assert (sealing.inner == key.parts["keys"][key.parts["K1"]]).all()


@pytest.mark.slow
def test_more_images_tell_more() -> None:
    plain = pictures(220, 16, seed=3)
    pool, truth = sealed(plain)
    shares = []
    for n in (LEAST_IMAGES, 200):
        key = recovered(recover, pool, n)
        shares.append((key.parts["keys"] == truth["keys"]).mean())
    assert shares[0] < 0.95 and shares[1] > 0.99


@pytest.mark.parametrize("mask", ["tied", "independent"])
def test_noise_constant_blocks_and_few_images_tell_nothing(mask: str) -> None:
    noise = np.random.default_rng(8).integers(0, 256, (400, 8, 8, 1), dtype=np.uint8)
    few = pictures(LEAST_IMAGES - 1, 8)
    for plain in (noise, np.full((40, 8, 8, 1), 90, np.uint8), few, few[:1]):
        pool, _ = sealed(plain, mask)
        assert recover(pool, np.arange(len(plain)), always) is None


@pytest.mark.parametrize("mask", ["tied", "independent"])
def test_out_of_time_is_said_and_the_table_still_opens(mask: str) -> None:
    pool, _ = sealed(pictures(60, 16), mask)
    key = recovered(recover, pool, 60, lambda: False)
    assert key.notes[-1].startswith("truncated")
    opened = apply(key.table, pool.sealed)
    assert (apply(key.table.inverse(), opened) == pool.sealed).all()


def test_the_same_pool_gives_the_same_key_whatever_its_other_rows_hold() -> None:
    pool, _ = sealed(pictures(60, 8))
    spoiled = MemoryPool(pool.spec, pool.sealed.copy())
    spoiled.sealed[50:] = 1
    first, again, second = (recovered(recover, p, 50) for p in (pool, pool, spoiled))
    for name, part in first.parts.items():
        assert (part == again.parts[name]).all() and (part == second.parts[name]).all()


def test_unmoved_nibbles_stay() -> None:
    slots, flips = unmoved(5).by_slot()
    assert slots.tolist() == list(range(10)) and not flips.any()


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("order", [0, 3, 4])
def test_a_turned_solution_is_set_upright_by_the_confirmed_blocks(turn: int, order: int) -> None:
    """The puzzle is solved but for one symmetry, sign and colour order of the whole picture."""
    spec = describe("etc", (12, 12, 3), 4)
    scheme = load(spec)
    truth = scheme.parts(SecretKey(b"\3" * 32))
    confirmed = np.array([True] * 6 + [False] * 3)
    truth["turn"][confirmed], truth["negative"][confirmed], truth["order"][confirmed] = 0, False, 0
    plain = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3), dtype=np.uint8)
    shown = scheme.algorithm.cipher(truth).encrypt(plain)
    # Another picture and its parts that give the same ciphertext. All states of all blocks are tried.
    other = (
        np.rot90(plain, -turn % 4, (1, 2)) if turn < 4 else np.rot90(plain[:, :, ::-1], -turn % 4, (1, 2))
    )
    other = 255 - np.ascontiguousarray(other[..., COLOUR_ORDERS[order]])
    parts = {name: part.copy() for name, part in truth.items()}
    blocks = {}
    for state in np.ndindex(8, 2, 6):
        same = {"turn": np.full(9, state[0]), "negative": np.full(9, state[1] == 1)}
        same |= {"order": np.full(9, state[2]), "K1": np.arange(9)}
        for cell, pixels in enumerate(to_blocks(scheme.algorithm.cipher(same).encrypt(other), 4)[0]):
            blocks[pixels.tobytes()] = (cell, *state)
    for k, pixels in enumerate(to_blocks(shown, 4)[0]):
        cell, parts["turn"][k], parts["negative"][k], parts["order"][k] = blocks[pixels.tobytes()]
        parts["K1"][k] = cell
    assert (scheme.algorithm.cipher(parts).decrypt(shown) == other).all()
    upright = turn_upright(parts, confirmed, spec)
    assert (scheme.algorithm.cipher(upright).decrypt(shown) == plain).all()
    for name, part in truth.items():
        assert (upright[name] == part).all()


def test_texture_is_laid_out_by_its_own_distances() -> None:
    """As in stained tissue: colours of one pixel are more alike than neighbours, unlike in typical pictures."""
    plain = coloured_texture(100, (170, 110, 150), (30, 45, 35), 1.2, own=0.25, seed=2)[:, :12, :12]
    pool, truth = sealed_pool("ele", plain, 4, 2)
    key = recovered(recover, pool, 100)
    assert (key.parts["keys"] == truth["keys"]).all()
    assert "9 of 9 blocks confirmed by their masks" in key.notes
    assert share(apply(key.table, pool.sealed), plain, signs=True) == 1.0


@pytest.mark.long
def test_large_blocks_are_paired_and_then_laid_out_as_whole_values() -> None:
    """Blocks of more values than are searched: no mask confirms them, and pictures open all the same."""
    plain = pictures(128, 48, seed=4)
    pool, _ = sealed_pool("ele", plain, 16)
    key = recovered(recover, pool, 120)
    assert (
        key.table.inner is not None
        and (apply(key.table.inverse(), apply(key.table, pool.sealed)) == pool.sealed).all()
    )
    opened = apply(key.table, pool.sealed[120:])
    assert likeness(opened, plain[120:]) > 0.9
    assert sorted(key.parts["K1"]) == list(range(9))


def test_too_few_images_leave_the_attack_idle() -> None:
    """It tries nothing, and so says nothing about the scheme's strength."""
    pool, _ = sealed(pictures(LEAST_IMAGES, 8))
    rows = np.arange(LEAST_IMAGES)
    few = attack(Knowledge(pool, rows[:-1], rows[:2], Budget(60.0)))
    assert few.idle and few.key is None and f"fewer than {LEAST_IMAGES} images" in few.note
    assert not attack(Knowledge(pool, rows, rows[:2], Budget(60.0))).idle
