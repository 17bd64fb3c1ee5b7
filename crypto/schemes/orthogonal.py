"""Keyed orthogonal blocks.

Source: the orthogonal-matrix block encryption of Kiya's school. We could read only abstracts. An
image [h, w, c] uint8, blocks of M×M, V = M²c values each:

1. flatten every block in (row, column, channel) order and centre it at mid-gray: x - 127.5;
2. multiply by one keyed orthogonal matrix: y = (x - 127.5)·Q, Q [V, V], the same for every block of every image;
3. y + 127.5 in place of the block, as float32 in units of gray levels; the blocks stay where they are.

Centring is our choice: the model's input is (y - 127.5) / 127.5, on which Q then acts as a rotation, so that a
hospital can carry a stem into the key's coordinates and nothing else changes.

Q is uniform by Haar's measure over a continuum, of which `formula_bits` counts what an image can show: V(V-1)/2
angles to 8 bits each and the sign of the determinant. This count is ours. It passes
the key's own 256 bits, where it stops, from V = 9; with V = 1, which only turns or keeps the negative, it is 1 bit.
Sealed images are float32 and four times as large; they return to whole gray levels exactly, since float32 keeps
the round trip within 0.01 of a level.
"""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, Float64Array, Parts
from crypto.cipher import MatrixCipher
from crypto.invariants import block_lengths
from crypto.key import KEY_BYTES, SecretKey
from crypto.spec import SchemeSpec
from crypto.symmetry import Orbit

#: Bits of an angle that show: a turn by 2π/256 moves a value at the end of its range by about 3 levels.
_ANGLE_BITS = 8


class Orthogonal:
    """Keyed orthogonal blocks with the parameters of a spec."""

    version = 2
    source = "Kiya's school, abstracts only"
    sealed_dtype = np.dtype(np.float32)
    orbit = Orbit(negatives=True, orders=True)
    kept = "the blocks' lengths"
    #: Largest difference of two blocks' lengths, in gray levels, that float32 makes is 0.01 at 768 values.
    invariant_tolerance = 0.1
    carries_stem = True

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return matrix float32 [M²c, M²c]."""
        return {"matrix": sub.orthogonal("matrix", self.spec.block**2 * self.spec.image_shape[2])}

    def cipher(self, parts: Parts) -> MatrixCipher:
        """Return the cipher that these parts make."""
        return MatrixCipher(self.spec.image_shape, self.spec.block, parts["matrix"])

    def invariants(self, images: AnyArray) -> Float64Array:
        """Return the length of every block about mid-gray: float64 [n, N]."""
        return block_lengths(images, self.spec.block)

    def formula_bits(self) -> float:
        """Return 8 bits for each of Q's V(V-1)/2 angles and 1 for its sign, at most the key's 256."""
        values = self.spec.block**2 * self.spec.image_shape[2]
        return float(min(8 * KEY_BYTES, _ANGLE_BITS * (values * (values - 1) // 2) + 1))
