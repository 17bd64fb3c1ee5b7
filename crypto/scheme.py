"""The schemes, by name. Adding one: a file in crypto/schemes, a line in SCHEMES, a vector file."""

from __future__ import annotations

import secrets
from typing import Any, Protocol

import numpy as np

from crypto.errors import CipherwardError, unknown
from crypto.key import KEY_BYTES, SecretKey
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle
from crypto.schemes.noise import Noise
from crypto.schemes.plain import Plain
from crypto.spec import SchemeSpec


class Cipher(Protocol):
    """A scheme under one key, its tables built."""

    def encrypt(self, images: np.ndarray, first: int = 0) -> np.ndarray:
        """[n, *image_shape] uint8 → [n, *sealed_shape]; `first` is the row of the first image."""

    def decrypt(self, images: np.ndarray, first: int = 0) -> np.ndarray:
        """[n, *sealed_shape] → [n, *image_shape] uint8."""


class Scheme(Protocol):
    """An encryption algorithm with its public parameters set."""

    version: int
    tolerance: float  # largest error of decrypt(encrypt(x)); 0 where exact
    spec: SchemeSpec
    sealed_shape: tuple[int, int, int]
    sealed_dtype: np.dtype

    def cipher(self, key: SecretKey) -> Cipher:
        """The scheme under a key."""

    def parts(self, key: SecretKey) -> dict[str, np.ndarray]:
        """The key's permutations and masks by the paper's names: what a recovered key is compared with."""

    def formula_bits(self) -> float:
        """log2 of the key space that the scheme's paper claims."""


SCHEMES: dict[str, Any] = {
    "block_pixel_shuffle": BlockPixelShuffle,
    "plain": Plain,
    "noise": Noise,
}


def describe(
    name: str, image_shape: tuple[int, int, int], block: int, key_scope: str = "consortium"
) -> SchemeSpec:
    """The spec of a new sealing under a known scheme, with a fresh nonce where the scheme wants one."""
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    kind = SCHEMES[name]
    options = {"nonce": secrets.token_hex(16)} if getattr(kind, "wants_nonce", False) else {}
    spec = SchemeSpec(name, kind.version, image_shape, block, key_scope, options)
    load(spec)
    return spec


def load(spec: SchemeSpec) -> Scheme:
    """The scheme that a spec names; raises CipherwardError for an unknown name or version."""
    if spec.name not in SCHEMES:
        raise unknown("scheme", spec.name, SCHEMES)
    scheme: Scheme = SCHEMES[spec.name](spec)
    if scheme.version != spec.version:
        raise CipherwardError(
            f"{spec.name} version {spec.version} was asked for; this program has {scheme.version}",
            "open the set with the program version that sealed it, or seal it again",
        )
    return scheme


def effective_bits(scheme: Scheme) -> float:
    """min(formula, 256): however large the formula's key space, the key has 32 bytes."""
    return min(scheme.formula_bits(), 8.0 * KEY_BYTES)
