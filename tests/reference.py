"""Naive, independently written references: the papers' numbered steps, one pixel at a time."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np


def block_pixel_shuffle(image: np.ndarray, block: int, k1: list[int], k2: list[int]) -> np.ndarray:
    """Qi et al. 2022, section III, steps 1 to 6 on one uint8 [h, w, c] image."""
    height, width, channels = image.shape
    across = width // block
    half = block // 2
    # Step 1: cut into blocks, from the upper left, row by row.
    blocks = []
    for r in range(height // block):
        for c in range(across):
            blocks.append(image[r * block : (r + 1) * block, c * block : (c + 1) * block].copy())
    # Step 2: permute the blocks.
    moved = [blocks[k1[i]].copy() for i in range(len(blocks))]
    for piece in moved:
        for top in (0, half):  # step 3: four sub-blocks
            for left in (0, half):
                vector = []  # step 4: flatten
                for r in range(half):
                    for c in range(half):
                        vector.append(piece[top + r, left + c].copy())
                shuffled = [vector[k2[k]] for k in range(half * half)]  # step 5
                for k in range(half * half):  # step 6
                    piece[top + k // half, left + k % half] = shuffled[k]
    result = np.zeros((height, width, channels), np.uint8)
    for i, piece in enumerate(moved):
        r, c = divmod(i, across)
        result[r * block : (r + 1) * block, c * block : (c + 1) * block] = piece
    return result


def hkdf_sha256(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with an empty salt."""
    pseudorandom = hmac.new(bytes(32), key, hashlib.sha256).digest()
    output, block, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(pseudorandom, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def context(*parts: str) -> bytes:
    """The info string of SecretKey's derivations: each part preceded by its length."""
    whole = b""
    for part in ("cipherward/1", *parts):
        data = part.encode()
        whole += len(data).to_bytes(4, "big") + data
    return whole


def chacha20(key: bytes, length: int) -> bytes:
    """RFC 8439's block function from block 0 with a zero nonce, in plain Python."""

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

    words = [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    constants = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    stream, counter = b"", 0
    while len(stream) < length:
        start = [*constants, *words, counter, 0, 0, 0]
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


def permutation(key: bytes, label: str, n: int) -> list[int]:
    """SecretKey.permutation, by its description."""
    stream = chacha20(hkdf_sha256(key, context("stream", f"{label}/permutation/0"), 32), 8 * n)
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(n)]
    assert len(set(words)) == n
    return sorted(range(n), key=lambda i: words[i])
