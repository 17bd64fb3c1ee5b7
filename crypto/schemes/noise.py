"""XOR with a fresh keystream for every image: the negative control of every audit.

Source: textbook stream encryption. The keystream of a row is ChaCha20 under the row's own key, derived with the
sealing's nonce whatever the key scope, so no two images share one: nothing of an image is left in its ciphertext,
no model can learn from it, and an attack that "breaks" it is measuring something else.

Key space: 8·h·w·c bits an image by the formula, 2^256 with a 32-byte key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from crypto.cipher import TableCipher
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec


class Noise:
    version = 2
    source = "control: one-time keystreams"
    row_keys = True

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec

    def parts(self, sub: SecretKey) -> dict[str, np.ndarray]:
        """mask uint8 [h, w, c] of one row."""
        stream = sub.keystream("mask", math.prod(self.spec.image_shape))
        return {"mask": stream.reshape(self.spec.image_shape)}

    def cipher(self, parts: Mapping[str, np.ndarray]) -> TableCipher:
        shape = self.spec.image_shape
        return TableCipher(Table(shape, shape[:2], mask=parts["mask"].reshape(1, -1)))

    def formula_bits(self) -> float:
        return 8.0 * math.prod(self.spec.image_shape)
