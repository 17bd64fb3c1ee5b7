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
coordinator/adversary/pooled_key_recovery.py for what that costs.

Key space: N!·((M/2)²)!, that is 2^1511 at 224×224 with M = 16; at most 2^256 with a 32-byte key.
Differs from the source in nothing but where K1 and K2 come from (HKDF and ChaCha20, not a NumPy seed).
Sealed images have the plain shape and dtype. Raises CipherwardError where M is odd.
"""

from __future__ import annotations

import numpy as np

from crypto.apply import Table, TableCipher
from crypto.blocks import block_pixels, quarter_pixels
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial


class BlockPixelShuffle:
    version = 1
    tolerance = 0.0

    def __init__(self, spec: SchemeSpec) -> None:
        if spec.block % 2:
            raise CipherwardError(
                f"block_pixel_shuffle halves its blocks, and {spec.block} is odd",
                "choose an even block, such as 16",
            )
        self.spec = spec
        self.sealed_shape = spec.image_shape
        self.sealed_dtype = np.dtype(np.uint8)

    def cipher(self, key: SecretKey) -> TableCipher:
        """The tables of one key, built once."""
        parts = self.parts(key)
        return TableCipher(self.table(parts["K1"], parts["K2"]))

    def parts(self, key: SecretKey) -> dict[str, np.ndarray]:
        """K1 int64 [N] and K2 int64 [(M/2)²] of a key."""
        sub = key.derive("block_pixel_shuffle", str(self.version))
        return {
            "K1": sub.permutation("K1", self.spec.blocks),
            "K2": sub.permutation("K2", (self.spec.block // 2) ** 2),
        }

    def table(self, k1: np.ndarray, k2: np.ndarray) -> Table:
        """The pixel table of K1 and K2: steps 1 to 6 as one gather."""
        height, width, channels = self.spec.image_shape
        cells = block_pixels(height, width, self.spec.block)  # [N, M*M]
        quarters = quarter_pixels(self.spec.block)  # [4, S]
        within = np.empty(self.spec.block**2, np.int64)
        within[quarters] = quarters[:, k2]
        gather = np.empty(height * width, np.int32)
        gather[cells] = cells[k1][:, within]
        return Table(gather, None, channels)

    def formula_bits(self) -> float:
        """log2 of the paper's key space N!·((M/2)²)!."""
        return log2_factorial(self.spec.blocks) + log2_factorial((self.spec.block // 2) ** 2)
