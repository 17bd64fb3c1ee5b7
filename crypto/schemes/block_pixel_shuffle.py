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
Differs from the source only in where K1 and K2 come from (HKDF and ChaCha20, not a NumPy seed).
Sealed images have the plain shape and dtype. M must be even.
"""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.errors import CipherwardError
from crypto.invariants import channel_histograms
from crypto.kernels.blocks import quarter_pixels
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import Orbit
from crypto.unit_layout import UnitLayout


class BlockPixelShuffle:
    """Block and pixel shuffling with the parameters of a spec."""

    version = 3
    source = "Qi 2022, 2205.12041"
    #: Sub-blocks stay where they are in a block, which settles the orientation.
    orbit = Orbit(shifts=True)
    kept = "the histogram"
    carries_stem = True
    moves_blocks = True

    def __init__(self, spec: SchemeSpec) -> None:
        if spec.block % 2:
            raise CipherwardError(
                f"block_pixel_shuffle halves its blocks, and {spec.block} is odd",
                "choose an even block, such as 16",
            )
        self.spec = spec
        self.unit_layout = UnitLayout(
            spec.image_shape, spec.block, "pixel", moves_blocks=True, shared=True, quarters=True
        )

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return K1 int64 [N] and K2 int64 [(M/2)²]."""
        return {
            "K1": sub.permutation("K1", self.spec.blocks),
            "K2": sub.permutation("K2", (self.spec.block // 2) ** 2),
        }

    def table(self, parts: Parts) -> Table:
        """Return steps 1 to 6 as one table over pixels."""
        block = self.spec.block
        quarters = quarter_pixels(block)  # [4, S]
        within = np.empty(block**2, np.int64)
        within[quarters] = quarters[:, parts["K2"]]
        return Table(self.spec.image_shape, (block, block), parts["K1"], within[None], unit="pixel")

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        return TableCipher(self.table(parts))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of every channel: int32 [n, c·256]."""
        return channel_histograms(images)

    def formula_bits(self) -> float:
        """Return log2 of the paper's key space N!·((M/2)²)!."""
        return log2_factorial(self.spec.blocks) + log2_factorial((self.spec.block // 2) ** 2)
