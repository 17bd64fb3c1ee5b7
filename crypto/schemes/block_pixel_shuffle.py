"""Block and pixel shuffling for the Vision Transformer (Qi, MaungMaung, Kinoshita, Kiya 2022).

Source: arXiv 2205.12041, section III. An image [h, w, c] uint8, blocks of M×M, N = hw/M² of them:

1. cut into N blocks of M×M, M being the ViT's patch size;
2. K1, a permutation of N: block i of the result is block K1[i] of the image;
3. cut every block into four (M/2)×(M/2) sub-blocks, which stay where they are in the block;
4. flatten each sub-block to S = (M/2)² pixels, whose channels stay together;
5. K2, a permutation of S: v'(k) = v(K2[k]), the same K2 for every sub-block of every image;
6. put the sub-blocks back.

The same K1 and K2 serve all training and test images, so the ciphertext keeps every value histogram,
and the statistics of neighbouring pixels survive in every pair of positions: see
coordinator/adversary/recover/block_pixel_shuffle.py for what that costs.

Key space: N!·((M/2)²)!, that is 2^1511 at 224×224 with M = 16; at most 2^256 with a 32-byte key.
Differs from the source in nothing but where K1 and K2 come from (HKDF and ChaCha20, not a NumPy seed).
Sealed images have the plain shape and dtype. Raises CipherwardError where M is odd.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crypto.cipher import TableCipher
from crypto.errors import CipherwardError
from crypto.kernels.blocks import quarter_pixels
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial


class BlockPixelShuffle:
    version = 2
    source = "Qi 2022, 2205.12041"

    def __init__(self, spec: SchemeSpec) -> None:
        if spec.block % 2:
            raise CipherwardError(
                f"block_pixel_shuffle halves its blocks, and {spec.block} is odd",
                "choose an even block, such as 16",
            )
        self.spec = spec

    def parts(self, sub: SecretKey) -> dict[str, np.ndarray]:
        """K1 int64 [N] and K2 int64 [(M/2)²]."""
        return {
            "K1": sub.permutation("K1", self.spec.blocks),
            "K2": sub.permutation("K2", (self.spec.block // 2) ** 2),
        }

    def table(self, parts: Mapping[str, np.ndarray]) -> Table:
        """Steps 1 to 6 as one table over pixels."""
        block = self.spec.block
        quarters = quarter_pixels(block)  # [4, S]
        within = np.empty(block**2, np.int64)
        within[quarters] = quarters[:, parts["K2"]]
        return Table(self.spec.image_shape, (block, block), parts["K1"], within[None], unit="pixel")

    def cipher(self, parts: Mapping[str, np.ndarray]) -> TableCipher:
        return TableCipher(self.table(parts))

    def formula_bits(self) -> float:
        """log2 of the paper's key space N!·((M/2)²)!."""
        return log2_factorial(self.spec.blocks) + log2_factorial((self.spec.block // 2) ** 2)
