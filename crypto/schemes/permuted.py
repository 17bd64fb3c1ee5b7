"""A fresh uniform permutation of all values for every image: the second negative control of every audit.

Source: control. The permutation of a row is drawn from the row's own key. That key is derived with the sealing's
nonce whatever the key scope, so no two images share one and no pool can tell where a value came from. Only the
histogram of all values together is left. An attack that "breaks" it reads the histogram, or measures something else.
That an image can be linked by its histogram is no break, and a report states it separately.

Key space: (h·w·c)! an image by the formula, at most 2^256 with a 32-byte key.
"""

from __future__ import annotations

import math

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.invariants import value_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial


class Permuted:
    """A permutation for every image with the parameters of a spec."""

    version = 2
    source = "control: a permutation an image"
    row_keys = True
    is_control = True
    kept = "the histogram of all values"

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return values int64 [h·w·c] of one row: value i of the result is value values[i] of the image."""
        return {"values": sub.permutation("values", math.prod(self.spec.image_shape))}

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        shape = self.spec.image_shape
        return TableCipher(Table(shape, shape[:2], inner=parts["values"][None]))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of all values: int32 [n, 256]."""
        return value_histograms(images)

    def formula_bits(self) -> float:
        """Return log2 of (h·w·c)!."""
        return log2_factorial(math.prod(self.spec.image_shape))
