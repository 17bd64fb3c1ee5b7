"""SecretKey: 32 bytes, from which every scheme's permutations, bits and keystreams are drawn.

    SecretKey ──HKDF-SHA256(context)──▶ sub-key ──ChaCha20 keystream──▶ uint64 words, bits, bytes

We use neither NumPy's nor Python's generators: they promise no stable stream across versions, and a search of all
seeds finds a key that was drawn from their 32-bit seeds. Known-answer vectors in tests/vectors/key.json pin every
byte here. A change of any byte needs new scheme versions.
"""

from __future__ import annotations

import hmac
import secrets
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array

KEY_BYTES = 32
_DOMAIN = "cipherward/1"
#: The largest float64 below 1.
_BELOW_ONE = 1 - 2.0**-53


def _hkdf(key: bytes, *context: str, length: int = KEY_BYTES) -> bytes:
    """Return `length` bytes of HKDF-SHA256 over the context."""
    # The length precedes each part, so that ("ab", "c") and ("a", "bc") never give the same bytes.
    parts = [_DOMAIN, *context]
    info = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(key)


class SecretKey:
    """A 256-bit symmetric key. Printing shows its public id only; pickling and copying raise TypeError."""

    __slots__ = ("__raw", "id")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, this one has {len(raw)}")
        self.__raw = bytes(raw)
        #: 16 hex digits that tell keys apart and reveal nothing of them (HKDF output).
        self.id: str = _hkdf(self.__raw, "id", length=8).hex()

    @classmethod
    def generate(cls) -> SecretKey:
        """Return a fresh key from the operating system's generator."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def reveal(self) -> bytes:
        """Return the raw 32 bytes: for the key file alone."""
        return self.__raw

    def derive(self, *context: str) -> SecretKey:
        """Return the sub-key of a purpose, by HKDF-SHA256 over all context parts in order."""
        return SecretKey(_hkdf(self.__raw, "derive", *context))

    def keystream(self, label: str, n: int) -> UInt8Array:
        """Return uint8 [n]: ChaCha20 keystream under the label's sub-key, from block 0 with a zero nonce.

        The zero nonce is sound because each label has a key of its own.
        """
        cipher = Cipher(algorithms.ChaCha20(_hkdf(self.__raw, "stream", label), bytes(16)), mode=None)
        return np.frombuffer(cipher.encryptor().update(bytes(n)), np.uint8)

    def permutation(self, label: str, n: int) -> Int64Array:
        """Return int64 [n], a uniform permutation of 0..n-1."""
        permutation: Int64Array = self.permutations(label, 1, n)[0]
        return permutation

    def permutations(self, label: str, count: int, n: int) -> Int64Array:
        """Return int64 [count, n], independent uniform permutations of 0..n-1.

        They are the sorting orders of `count` rows of n 64-bit little-endian words. A draw in which a row has two
        equal words is rejected as a whole, which keeps every order equally likely.
        """
        draw = 0
        while True:
            words = (
                self.keystream(f"{label}/permutation/{draw}", 8 * count * n).view("<u8").reshape(count, n)
            )
            order = np.argsort(words, axis=1, kind="stable")
            ordered = np.take_along_axis(words, order, 1)
            if (ordered[:, 1:] != ordered[:, :-1]).all():
                return order.astype(np.int64)
            draw += 1

    def integers(self, label: str, n: int, below: int) -> Int64Array:
        """Return int64 [n], uniform in 0..below-1, from 64-bit words.

        A draw with a word that would favour the small values is rejected as a whole.
        """
        draw = 0
        while True:
            words = self.keystream(f"{label}/integers/{draw}", 8 * n).view("<u8")
            if (words <= np.uint64(2**64 // below * below - 1)).all():
                return (words % np.uint64(below)).astype(np.int64)
            draw += 1

    def orthogonal(self, label: str, n: int) -> Float32Array:
        """Return float32 [n, n], an orthogonal matrix, uniform by Haar's measure.

        It is the Q of a Gaussian matrix whose R has a positive diagonal (Mezzadri 2007). LAPACK's rounding may
        differ between machines in the last bits.
        """
        q, r = np.linalg.qr(self.normals(label, n * n).reshape(n, n))
        return (q * np.sign(np.diag(r))).astype(np.float32)

    def normals(self, label: str, n: int) -> Float64Array:
        """Return float64 [n], independent standard Gaussians: the inverse CDF of 53 random bits each."""
        # scipy.special takes a quarter of a second to load, and most schemes draw no Gaussians.
        from scipy.special import ndtri

        words = self.keystream(f"{label}/normal", 8 * n).view("<u8")
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        # float64 rounds the largest of them up to 1, whose Gaussian is infinite.
        normals: Float64Array = ndtri(np.minimum(uniform, _BELOW_ONE))
        return normals

    def uniforms(self, label: str, n: int) -> Float64Array:
        """Return float64 [n], uniform in [0, 1): 53 random bits each."""
        words = self.keystream(f"{label}/uniform", 8 * n).view("<u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bits(self, label: str, n: int) -> BoolArray:
        """Return bool [n], uniform bits, least significant first within each keystream byte."""
        stream = self.keystream(f"{label}/bits", (n + 7) // 8)
        return np.unpackbits(stream, bitorder="little")[:n].astype(bool)

    def mac(self, *parts: bytes) -> bytes:
        """Return 32 bytes: HMAC-SHA256 over the parts, each preceded by its length."""
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

    __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refuse
