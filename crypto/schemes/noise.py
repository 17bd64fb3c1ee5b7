"""XOR with a fresh keystream for every image: the negative control of every audit.

Source: textbook stream encryption. The keystream of a row is ChaCha20 under the row's own key. That key is derived
with the sealing's nonce whatever the key scope, so no two images share one. Nothing of an image is left in its
ciphertext, no model can learn from it, and an attack that "breaks" it measures something else.

Key space: 8·h·w·c bits an image by the formula, 2^256 with a 32-byte key.
"""

from __future__ import annotations

import math

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.invariants import channel_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec


class Noise:
    """One-time keystreams with the parameters of a spec."""

    version = 3
    source = "control: one-time keystreams"
    row_keys = True
    is_control = True
    #: Nothing is kept. Linking looks for the histogram and shows that it finds none.
    kept = "the histogram"

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return mask uint8 [h, w, c] of one row."""
        stream = sub.keystream("mask", math.prod(self.spec.image_shape))
        return {"mask": stream.reshape(self.spec.image_shape)}

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        shape = self.spec.image_shape
        return TableCipher(Table(shape, shape[:2], mask=parts["mask"].reshape(1, -1)))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of every channel: int32 [n, c·256]."""
        return channel_histograms(images)

    def formula_bits(self) -> float:
        """Return the bits of one image's keystream."""
        return 8.0 * math.prod(self.spec.image_shape)
