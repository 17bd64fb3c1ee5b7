"""From a recovered key to a guess, whatever kind of key it is."""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Knowledge, Recovered
from coordinator.adversary.opened import RecoveredMatrix, open_rows
from coordinator.exchange.pool import MemoryPool
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.pictures import key_of, sealed_pool, smooth


def knowledge_of(pool: MemoryPool) -> Knowledge:
    return Knowledge(pool, np.arange(1), np.array([2, 0]))


def test_without_a_key_the_guess_is_the_ciphertext_s_picture() -> None:
    pool, _ = sealed_pool("etc", smooth(3, 16, 16, 3), 8, form="gray")
    guess = open_rows(knowledge_of(pool), None, "why not", idle=True)
    assert (guess.images == load(pool.spec).picture(pool.sealed[[2, 0]])).all()
    assert guess.key is None and guess.note == "why not" and guess.idle


def test_a_table_opens_the_rows_and_is_reported_flat_with_the_scheme_s_parts() -> None:
    plain = smooth(3, 16, 16)
    pool, parts = sealed_pool("block_pixel", plain, 8)
    inner, mask = parts["K2"], parts["mask"].astype(np.uint8) * np.uint8(255)
    table = Table(pool.spec.image_shape, (8, 8), parts["K1"], inner, mask).inverse()
    guess = open_rows(knowledge_of(pool), Recovered(table, parts, ()), "")
    key = key_of(guess)
    assert sorted(key) == ["K1", "K2", "gather", "mask"] and not guess.idle
    # The flat mask replaces the scheme's part of that name.
    assert key["mask"].shape == (16 * 16,) and (key["K1"] == parts["K1"]).all()
    flat = Table.flat(pool.spec.image_shape, key["gather"], key["mask"])
    assert (apply(flat, pool.sealed[[2, 0]]) == guess.images).all()
    assert (guess.images == plain[[2, 0]]).all()


def test_a_matrix_opens_float_and_byte_images() -> None:
    plain = smooth(3, 16, 16)
    scheme = load(describe("orthogonal", (16, 16, 1), 8))
    secret = SecretKey(bytes(32))
    key = RecoveredMatrix(scheme.parts(secret)["matrix"])
    guess = open_rows(knowledge_of(MemoryPool(scheme.spec, scheme.cipher(secret).encrypt(plain))), key, "")
    assert np.abs(guess.images.astype(int) - plain[[2, 0]]).max() <= scheme.tolerance
    assert list(key_of(guess)) == ["matrix"]
    pool, _ = sealed_pool("pe", plain, 8)
    assert open_rows(knowledge_of(pool), key, "").images.dtype == np.uint8
