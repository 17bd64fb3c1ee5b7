"""Block-pixel encryption: our reading of Al Amin et al. 2024.

Source: arXiv 2411.05901 (companion 2501.15363), of which only the abstract could be read: a "block-pixel
operation" cuts the image into patches, scrambles them with a unique key and shuffles their order. The
algorithm's details are not public to us; **this is a documented reading, not a re-implementation**:

1. cut into N blocks of M×M;
2. K1, a permutation of N: block i of the result is block K1[i];
3. flatten every block to M·M·c values, in (row, column, channel) order;
4. K2, a permutation of those for every block i of its own ("unique pattern per key"): v'(k) = v(K2[i][k]);
5. negative-positive: v'(k) becomes 255 - v'(k) where mask[i][k] is set, a mask for every block of its own;
6. put the blocks back.

Key space: N!·((M²c)!·2^(M²c))^N, that is 2^1,378,581 at 224×224×3 with M = 16; at most 2^256 with a 32-byte key.
"""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.invariants import folded_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import EVERY_MOVE
from crypto.unit_layout import UnitLayout


class BlockPixel:
    """Block-pixel encryption with the parameters of a spec."""

    version = 2
    source = "our reading of Al Amin 2024, 2411.05901"
    orbit = EVERY_MOVE
    kept = "the histogram of min(v, 255 − v)"
    moves_blocks = True

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self.unit_layout = UnitLayout(spec.image_shape, spec.block, moves_blocks=True, signed=True)
        self._values = spec.block**2 * spec.image_shape[2]

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return K1 int64 [N], K2 int64 [N, M²c] and mask bool [N, M²c]."""
        shape = (self.spec.blocks, self._values)
        return {
            "K1": sub.permutation("K1", shape[0]),
            "K2": sub.permutations("K2", *shape),
            "mask": sub.bits("mask", shape[0] * shape[1]).reshape(shape),
        }

    def table(self, parts: Parts) -> Table:
        """Return steps 1 to 6 as one table over values."""
        block, mask = self.spec.block, parts["mask"].astype(np.uint8) * np.uint8(255)
        return Table(self.spec.image_shape, (block, block), parts["K1"], parts["K2"], mask)

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        return TableCipher(self.table(parts))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of min(v, 255 - v): int32 [n, 128]."""
        return folded_histograms(images)

    def formula_bits(self) -> float:
        """Return log2 of N!·((M²c)!·2^(M²c))^N."""
        n = self.spec.blocks
        return log2_factorial(n) + n * (log2_factorial(self._values) + self._values)
