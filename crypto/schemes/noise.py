"""XOR with a fresh keystream for every image: the negative control of every audit.

Source: textbook stream encryption. The keystream of a row is ChaCha20 under HKDF(key, nonce), labelled
by the row, so no two images share one: nothing of an image is left in its ciphertext, no model can learn
from it, and an attack that "breaks" it is measuring something else. `options["nonce"]` (32 hex digits,
public) must be fresh for every sealing; `seal` draws it.

Key space: 8·h·w·c bits an image by the formula, 2^256 with a 32-byte key.
"""

from __future__ import annotations

import math

import numpy as np

from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.spec import SchemeSpec


class Noise:
    version = 1
    tolerance = 0.0
    wants_nonce = True

    def __init__(self, spec: SchemeSpec) -> None:
        if not spec.options.get("nonce"):
            raise CipherwardError("noise needs a nonce, or two sealings would share their masks")
        self.spec = spec
        self.sealed_shape = spec.image_shape
        self.sealed_dtype = np.dtype(np.uint8)

    def cipher(self, key: SecretKey) -> NoiseCipher:
        sub = key.derive("noise", str(self.version), str(self.spec.options["nonce"]))
        return NoiseCipher(sub, self.spec.image_shape)

    def parts(self, key: SecretKey) -> dict[str, np.ndarray]:
        """Nothing to compare with: no two images share a mask."""
        return {}

    def formula_bits(self) -> float:
        return 8.0 * math.prod(self.spec.image_shape)


class NoiseCipher:
    def __init__(self, key: SecretKey, shape: tuple[int, int, int]) -> None:
        self._key, self._shape = key, shape

    def encrypt(self, images: np.ndarray, first: int = 0) -> np.ndarray:
        """uint8 [n, h, w, c] → uint8 [n, h, w, c]; image i is masked with the stream of row first + i."""
        size = math.prod(self._shape)
        out = np.array(images, dtype=np.uint8)
        for i in range(len(out)):
            out[i] ^= self._key.keystream(f"row/{first + i}", size).reshape(self._shape)
        return out

    decrypt = encrypt
