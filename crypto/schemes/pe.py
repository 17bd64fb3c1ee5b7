"""Pixel-based encryption (Sirichotedumrong, Maekawa, Kinoshita, Kiya 2019).

Source: arXiv 1905.01827 and IEEE Access 7 (2019). An image [h, w, c] uint8:

1. negative-positive: every colour value of every pixel is XORed with 255 where its key bit is 1;
2. with the option colour_shuffle (RGB only): the three components of every pixel are put in one of six orders:
   0 RGB, 1 RBG, 2 GRB, 3 GBR, 4 BRG, 5 BGR (crypto/symmetry.py, COLOUR_ORDERS).

One key for all images (scopes `consortium`, `party`), or a fresh one for every image, which the paper calls
"without key management" (scope `image`). The scheme knows no blocks; `block` only says how it is stored in tables.

Key space: 2^(hwc), with the colour shuffle ·6^(hw); at most 2^256 with a 32-byte key.
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
from crypto.spec import SchemeSpec
from crypto.symmetry import COLOUR_ORDERS, Orbit
from crypto.unit_layout import UnitLayout


class Pe:
    """Pixel-based encryption with the parameters of a spec."""

    version = 2
    source = "Sirichotedumrong 2019, 1905.01827"
    kept = "the histogram of min(v, 255 − v)"
    options: ClassVar[Mapping[str, Sequence[Any]]] = {"colour_shuffle": (False, True)}

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self._shuffles = bool(spec.options["colour_shuffle"])
        self.orbit = Orbit(negatives=True, orders=self._shuffles)
        self.unit_layout = UnitLayout(spec.image_shape, 1, signed=True, single=not self._shuffles)
        if self._shuffles and spec.image_shape[2] != 3:
            raise CipherwardError(
                "pe: gray images have no colours to shuffle", "leave out colour_shuffle, or seal RGB"
            )

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return negative bool [h, w, c]; with the colour shuffle, order int64 [h, w] into COLOUR_ORDERS."""
        height, width, channels = self.spec.image_shape
        negative = sub.bits("negative", height * width * channels).reshape(self.spec.image_shape)
        if not self._shuffles:
            return {"negative": negative}
        return {
            "negative": negative,
            "order": sub.integers("order", height * width, 6).reshape(height, width),
        }

    def table(self, parts: Parts) -> Table:
        """Return both steps as one table over values."""
        height, width, channels = self.spec.image_shape
        block = self.spec.block
        cells = block_pixels(height, width, block)  # [N, M²]
        negative = parts["negative"].reshape(-1, channels)[cells]  # [N, M², c]
        inner = None
        if self._shuffles:
            orders = COLOUR_ORDERS[parts["order"].reshape(-1)[cells]]  # [N, M², 3]
            inner = (np.arange(block**2)[:, None] * channels + orders).reshape(len(cells), -1)
            negative = np.take_along_axis(negative, orders, 2)
        mask = negative.reshape(len(cells), -1).astype(np.uint8) * np.uint8(255)
        return Table(self.spec.image_shape, (block, block), None, inner, mask)

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        return TableCipher(self.table(parts))

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of min(v, 255 - v): int32 [n, 128]."""
        return folded_histograms(images)

    def formula_bits(self) -> float:
        """Return log2 of 2^(hwc), times 6^(hw) with the colour shuffle."""
        height, width, channels = self.spec.image_shape
        return height * width * (channels + (math.log2(6) if self._shuffles else 0.0))
