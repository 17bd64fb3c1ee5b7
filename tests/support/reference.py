"""Naive references of what a key derives, written independently from the RFCs and from crypto/key.py's text."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hkdf_sha256(key: bytes, info: bytes, length: int) -> bytes:
    """Return HKDF-SHA256 output by RFC 5869 with an empty salt."""
    pseudorandom = hmac.new(bytes(32), key, hashlib.sha256).digest()
    output, block, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(pseudorandom, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def context(*parts: str) -> bytes:
    """Return the info string of SecretKey's derivations: each part preceded by its length."""
    info = b""
    for part in ("cipherward/1", *parts):
        data = part.encode()
        info += len(data).to_bytes(4, "big") + data
    return info


def chacha20(key: bytes, length: int) -> bytes:
    """Return the keystream of RFC 8439's block function from block 0 with a zero nonce, in plain Python."""

    def rotate(v: int, n: int) -> int:
        return ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF

    def quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
        s[a] = (s[a] + s[b]) & 0xFFFFFFFF
        s[d] = rotate(s[d] ^ s[a], 16)
        s[c] = (s[c] + s[d]) & 0xFFFFFFFF
        s[b] = rotate(s[b] ^ s[c], 12)
        s[a] = (s[a] + s[b]) & 0xFFFFFFFF
        s[d] = rotate(s[d] ^ s[a], 8)
        s[c] = (s[c] + s[d]) & 0xFFFFFFFF
        s[b] = rotate(s[b] ^ s[c], 7)

    secret = [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    constants = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    stream, counter = b"", 0
    while len(stream) < length:
        start = [*constants, *secret, counter, 0, 0, 0]
        state = list(start)
        for _ in range(10):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter(state, a, b, c, d)
            for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(state, a, b, c, d)
        stream += b"".join(
            ((x + y) & 0xFFFFFFFF).to_bytes(4, "little") for x, y in zip(state, start, strict=True)
        )
        counter += 1
    return stream[:length]


def derive(key: bytes, *parts: str) -> bytes:
    """Return the key of SecretKey.derive as raw bytes."""
    return hkdf_sha256(key, context("derive", *parts), 32)


def spec_text(spec: Mapping[str, Any]) -> str:
    """Return a spec's canonical JSON, put together by hand: names in alphabetical order, no spaces."""

    def literal(value: bool | int | str) -> str:
        if isinstance(value, str):
            assert value.isascii() and value.isprintable() and not set('"\\') & set(value)
            return f'"{value}"'
        return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)

    height, width, channels = spec["image_shape"]
    options = ",".join(f'"{name}":{literal(value)}' for name, value in sorted(spec["options"].items()))
    return (
        f'{{"block":{spec["block"]},"image_shape":[{height},{width},{channels}],'
        f'"key_scope":"{spec["key_scope"]}","name":"{spec["name"]}",'
        f'"options":{{{options}}},"version":{spec["version"]}}}'
    )


def sub_key(key: bytes, spec: Mapping[str, Any], row: int | None = None) -> bytes:
    """Return the sub-key of a spec (as JSON); the row is None unless every image has a key of its own."""
    return derive(key, "scheme", spec_text(spec), "" if row is None else str(row))


def keystream(key: bytes, label: str, n: int) -> bytes:
    """Return SecretKey.keystream, by its description."""
    return chacha20(hkdf_sha256(key, context("stream", label), 32), n)


def words(key: bytes, label: str, n: int) -> list[int]:
    """Return n little-endian 64-bit words of a keystream."""
    stream = keystream(key, label, 8 * n)
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(n)]


def bits(key: bytes, label: str, n: int) -> list[int]:
    """Return SecretKey.bits: least significant bit of each byte first."""
    stream = keystream(key, f"{label}/bits", (n + 7) // 8)
    return [(stream[i // 8] >> (i % 8)) & 1 for i in range(n)]


def permutation(key: bytes, label: str, n: int) -> list[int]:
    """Return SecretKey.permutation, by its description."""
    return permutations(key, label, 1, n)[0]


def permutations(key: bytes, label: str, count: int, n: int, draw: int = 0) -> list[list[int]]:
    """Return SecretKey.permutations: one permutation of 0..n-1 a row; about once in 2^30 it needs a second draw."""
    drawn = words(key, f"{label}/permutation/{draw}", count * n)
    rows = [drawn[n * r : n * (r + 1)] for r in range(count)]
    for row in rows:
        assert len(set(row)) == n
    return [sorted(range(n), key=row.__getitem__) for row in rows]


def integers(key: bytes, label: str, n: int, below: int, draw: int = 0) -> list[int]:
    """Return SecretKey.integers: uniform in 0..below-1."""
    drawn = words(key, f"{label}/integers/{draw}", n)
    assert all(word < 2**64 // below * below for word in drawn)
    return [word % below for word in drawn]


def normals(key: bytes, label: str, n: int) -> list[float]:
    """Return SecretKey.normals: Gaussians by inverse CDF of the middle of 2^53 equal intervals."""
    drawn = words(key, f"{label}/normal", n)
    return [NormalDist().inv_cdf(((word >> 11) + 0.5) * 2.0**-53) for word in drawn]


def uniforms(key: bytes, label: str, n: int) -> list[float]:
    """Return SecretKey.uniforms: 53 bits of each word."""
    return [(word >> 11) * 2.0**-53 for word in words(key, f"{label}/uniform", n)]


def orthogonal(key: bytes, label: str, n: int) -> NDArray[np.float64]:
    """Return SecretKey.orthogonal as float64 [n, n]: Gaussians by inverse CDF, orthonormalised column by column.

    Gram-Schmidt, done twice for its rounding, gives the Q of the QR factorisation whose R has a positive diagonal.
    That one is unique.
    """
    gaussian = normals(key, label, n * n)
    columns = [[gaussian[n * r + c] for r in range(n)] for c in range(n)]
    basis: list[list[float]] = []
    for column in columns:
        rest = column
        for _ in range(2):
            for earlier in basis:
                along = math.fsum(a * b for a, b in zip(rest, earlier, strict=True))
                rest = [a - along * b for a, b in zip(rest, earlier, strict=True)]
        length = math.sqrt(math.fsum(a * a for a in rest))
        basis.append([a / length for a in rest])
    return np.array(basis).T
