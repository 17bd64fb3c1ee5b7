"""Learnable encryption (Tanaka 2018).

Source: arXiv 1804.00490 and the author's Python reference. An image [h, w, c] uint8, blocks of B×B (B = 4 in
the paper); the same key for every block of every image:

1. flatten the block in (row, column, channel) order: V = B²c bytes (48);
2. split every byte into its low and its high nibble, all low ones first, then all high ones: 2V nibbles (96);
3. reverse intensity: v becomes 15 - v at the positions of the reversal mask;
4. shuffle: y(j) = x(p[j]), p a permutation of 2V;
5. reverse again, at the same positions of the result;
6. put the nibbles together, low ones first.

Option mask: `tied` (the reference: position j is reversed where p[j] > V) or `independent` (drawn).

Key space as published: (6B²)!·2^(6B²) = 2^594 for RGB. The reference ties the mask to the permutation, which
leaves 96! = 2^498. Independent masks leave (12B²)!/((6B²)!·2^(6B²)) = 2^590 keys that differ in what they do.
At most 2^256 with a 32-byte key. Gray images, which the paper does not treat, take the same steps over B² bytes.
Differs from the reference in where the key comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.arrays import AnyArray, BoolArray, Images, Int32Array, Int64Array, Parts, UInt8Array
from crypto.cipher import TableCipher
from crypto.invariants import nibble_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import Orbit
from crypto.unit_layout import UnitLayout


class Le:
    """Learnable encryption with the parameters of a spec."""

    version = 2
    source = "Tanaka 2018, 1804.00490"
    orbit = Orbit(negatives=True, orders=True)
    kept = "the histograms of the blocks' nibbles"
    options: ClassVar[Mapping[str, Sequence[Any]]] = {"mask": ("tied", "independent")}

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self.unit_layout = UnitLayout(spec.image_shape, spec.block, "nibble", shared=True, signed=True)
        self._nibbles = 2 * spec.block**2 * spec.image_shape[2]

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return key int64 [2V] and reversal bool [2V]."""
        keys, reversal = draw_keys(sub, 1, self._nibbles, str(self.spec.options["mask"]))
        return {"key": keys[0], "reversal": reversal[0]}

    def table(self, parts: Parts) -> Table:
        """Return steps 1 to 6 as one table over nibbles."""
        block, keys = self.spec.block, parts["key"][None]
        mask = reversal_bytes(keys, parts["reversal"][None])
        return Table(self.spec.image_shape, (block, block), None, keys, mask, "nibble")

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        return TableCipher(self.table(parts))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of every block's folded nibbles, in place: int32 [n, N·8]."""
        return nibble_histograms(images, self.spec.block, ordered=True)

    def formula_bits(self) -> float:
        """Return log2 of the paper's (2V)!·2^(2V)."""
        return log2_factorial(self._nibbles) + self._nibbles

    def distinct_bits(self) -> float:
        """Return log2 of the number of keys that differ in what they do."""
        return distinct_key_bits(self._nibbles, str(self.spec.options["mask"]))


def distinct_key_bits(nibbles: int, mask: str) -> float:
    """Return log2 of the number of distinct pairs of a permutation of n nibbles and the net reversals.

    A tied mask follows from the permutation: n!. With an independent one, position j is reversed where the mask
    differs between p[j] and j. So reversals cancel out along every cycle of p, which leaves 2^(n - cycles) of them.
    Summed over all permutations that is 1·3·5·…·(2n - 1).
    """
    if mask == "tied":
        return log2_factorial(nibbles)
    return log2_factorial(2 * nibbles) - log2_factorial(nibbles) - nibbles


def draw_keys(sub: SecretKey, count: int, nibbles: int, mask: str) -> tuple[Int64Array, BoolArray]:
    """Draw permutations int64 [count, nibbles] and reversal masks bool [count, nibbles] from a sub-key.

    Args:
        sub: The sub-key.
        count: Number of keys: 1, or one a block.
        nibbles: Nibbles of a block.
        mask: `tied` or `independent`.
    """
    keys = sub.permutations("key", count, nibbles)
    if mask == "tied":
        return keys, keys > nibbles // 2  # not ≥: as the reference does
    return keys, sub.bits("reversal", count * nibbles).reshape(count, nibbles)


def reversal_bytes(keys: Int64Array, reversal: BoolArray) -> UInt8Array:
    """Return steps 3 and 5 as one mask over the result's bytes, uint8 [count, V]."""
    # A nibble is reversed before it moves, at position p[j], and after, at position j: twice cancels out.
    flips = (np.take_along_axis(reversal, keys, 1) ^ reversal).astype(np.uint8) * np.uint8(15)
    low, high = np.split(flips, 2, axis=1)
    mask: UInt8Array = low | high << 4
    return mask
