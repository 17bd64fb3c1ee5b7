"""SecretKey against vectors and a reference written from the RFCs, and what it must never do."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.key import SecretKey
from tests.support import reference
from tests.support.paths import VECTORS

KEY_VECTORS = json.loads((VECTORS / "key.json").read_text())


def test_rfc8439_block_function_of_the_reference() -> None:
    # RFC 8439, appendix A.1, test vector 1: the reference is itself pinned.
    assert reference.chacha20(bytes(32), 16).hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_rfc5869_of_the_reference() -> None:
    # RFC 5869, A.3: no salt, no info.
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert reference.hkdf_sha256(b"\x0b" * 22, b"", 42).hex() == expected


@pytest.mark.parametrize("vector", KEY_VECTORS, ids=lambda v: v["id"])
def test_known_answers(vector: dict[str, Any]) -> None:
    key = SecretKey(bytes.fromhex(vector["key"]))
    assert key.id == vector["id"]
    assert key.permutation("K1", 16).tolist() == vector["permutation_K1_16"]
    assert "".join(str(int(b)) for b in key.bits("mask", 24)) == vector["bits_mask_24"]
    assert key.derive("a", "b").id == vector["derive_a_b_id"]
    assert key.keystream("row/0", 16).tobytes().hex() == vector["keystream_row_0_16"]
    assert key.mac(b"one", b"two").hex() == vector["mac_one_two"]


@settings(max_examples=25, deadline=None)
@given(raw=st.binary(min_size=32, max_size=32), n=st.integers(1, 80), label=st.text(max_size=8))
def test_permutation_is_the_reference_s(raw: bytes, n: int, label: str) -> None:
    assert SecretKey(raw).permutation(label, n).tolist() == reference.permutation(raw, label, n)


def test_permutations_are_uniform() -> None:
    # All 24 orders of 4, 4,800 draws: chi-squared with 23 degrees of freedom, 99.99 % below 55.
    counts: dict[tuple[int, ...], int] = {}
    key = SecretKey(bytes(range(32)))
    for i in range(4800):
        order = tuple(key.permutation(str(i), 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 55


def test_contexts_never_collide() -> None:
    key = SecretKey(bytes(range(32)))
    derived = [key.derive("ab", "c"), key.derive("a", "bc"), key.derive("abc"), key.derive("abc", "")]
    assert len({k.id for k in derived}) == 4
    assert key.mac(b"ab", b"c") != key.mac(b"a", b"bc")


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_normals_are_finite_whatever_is_drawn(byte: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecretKey, "keystream", lambda self, label, n: np.full(n, byte, np.uint8))
    normals = SecretKey(bytes(range(32))).normals("n", 4)
    assert np.isfinite(normals).all() and (np.abs(normals) > 8).all()


def test_generated_keys_differ() -> None:
    assert SecretKey.generate() != SecretKey.generate()


def test_a_key_is_not_shown_pickled_or_copied() -> None:
    raw = bytes(range(1, 33))
    key = SecretKey(raw)
    for text in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert raw.hex() not in text and repr(raw) not in text
        assert key.id in text
    copies: tuple[Callable[[SecretKey], object], ...] = (pickle.dumps, copy.copy, copy.deepcopy)
    for make_copy in copies:
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            make_copy(key)
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"this one has {size}"):
        SecretKey(bytes(size))


def test_bits_are_balanced() -> None:
    bits = SecretKey(bytes(range(32))).bits("b", 20000)
    assert bits.dtype == bool and abs(bits.mean() - 0.5) < 0.02
    assert np.array_equal(bits[:7], SecretKey(bytes(range(32))).bits("b", 7))
