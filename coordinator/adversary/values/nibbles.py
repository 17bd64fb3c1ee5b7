"""The nibbles of a block: which slot of the sealed block holds which, and whether it is reversed there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array


@dataclass(frozen=True)
class Nibbles:
    """The nibbles of a block. Slots are positions of nibbles in the sealed block, low half first.

    Attributes:
        high: int64 [V], by plain value, the slot that holds its high nibble.
        low: int64 [V], by plain value, the slot that holds its low nibble.
        high_flip: bool [V], whether the high nibble is reversed.
        low_flip: bool [V], whether the low nibble is reversed.
        confidence: float64 [V], the correlation by which the low nibble was identified.
        fit: How well the layout explains the correlations of values, at most 1 (values/layout_fit.py).
    """

    high: Int64Array
    low: Int64Array
    high_flip: BoolArray
    low_flip: BoolArray
    confidence: Float64Array
    fit: float = 0.0

    def by_slot(self) -> tuple[Int64Array, BoolArray]:
        """Return (int64 [2V], bool [2V]): the plain nibble that every slot holds, and whether it is reversed."""
        size = len(self.high)
        nibble, flips = np.empty(2 * size, np.int64), np.empty(2 * size, bool)
        nibble[self.low], nibble[self.high] = np.arange(size), size + np.arange(size)
        flips[self.low], flips[self.high] = self.low_flip, self.high_flip
        return nibble, flips

    def permuted(self, permutation: Int64Array, negative: bool | BoolArray = False) -> Nibbles:
        """Return the nibbles with value k as value permutation[k], 255 minus itself where negative (bool [V])."""
        inverse = np.argsort(permutation)
        return Nibbles(
            self.high[inverse],
            self.low[inverse],
            self.high_flip[inverse] ^ negative,
            self.low_flip[inverse] ^ negative,
            self.confidence[inverse],
            self.fit,
        )

    def to_values(self, signed: Float32Array) -> Float32Array:
        """Return whole values about mid-gray, float32 [..., V], of signed nibbles float32 [..., 2V]."""
        high = signed[..., self.high] * np.where(self.high_flip, np.float32(-16), np.float32(16))
        low = signed[..., self.low] * np.where(self.low_flip, np.float32(-1), np.float32(1))
        values: Float32Array = high + low
        return values
