"""Encryption-then-compression (Chuman, Sirichotedumrong, Kiya 2018).

Source: IEEE TIFS 14 (2019), "Encryption-Then-Compression Systems Using Grayscale-Based Image Encryption for JPEG
Images", and Kurihara et al. 2015 for the colour form. N blocks of M×M; for every block i of the result:

1. it is block K1[i] of the image;
2. rotated and inverted: one of eight states, a quarter turn turn[i] mod 4 times, then mirrored from left to right
   where turn[i] ≥ 4;
3. negative-positive: every value v becomes 255 - v where negative[i] is set;
4. colour form: the block's three components are put in one of six orders, order[i] (crypto/symmetry.py).

Option form: `colour` (gray images skip step 4), or `gray`, which takes RGB images through YCbCr (BT.601, full range,
rounded half up) to one gray picture [h, 3w, 1] of the planes Y, Cb, Cr side by side, and leaves out step 4. The
sealed shape is then that picture's; the encryption is exact from the planes onward, and the way back to RGB
is within `tolerance` gray levels. The paper uses 8×8 blocks there, for JPEG. Its chroma is not subsampled here.

Key space: N!·8^N·2^N·6^N (colour), 3N blocks and no 6^N (gray); 2^2506 at 224×224×3 with M = 16; at most 2^256 with a
32-byte key. Two published re-implementations are not invertible; this one is built from the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.arrays import AnyArray, ArrayOrTensor, Images, Int32Array, Parts
from crypto.cipher import TableCipher
from crypto.errors import CipherwardError
from crypto.invariants import folded_histograms
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import COLOUR_ORDERS, EVERY_MOVE, TURNS, turned_pixels


class Etc:
    """Encryption-then-compression with the parameters of a spec."""

    version = 2
    source = "Chuman 2018, IEEE TIFS 14"
    orbit = EVERY_MOVE
    kept = "the histogram of min(v, 255 − v)"
    moves_blocks = True
    options: ClassVar[Mapping[str, Sequence[Any]]] = {"form": ("colour", "gray")}

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self._gray = spec.options["form"] == "gray"
        height, width, channels = spec.image_shape
        if self._gray and channels != 3:
            raise CipherwardError(
                "etc: the gray form is made of RGB images", "seal gray images with form=colour"
            )
        self.sealed_shape = (height, 3 * width, 1) if self._gray else spec.image_shape
        self.tolerance = 1.0 if self._gray else 0.0
        self._blocks = spec.blocks * (3 if self._gray else 1)

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return K1 and turn (0..7) int64 [N], negative bool [N]; in colour, order int64 [N] into COLOUR_ORDERS."""
        n = self._blocks
        parts = {
            "K1": sub.permutation("K1", n),
            "turn": sub.integers("turn", n, 8),
            "negative": sub.bits("negative", n),
        }
        if self.sealed_shape[2] == 3:
            parts["order"] = sub.integers("order", n, 6)
        return parts

    def table(self, parts: Parts) -> Table:
        """Return steps 1 to 4 as one table over values."""
        block, channels = self.spec.block, self.sealed_shape[2]
        pixels = turned_pixels(block)[parts["turn"]]  # [N, M²]
        orders = COLOUR_ORDERS[parts["order"]] if channels == 3 else np.zeros((self._blocks, 1), np.int64)
        inner = (pixels[..., None] * channels + orders[:, None]).reshape(self._blocks, -1)
        mask = np.where(parts["negative"], 255, 0).astype(np.uint8)[:, None].repeat(inner.shape[1], 1)
        return Table(self.sealed_shape, (block, block), parts["K1"], inner, mask)

    def cipher(self, parts: Parts) -> TableCipher:
        """Return the cipher that these parts make."""
        table = self.table(parts)
        return TableCipher(table, to_planes, from_planes) if self._gray else TableCipher(table)

    def picture(self, sealed: Images) -> Images:
        """Return sealed images [n, *sealed_shape] as pictures [n, *image_shape], their planes taken for Y, Cb, Cr."""
        return from_planes(sealed) if self._gray else sealed

    def invariants(self, images: Images) -> Int32Array:
        """Return the histogram of min(v, 255 - v) of plain or sealed images: int32 [n, 128]."""
        is_plain = images.shape[3] == 3
        return folded_histograms(to_planes(images) if self._gray and is_plain else images)

    def formula_bits(self) -> float:
        """Return log2 of N!·8^N·2^N, times 6^N where colours are shuffled."""
        states = 16 * (6 if self.sealed_shape[2] == 3 else 1)
        return log2_factorial(self._blocks) + self._blocks * math.log2(states)

    def distinct_bits(self) -> float:
        """Return log2 of the number of keys that differ in what they do: a block of one pixel cannot be turned."""
        turns = 1 if self.spec.block == 1 else TURNS
        return self.formula_bits() - self._blocks * math.log2(TURNS / turns)


# Whole numbers throughout, so that NumPy and torch, on any device, agree to the last bit. With
# Y·1000 = 299 R + 587 G + 114 B, Cb = (B - Y) / 1.772 + 128 and Cr = (R - Y) / 1.402 + 128.


def to_planes(images: ArrayOrTensor) -> ArrayOrTensor:
    """Return the planes Y, Cb and Cr of RGB images uint8 [n, h, w, 3] side by side: uint8 [n, h, 3w, 1]."""
    wide = _int32(images)
    luma = 299 * wide[..., 0] + 587 * wide[..., 1] + 114 * wide[..., 2]
    planes = [
        (luma + 500) // 1000,
        (2 * (1000 * wide[..., 2] - luma) + 257 * 1772) // (2 * 1772),
        (2 * (1000 * wide[..., 0] - luma) + 257 * 1402) // (2 * 1402),
    ]
    wide_plane: ArrayOrTensor = _joined(planes, 2)[..., None]
    return wide_plane


def from_planes(planes: ArrayOrTensor) -> ArrayOrTensor:
    """Return the RGB images of planes: the inverse of `to_planes`, to within one gray level."""
    width = planes.shape[2] // 3
    y, cb, cr = (_int32(planes[:, :, i * width : (i + 1) * width]) for i in range(3))  # [n, h, w, 1]
    cb, cr = cb - 128, cr - 128
    red = y + (2 * 1402 * cr + 1000) // 2000
    blue = y + (2 * 1772 * cb + 1000) // 2000
    # G = (Y - 0.299 R - 0.114 B) / 0.587 with R and B unrounded, over 587,000.
    green = y - (2 * (299 * 1402 * cr + 114 * 1772 * cb) + 587_000) // (2 * 587_000)
    return _joined([red, green, blue], 3)


def _int32(images: ArrayOrTensor) -> ArrayOrTensor:
    """Return images as int32."""
    if isinstance(images, np.ndarray):
        return images.astype(np.int32)
    return images.int()


def _joined(planes: list[ArrayOrTensor], axis: int) -> ArrayOrTensor:
    """Return planes put together along an axis, as uint8."""
    if isinstance(planes[0], np.ndarray):
        return np.concatenate(planes, axis).clip(0, 255).astype(np.uint8)
    import torch

    return torch.cat(planes, axis).clamp(0, 255).byte()
