"""Every scheme: round trips, declared shapes, invariants, the paper's steps, vectors, executors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.apply import Table, apply, apply_torch
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, effective_bits, load
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle
from crypto.spec import SchemeSpec

VECTORS = json.loads((Path(__file__).parent / "vectors" / "schemes.json").read_text())
KEY = SecretKey(bytes(range(32)))


def images(n: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]))


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=30, deadline=None)
@given(grid=shapes, block=st.sampled_from([2, 4, 6, 8]), seed=st.integers(0, 99), n=st.integers(0, 3))
def test_decrypt_undoes_encrypt(name, grid, block, seed, n):
    shape = (grid[0] * block, grid[1] * block, grid[2])
    scheme = load(describe(name, shape, block))
    plain = images(n, shape, seed)
    before = plain.copy()
    cipher = scheme.cipher(SecretKey(hashlib.sha256(bytes([seed])).digest()))
    sealed = cipher.encrypt(plain, first=seed)
    assert sealed.dtype == scheme.sealed_dtype and sealed.shape == (n, *scheme.sealed_shape)
    assert np.array_equal(plain, before)
    assert np.array_equal(cipher.decrypt(sealed, first=seed), plain)


@pytest.mark.parametrize("name", [n for n in SCHEMES if n != "plain"])
def test_a_wrong_key_does_not_open(name):
    spec = describe(name, (32, 32, 3), 8)
    plain = images(2, (32, 32, 3))
    sealed = load(spec).cipher(KEY).encrypt(plain)
    assert not np.array_equal(sealed, plain)
    assert (load(spec).cipher(SecretKey(bytes(31) + b"\x01")).decrypt(sealed) != plain).mean() > 0.5


@settings(max_examples=20, deadline=None)
@given(grid=shapes, block=st.sampled_from([2, 4, 8]), seed=st.integers(0, 999))
def test_block_pixel_shuffle_is_the_paper_s(grid, block, seed):
    shape = (grid[0] * block, grid[1] * block, grid[2])
    scheme = BlockPixelShuffle(describe("block_pixel_shuffle", shape, block))
    key = SecretKey(hashlib.sha256(bytes([seed % 251, seed // 251])).digest())
    parts = scheme.parts(key)
    plain = images(2, shape, seed)
    expected = [
        reference.block_pixel_shuffle(x, block, parts["K1"].tolist(), parts["K2"].tolist()) for x in plain
    ]
    assert np.array_equal(scheme.cipher(key).encrypt(plain), np.stack(expected))


def test_block_pixel_shuffle_keeps_histograms_and_one_k2():
    shape = (32, 32, 3)
    scheme = load(describe("block_pixel_shuffle", shape, 8))
    plain = images(1, shape)
    sealed = scheme.cipher(KEY).encrypt(plain)
    for channel in range(3):
        assert np.array_equal(np.sort(sealed[..., channel].ravel()), np.sort(plain[..., channel].ravel()))
    # A picture of one repeated sub-block is sealed to one repeated, shuffled sub-block.
    tile = images(1, (4, 4, 3), 1)[0]
    repeated = np.tile(tile, (8, 8, 1))[None]
    out = scheme.cipher(KEY).encrypt(repeated)[0]
    assert (out.reshape(8, 4, 8, 4, 3).transpose(0, 2, 1, 3, 4) == out[:4, :4]).all()


def test_noise_never_repeats_a_mask():
    shape = (16, 16, 1)
    same = np.zeros((4, *shape), np.uint8)
    first = load(describe("noise", shape, 8)).cipher(KEY)
    second = load(describe("noise", shape, 8)).cipher(KEY)  # a second sealing draws another nonce
    masks = [*first.encrypt(same), *second.encrypt(same)]
    assert len({m.tobytes() for m in masks}) == 8
    assert np.array_equal(first.encrypt(same[:1], first=3)[0], first.encrypt(same)[3])


def test_key_space_of_the_paper():
    scheme = load(describe("block_pixel_shuffle", (224, 224, 3), 16))
    assert round(scheme.formula_bits()) == 1511
    assert effective_bits(scheme) == 256.0
    assert effective_bits(load(describe("plain", (224, 224, 3), 16))) == 0.0


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['spec']['name']}-{v['spec']['image_shape']}")
def test_known_answers(vector):
    spec = SchemeSpec.from_json(vector["spec"])
    h, w, c = spec.image_shape
    plain = (np.arange(h * w * c) * 7 % 251).astype(np.uint8).reshape(1, h, w, c)
    sealed = load(spec).cipher(SecretKey(bytes.fromhex(vector["key"]))).encrypt(plain, first=vector["row"])
    assert hashlib.sha256(sealed.tobytes()).hexdigest() == vector["sha256"]
    assert sealed.ravel()[:8].tolist() == vector["first"]


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_executors_agree_with_indexing(width, masked):
    generator = np.random.default_rng(width)
    x = images(3, (6, 4, width), 5)
    mask = generator.integers(0, 256, 24 * width, dtype=np.uint8) if masked else None
    table = Table(generator.permutation(24).astype(np.int32), mask, width)
    expected = x.reshape(3, 24, width)[:, table.gather]
    if mask is not None:
        expected = expected ^ mask.reshape(24, width)
    expected = expected.reshape(x.shape)
    assert np.array_equal(apply(table, x), expected)
    assert np.array_equal(apply_torch(table, torch.from_numpy(x)).numpy(), expected)
    assert np.array_equal(apply(table.inverse(), apply(table, x)), x)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "rot13"}, "unknown scheme 'rot13'"),
        ({"image_shape": (60, 64, 1)}, "blocks of 8 do not divide an image of 60×64"),
        ({"image_shape": (64, 64, 2)}, "cannot be sealed"),
        ({"key_scope": "planet"}, "unknown key scope 'planet'"),
        ({"block": 1, "image_shape": (5, 5, 1)}, "halves its blocks, and 1 is odd"),
    ],
)
def test_bad_specs_are_told(change, said):
    settings_ = {"name": "block_pixel_shuffle", "image_shape": (64, 64, 1), "block": 8} | change
    with pytest.raises(CipherwardError, match=said) as error:
        describe(**settings_)
    assert error.value.hint


def test_another_version_is_refused():
    with pytest.raises(CipherwardError, match="version 99 was asked for"):
        load(SchemeSpec("plain", 99, (8, 8, 1), 8))
