"""Masks: keystreams that two hospitals agree on, or one keeps, and that cancel in the sum.

    X25519(own, other) ──HKDF-SHA256(transcript)──▶ 32 bytes ──ChaCha20──▶ uint32 [n]

The lower name of a pair adds the mask, the higher one subtracts it (Bonawitz et al. 2017, section 4).
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.arrays import UInt32Array

SEED_BYTES = 32


def agree(private: X25519PrivateKey, public: bytes, transcript: bytes, purpose: str) -> bytes:
    """Return the 32 bytes that two hospitals share for a purpose in one round.

    Args:
        private: one hospital's round key.
        public: the other hospital's round key, 32 bytes.
        transcript: digest of everything that was signed in the round so far.
        purpose: what the bytes are for.

    Raises:
        ValueError: if the public key is degenerate (all-zero result).
    """
    secret = private.exchange(X25519PublicKey.from_public_bytes(public))
    info = b"cipherward secure sum 1\0" + purpose.encode()
    return HKDF(algorithm=hashes.SHA256(), length=SEED_BYTES, salt=transcript, info=info).derive(secret)


def is_degenerate(public: bytes) -> bool:
    """Return whether every agreement with this X25519 key fails, its result being zero (RFC 7748, section 6.1)."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return True
    return False


def expand(seed: bytes, length: int) -> UInt32Array:
    """Return uint32 [length]: the ChaCha20 keystream of a seed. Each seed is used once, so the nonce is zero."""
    cipher = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(4 * length)), "<u4").astype(np.uint32, copy=False)


def add_pairwise(total: UInt32Array, name: str, other: str, seed: bytes, subtract: bool = False) -> None:
    """Add to a vector, in place, the mask that `name` applies for its pair with `other`.

    Args:
        total: uint32 [n], changed in place.
        name: whose mask it is.
        other: the other one of the pair.
        seed: what both agreed on.
        subtract: take the mask away instead.
    """
    if (name < other) != subtract:
        total += expand(seed, len(total))
    else:
        total -= expand(seed, len(total))


def commitment(seed: bytes) -> bytes:
    """Return 32 bytes that bind a hospital to its self mask without showing it."""
    return hashlib.sha256(b"cipherward self mask 1\0" + seed).digest()
