"""Extended learnable encryption (Madono, Tanaka, Onishi, Ogawa 2020).

Source: arXiv 2001.07761. An image [h, w, c] uint8, N blocks of B×B (B = 4 in the paper):

1. every block i goes through the steps of `le` (crypto/schemes/le.py) with a permutation and a reversal mask of
   its own;
2. K1, a permutation of N: block i of the result is encrypted block K1[i].

Option mask: `tied` or `independent`, as in `le`.

Key space: {(6B²)!·2^(6B²)}^N·N! for RGB; at most 2^256 with a 32-byte key. Gray images, which the paper does not
treat, take the same steps over B² bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.invariants import nibble_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.schemes.le import distinct_key_bits, draw_keys, reversal_bytes
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import EVERY_MOVE
from crypto.unit_layout import UnitLayout


class Ele:
    """Extended learnable encryption with the parameters of a spec."""

    version = 2
    source = "Madono 2020, 2001.07761"
    orbit = EVERY_MOVE
    kept = "the histograms of the blocks' nibbles"
    moves_blocks = True
    options: ClassVar[Mapping[str, Sequence[Any]]] = {"mask": ("tied", "independent")}

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self.unit_layout = UnitLayout(
            spec.image_shape, spec.block, "nibble", moves_blocks=True, signed=True
        )
        self._nibbles = 2 * spec.block**2 * spec.image_shape[2]

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return keys int64 [N, 2V] and reversal bool [N, 2V], both by plain block, and K1 int64 [N]."""
        n = self.spec.blocks
        keys, reversal = draw_keys(sub, n, self._nibbles, str(self.spec.options["mask"]))
        return {"keys": keys, "reversal": reversal, "K1": sub.permutation("K1", n)}

    def table(self, parts: Parts) -> Table:
        """Return both steps as one table over nibbles."""
        order, block = parts["K1"], self.spec.block
        mask = reversal_bytes(parts["keys"], parts["reversal"])[order]
        return Table(self.spec.image_shape, (block, block), order, parts["keys"][order], mask, "nibble")

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        return TableCipher(self.table(parts))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histograms of the blocks' folded nibbles, in an order of their own: int32 [n, N·8]."""
        return nibble_histograms(images, self.spec.block, ordered=False)

    def formula_bits(self) -> float:
        """Return log2 of {(2V)!·2^(2V)}^N·N!."""
        n = self.spec.blocks
        return n * (log2_factorial(self._nibbles) + self._nibbles) + log2_factorial(n)

    def distinct_bits(self) -> float:
        """Return log2 of the number of keys that differ in what they do (see `distinct_key_bits` of `le`)."""
        n = self.spec.blocks
        return n * distinct_key_bits(self._nibbles, str(self.spec.options["mask"])) + log2_factorial(n)
