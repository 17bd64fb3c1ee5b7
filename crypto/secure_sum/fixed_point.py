"""Numbers of an update as integers modulo 2^32, so that sums are exact and masks hide them perfectly.

    float ──× weight, clipped to ±clip, × scale, rounded──▶ int32 ──mod 2^32──▶ uint32

The scale is the largest power of two at which the sum of all members cannot wrap. Three members and a clip of 1 give
2^29: a resolution of 2e-9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crypto.arrays import Float32Array, Float64Array, UInt32Array
from crypto.errors import CipherwardError

MODULUS_BITS = 32


@dataclass(frozen=True)
class FixedPoint:
    """How the numbers of a round are written as integers.

    Attributes:
        clip: the largest magnitude of one number; what exceeds it is set to it and counted.
        members: how many hospitals may be summed at most.
    """

    clip: float
    members: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise CipherwardError(f"a clip of {self.clip} is no positive number", "set it to, say, 1.0")
        if self.members < 1 or self.scale < 2**8:
            raise CipherwardError(
                f"{self.members} hospitals and a clip of {self.clip} leave too few bits for a number",
                "set privacy.sum_clip lower",
            )

    @property
    def scale(self) -> float:
        """Integers per unit: a power of two, so that scaling itself rounds nothing.

        Each member's largest number may be rounded up, by less than 1.
        """
        largest = max(1, 2 ** (MODULUS_BITS - 1) - 1 - self.members)
        return 2.0 ** math.floor(math.log2(largest / (self.members * self.clip)))

    @property
    def resolution(self) -> float:
        """The smallest difference that is kept."""
        return 1 / self.scale

    def encode(self, values: Float32Array | Float64Array, weight: float) -> tuple[UInt32Array, int]:
        """Return weighted values as integers, and how many of the values were clipped.

        Args:
            values: float [n].
            weight: the hospital's weight in the mean, above 0 and at most 1.

        Raises:
            CipherwardError: if a value is not finite, or the weight is not in range.
        """
        if not 0 < weight <= 1:
            raise CipherwardError(f"a weight of {weight} is not above 0 and at most 1", "")
        wide = np.asarray(values, np.float64)
        if not np.isfinite(wide).all():
            raise CipherwardError(
                "the update holds values that are not finite", "lower the learning rate, or set clip"
            )
        saturated = int(np.count_nonzero(np.abs(wide) > self.clip))
        integers = np.rint(np.clip(wide, -self.clip, self.clip) * (weight * self.scale)).astype(np.int64)
        return (integers & 0xFFFFFFFF).astype(np.uint32), saturated

    def decode(self, total: UInt32Array, weight_sum: float) -> Float64Array:
        """Return the weighted mean that a sum of encoded vectors stands for, float64 [n].

        Args:
            total: uint32 [n], the sum modulo 2^32.
            weight_sum: the sum of the weights of those who are in it.
        """
        return total.view(np.int32).astype(np.float64) / (self.scale * weight_sum)
