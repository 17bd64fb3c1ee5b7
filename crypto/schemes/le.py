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

Key space as published: (6B²)!·2^(6B²) = 2^594 for RGB; the reference ties the mask to the permutation, which
leaves 96! = 2^498. At most 2^256 with a 32-byte key. Gray images, which the paper does not treat, take the same
steps over B² bytes. Differs from the reference in where the key comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.cipher import TableCipher
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial


class Le:
    version = 1
    source = "Tanaka 2018, 1804.00490"
    options: ClassVar[Mapping[str, Sequence[Any]]] = {"mask": ("tied", "independent")}

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self._nibbles = 2 * spec.block**2 * spec.image_shape[2]

    def parts(self, sub: SecretKey) -> dict[str, np.ndarray]:
        """key int64 [2V] and reversal bool [2V]."""
        keys, reversal = draw(sub, 1, self._nibbles, str(self.spec.options["mask"]))
        return {"key": keys[0], "reversal": reversal[0]}

    def table(self, parts: Mapping[str, np.ndarray]) -> Table:
        """Steps 1 to 6 as one table over nibbles."""
        block, keys = self.spec.block, parts["key"][None]
        mask = reversal_bytes(keys, parts["reversal"][None])
        return Table(self.spec.image_shape, (block, block), None, keys, mask, "nibble")

    def cipher(self, parts: Mapping[str, np.ndarray]) -> TableCipher:
        return TableCipher(self.table(parts))

    def formula_bits(self) -> float:
        """log2 of the paper's (2V)!·2^(2V)."""
        return log2_factorial(self._nibbles) + self._nibbles


def draw(sub: SecretKey, count: int, nibbles: int, mask: str) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [count, nibbles] permutations, bool [count, nibbles] reversal masks), tied or independent."""
    keys = sub.permutations("key", count, nibbles)
    if mask == "tied":
        return keys, keys > nibbles // 2  # not ≥: as the reference does
    return keys, sub.bits("reversal", count * nibbles).reshape(count, nibbles)


def reversal_bytes(keys: np.ndarray, reversal: np.ndarray) -> np.ndarray:
    """uint8 [count, V]: steps 3 and 5 as one mask over the result's bytes."""
    # A nibble is reversed before it moves, at place p[j], and after, at place j: twice cancels out.
    flips = (np.take_along_axis(reversal, keys, 1) ^ reversal).astype(np.uint8) * np.uint8(15)
    low, high = np.split(flips, 2, axis=1)
    return low | high << 4
