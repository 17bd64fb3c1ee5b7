"""SecretKey: 32 bytes, from which every scheme's permutations, bits and keystreams are drawn.

    SecretKey ──HKDF-SHA256(context)──▶ sub-key ──ChaCha20 keystream──▶ uint64 words, bits, bytes

Neither NumPy's nor Python's generators are used: they promise no stable stream across versions, and a
key drawn from their 32-bit seeds falls to a search of all seeds. Everything here is pinned by
known-answer vectors in tests/vectors/key.json; a change of any byte needs new scheme versions.
"""

from __future__ import annotations

import hmac
import secrets
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_DOMAIN = "cipherward/1"


def _hkdf(key: bytes, *context: str, length: int = KEY_BYTES) -> bytes:
    # Each part is preceded by its length, so ("ab", "c") and ("a", "bc") never meet.
    parts = [_DOMAIN, *context]
    info = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(key)


class SecretKey:
    """A 256-bit symmetric key. Printing shows its public id only; pickling and copying are refused."""

    __slots__ = ("__raw", "id")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, this one has {len(raw)}")
        self.__raw = bytes(raw)
        #: 16 hex digits that tell keys apart and reveal nothing of them (HKDF output).
        self.id: str = _hkdf(self.__raw, "id", length=8).hex()

    @classmethod
    def generate(cls) -> SecretKey:
        """A fresh key from the operating system's generator."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def reveal(self) -> bytes:
        """The raw 32 bytes: for the key file alone."""
        return self.__raw

    def derive(self, *context: str) -> SecretKey:
        """The sub-key of a purpose, by HKDF-SHA256 over all context parts in order."""
        return SecretKey(_hkdf(self.__raw, "derive", *context))

    def keystream(self, label: str, n: int) -> np.ndarray:
        """uint8 [n]: ChaCha20 keystream under the label's sub-key, from block 0 with a zero nonce.

        The zero nonce is sound because each label has a key of its own.
        """
        cipher = Cipher(algorithms.ChaCha20(_hkdf(self.__raw, "stream", label), bytes(16)), mode=None)
        return np.frombuffer(cipher.encryptor().update(bytes(n)), np.uint8)

    def permutation(self, label: str, n: int) -> np.ndarray:
        """int64 [n]: a uniform permutation of 0..n-1.

        The order of n 64-bit little-endian words; a draw in which two words are equal is rejected
        whole, which keeps every order equally likely.
        """
        draw = 0
        while True:
            words = self.keystream(f"{label}/permutation/{draw}", 8 * n).view("<u8")
            order = np.argsort(words, kind="stable")
            ranked = words[order]
            if n < 2 or (ranked[1:] != ranked[:-1]).all():
                return order.astype(np.int64)
            draw += 1

    def bits(self, label: str, n: int) -> np.ndarray:
        """bool [n]: uniform bits, least significant first within each keystream byte."""
        stream = self.keystream(f"{label}/bits", (n + 7) // 8)
        return np.unpackbits(stream, bitorder="little")[:n].astype(bool)

    def mac(self, *parts: bytes) -> bytes:
        """32 bytes: HMAC-SHA256 over the parts, each preceded by its length."""
        message = b"".join(len(p).to_bytes(8, "big") + p for p in parts)
        return hmac.digest(_hkdf(self.__raw, "mac"), message, "sha256")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and hmac.compare_digest(self.__raw, other.__raw)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"SecretKey(id={self.id})"

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a SecretKey is neither pickled nor copied: pass the key file's path instead")

    __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refuse  # type: ignore[assignment]
