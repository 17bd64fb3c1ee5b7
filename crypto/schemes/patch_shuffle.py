"""Patches in another order for every image, and no key to keep: a Vision Transformer that ignores their order.

Source: the random shuffling of PEViT, "Privacy-Preserving Vision Transformer on Permutation-Encrypted Images" (2023
submission; "Human-Imperceptible, Machine-Recognizable Images", IJCAI 2025), of which we could read the abstracts: an
image is cut into patches of equal size, and they are put in a random order. An image [h, w, c] uint8, blocks of M×M,
the ViT's patch: block i of the result is block K1[i], with a K1 of its own for every image. Pixels stay as they are.

The paper's network is equivariant to the order, so nobody needs K1 again. Here K1 comes from the hospital's key all
the same, from a sub-key that covers the sealing's fresh nonce and the row: an interrupted sealing goes on with the
same bytes, and `unseal` puts the patches back. To whoever lacks the key it is a fresh order for every image, whatever
the key scope. The paper's other form, which mixes sub-patches up, is not built: its steps could not be read.

Key space: N! an image. Every patch is in plain sight, which no key space counts.
"""

from __future__ import annotations

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.invariants import channel_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial


class PatchShuffle:
    """Patches in another order for every image, with the parameters of a spec."""

    version = 2
    source = "PEViT, random shuffling"
    row_keys = True
    kept = "the histogram of every colour"
    moves_blocks = True

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return K1 int64 [N] of one row."""
        return {"K1": sub.permutation("K1", self.spec.blocks)}

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher of one row, that these parts make."""
        block = self.spec.block
        return TableCipher(Table(self.spec.image_shape, (block, block), parts["K1"]))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of every channel: int32 [n, c·256]."""
        return channel_histograms(images)

    def formula_bits(self) -> float:
        """Return log2 of N!."""
        return log2_factorial(self.spec.blocks)
