"""Encryption-then-compression by sub-blocks, for an encrypted Vision Transformer (Hamano, Imaizumi, Kiya 2023).

Source: Sensors 23 (2023) 3400, "Effects of JPEG Compression on Vision Transformer Image Classification for
Encryption-then-Compression Images", section 3.2, of which we read the steps i-1 to i-8. An image [h, w, c] uint8,
main blocks of M×M (the ViT's patch), each cut into S sub-blocks of m×m, `sub_block`:

1. K1: sub-block j of a main block of the result is its sub-block K1[j];
2. K2: every sub-block is rotated and flipped: one of eight states, turn[j] (crypto/symmetry.py);
3. K3: negative-positive: every value v becomes 255 - v where negative[j] is set;
4. K4: the components of a sub-block are put in one of six orders, order[j] (gray images skip this step);
5. K5: main block i of the result is main block K5[i] of the image.

The paper normalises pixels before step 4, which is left to the model here: sealed images are bytes, so that JPEG can
compress them. That K1 to K4 are the same in every main block is our reading of the paper's claim that the encrypted
model is exactly as accurate as the plain one: a ViT has one patch embedding, so that only one map of all patches can
be undone in it. As in `etc`, step 2 turns first and then mirrors.

Key space: N!·S!·(8·2·6)^S, of which only N! grows with the image. With S = 4 the sub-blocks' part is 2^31: it can be
tried. Whoever tries it is left with a jigsaw of upright main blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.arrays import AnyArray, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.errors import CipherwardError
from crypto.invariants import folded_histograms
from crypto.kernels.blocks import block_pixels
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import COLOUR_ORDERS, EVERY_MOVE, TURNS, turned_pixels
from crypto.unit_layout import UnitLayout


class SubBlockEtc:
    """Encryption-then-compression by sub-blocks with the parameters of a spec."""

    version = 2
    source = "Hamano 2023, Sensors 23:3400"
    orbit = EVERY_MOVE
    kept = "the histogram of min(v, 255 − v)"
    moves_blocks = True
    options: ClassVar[Mapping[str, Sequence[Any]]] = {"sub_block": (4, 2, 8, 16)}

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self.side = int(spec.options["sub_block"])
        if spec.block % self.side:
            raise CipherwardError(
                f"sub_block_etc: sub-blocks of {self.side} do not divide main blocks of {spec.block}",
                "choose --option sub_block=2, 4, 8 or 16 so that it divides --block",
            )
        self.unit_layout = UnitLayout(
            spec.image_shape, spec.block, "value", moves_blocks=True, shared=True, signed=True
        )
        #: S, the sub-blocks of a main block.
        self.count = (spec.block // self.side) ** 2

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return K1 and turn (0..7) int64 [S], negative bool [S], K5 int64 [N]; in colour, order int64 [S]."""
        parts: dict[str, AnyArray] = {
            "K1": sub.permutation("K1", self.count),
            "turn": sub.integers("turn", self.count, TURNS),
            "negative": sub.bits("negative", self.count),
            "K5": sub.permutation("K5", self.spec.blocks),
        }
        if self.spec.image_shape[2] == 3:
            parts["order"] = sub.integers("order", self.count, len(COLOUR_ORDERS))
        return parts

    def table(self, parts: Parts) -> Table:
        """Return steps 1 to 5 as one table over values."""
        block, channels = self.spec.block, self.spec.image_shape[2]
        pixels = block_pixels(block, block, self.side)  # [S, m²], places in a main block
        turns = turned_pixels(self.side)[parts["turn"]]  # [S, m²]
        sources = np.take_along_axis(pixels[parts["K1"]], turns, 1)
        orders = COLOUR_ORDERS[parts["order"]] if channels == 3 else np.zeros((self.count, 1), np.int64)
        inner = np.empty((block * block, channels), np.int64)
        inner[pixels] = sources[..., None] * channels + orders[:, None]
        mask = np.zeros((block * block, channels), np.uint8)
        mask[pixels] = np.where(parts["negative"], 255, 0).astype(np.uint8)[:, None, None]
        return Table(
            self.spec.image_shape, (block, block), parts["K5"], inner.reshape(1, -1), mask.reshape(1, -1)
        )

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        return TableCipher(self.table(parts))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of min(v, 255 - v) of plain or sealed images: int32 [n, 128]."""
        return folded_histograms(images)

    def formula_bits(self) -> float:
        """Return log2 of N!·S!·16^S, times 6^S where colours are shuffled."""
        states = 2 * TURNS * (len(COLOUR_ORDERS) if self.spec.image_shape[2] == 3 else 1)
        return (
            log2_factorial(self.spec.blocks) + log2_factorial(self.count) + self.count * math.log2(states)
        )
