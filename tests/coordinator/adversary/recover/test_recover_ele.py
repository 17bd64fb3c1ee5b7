"""Extended learnable encryption: what a pool gives away, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from coordinator.adversary.recover.ele import LEAST_IMAGES, _unturned, recover, unmoved
from coordinator.adversary.time_budget import always
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.blocks import to_blocks
from crypto.kernels.executors import apply
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.schemes.pe import ORDERS


def pictures(n: int, side: int, seed: int = 0) -> np.ndarray:
    """uint8 [n, side, side, 1]: smooth gray fields over most of the range."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, side, side, 1), np.uint8)
    for image in out:
        field = sum(s * gaussian_filter(rng.normal(size=(side, side)), s, mode="nearest") for s in (1.5, 5))
        field = 115 + 55 * (field - field.mean()) / field.std() + rng.normal(0, 25)
        image[..., 0] = np.clip(field + rng.normal(0, 1, field.shape), 0, 255)
    return out


def sealed(plain: np.ndarray, mask: str = "tied") -> tuple[MemoryPool, dict]:
    spec = describe("ele", plain.shape[1:], 4, options={"mask": mask})
    kind, secret = load(spec), SecretKey(b"\7" * 32)
    return MemoryPool(spec, kind.cipher(secret).encrypt(plain)), kind.parts(secret)


def likeness(opened: np.ndarray, plain: np.ndarray) -> float:
    """The greatest correlation over the picture's eight symmetries and two signs."""
    best = 0.0
    for face in (opened, opened[:, :, ::-1]):
        for turns in range(4):
            turned = np.rot90(face, turns, (1, 2))
            best = max(best, abs(float(np.corrcoef(turned.ravel(), plain.ravel())[0, 1])))
    return best


def test_a_tied_mask_gives_the_whole_key():
    plain = pictures(220, 16)
    pool, truth = sealed(plain)
    found = recover(pool, np.arange(200), always)
    opened = apply(found.table, pool.sealed[200:])
    assert (found.parts["K1"] == truth["K1"]).all()
    assert (found.parts["keys"] == truth["keys"]).all()
    assert (found.parts["reversal"] == truth["reversal"]).all()
    assert (opened == plain[200:]).all()
    assert found.notes == ("16 of 16 blocks confirmed by their masks",)


def test_an_independent_mask_leaves_symmetries_and_sign():
    plain = pictures(220, 16, seed=1)
    pool, _ = sealed(plain, "independent")
    found = recover(pool, np.arange(200), always)
    assert likeness(apply(found.table, pool.sealed[200:]), plain[200:]) > 0.9


def test_parts_make_the_same_table():
    pool, _ = sealed(pictures(80, 16, seed=2))
    found = recover(pool, np.arange(80), always)
    assert sorted(found.parts["K1"]) == list(range(16))
    assert (np.sort(found.parts["keys"], 1) == np.arange(32)).all()
    sealed_again = apply(found.table.inverse(), apply(found.table, pool.sealed))
    assert (sealed_again == pool.sealed).all()
    order = found.table.inverse()
    assert (order.order == found.parts["K1"]).all()
    assert (order.inner == found.parts["keys"][found.parts["K1"]]).all()


def test_more_images_tell_more():
    plain = pictures(220, 16, seed=3)
    pool, truth = sealed(plain)
    shares = []
    for n in (LEAST_IMAGES, 200):
        found = recover(pool, np.arange(n), always)
        shares.append((found.parts["keys"] == truth["keys"]).mean())
    assert shares[0] < 0.95 and shares[1] > 0.99


@pytest.mark.parametrize("mask", ["tied", "independent"])
def test_noise_constant_blocks_and_few_images_tell_nothing(mask):
    noise = np.random.default_rng(8).integers(0, 256, (400, 8, 8, 1), dtype=np.uint8)
    few = pictures(LEAST_IMAGES - 1, 8)
    for plain in (noise, np.full((40, 8, 8, 1), 90, np.uint8), few, few[:1]):
        pool, _ = sealed(plain, mask)
        assert recover(pool, np.arange(len(plain)), always) is None


@pytest.mark.parametrize("mask", ["tied", "independent"])
def test_out_of_time_is_said_and_the_table_still_opens(mask):
    pool, _ = sealed(pictures(60, 16), mask)
    found = recover(pool, np.arange(60), lambda: False)
    assert found.notes[-1].startswith("truncated")
    opened = apply(found.table, pool.sealed)
    assert (apply(found.table.inverse(), opened) == pool.sealed).all()


def test_the_same_pool_gives_the_same_key_from_the_rows_seen():
    pool, _ = sealed(pictures(60, 8))
    spoiled = MemoryPool(pool.spec, pool.sealed.copy())
    spoiled.sealed[50:] = 1
    first, again, second = (recover(p, np.arange(50), always) for p in (pool, pool, spoiled))
    for name, part in first.parts.items():
        assert (part == again.parts[name]).all() and (part == second.parts[name]).all()


def test_unmoved_nibbles_stay():
    held, flips = unmoved(5).by_slot()
    assert held.tolist() == list(range(10)) and not flips.any()


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("order", [0, 3, 4])
def test_a_turned_answer_is_set_upright_by_the_blocks_that_are_sure(turn, order):
    """Blocks in true states, a puzzle solved but for one symmetry, sign and colour order of the whole."""
    spec = describe("etc", (12, 12, 3), 4)
    kind = load(spec)
    truth = kind.parts(SecretKey(b"\3" * 32))
    sure = np.array([True] * 6 + [False] * 3)
    truth["turn"][sure], truth["negative"][sure], truth["order"][sure] = 0, False, 0
    plain = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3), dtype=np.uint8)
    shown = kind.algorithm.cipher(truth).encrypt(plain)
    # Another picture and its parts that give the same ciphertext: found by trying all states of all blocks.
    other = (
        np.rot90(plain, -turn % 4, (1, 2)) if turn < 4 else np.rot90(plain[:, :, ::-1], -turn % 4, (1, 2))
    )
    other = 255 - np.ascontiguousarray(other[..., ORDERS[order]])
    parts = {name: part.copy() for name, part in truth.items()}
    blocks = {}
    for state in np.ndindex(8, 2, 6):
        same = {"turn": np.full(9, state[0]), "negative": np.full(9, state[1] == 1)}
        same |= {"order": np.full(9, state[2]), "K1": np.arange(9)}
        for cell, pixels in enumerate(to_blocks(kind.algorithm.cipher(same).encrypt(other), 4)[0]):
            blocks[pixels.tobytes()] = (cell, *state)
    for k, pixels in enumerate(to_blocks(shown, 4)[0]):
        cell, parts["turn"][k], parts["negative"][k], parts["order"][k] = blocks[pixels.tobytes()]
        parts["K1"][k] = cell
    assert (kind.algorithm.cipher(parts).decrypt(shown) == other).all()
    upright = _unturned(parts, sure, spec)
    assert (kind.algorithm.cipher(upright).decrypt(shown) == plain).all()
    for name, part in truth.items():
        assert (upright[name] == part).all()
