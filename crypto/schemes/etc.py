"""Encryption-then-compression (Chuman, Sirichotedumrong, Kiya 2018).

Source: IEEE TIFS 14 (2019), "Encryption-Then-Compression Systems Using Grayscale-Based Image Encryption for JPEG
Images", and Kurihara et al. 2015 for the colour form. N blocks of M×M; for every block i of the result:

1. it is block K1[i] of the image;
2. rotated and inverted: one of eight states, a quarter turn turn[i] mod 4 times, then mirrored from left to right
   where turn[i] ≥ 4;
3. negative-positive: every value v becomes 255 - v where negative[i] is set;
4. colour form: the block's three components are put in one of six orders, order[i] (crypto/schemes/pe.py, ORDERS).

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

from crypto.cipher import TableCipher
from crypto.errors import CipherwardError
from crypto.kernels.executors import Images
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.schemes.pe import ORDERS
from crypto.spec import SchemeSpec, log2_factorial


class Etc:
    version = 1
    source = "Chuman 2018, IEEE TIFS 14"
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

    def parts(self, sub: SecretKey) -> dict[str, np.ndarray]:
        """K1, turn (0..7) int64 [N], negative bool [N]; for RGB in colour, order int64 [N] into ORDERS."""
        n = self._blocks
        parts = {
            "K1": sub.permutation("K1", n),
            "turn": sub.integers("turn", n, 8),
            "negative": sub.bits("negative", n),
        }
        if self.sealed_shape[2] == 3:
            parts["order"] = sub.integers("order", n, 6)
        return parts

    def table(self, parts: Mapping[str, np.ndarray]) -> Table:
        """Steps 1 to 4 as one table over values."""
        block, channels = self.spec.block, self.sealed_shape[2]
        pixels = turned_pixels(block)[parts["turn"]]  # [N, M²]
        orders = ORDERS[parts["order"]] if channels == 3 else np.zeros((self._blocks, 1), np.int64)
        inner = (pixels[..., None] * channels + orders[:, None]).reshape(self._blocks, -1)
        mask = np.where(parts["negative"], 255, 0).astype(np.uint8)[:, None].repeat(inner.shape[1], 1)
        return Table(self.sealed_shape, (block, block), parts["K1"], inner, mask)

    def cipher(self, parts: Mapping[str, np.ndarray]) -> TableCipher:
        table = self.table(parts)
        return TableCipher(table, to_planes, from_planes) if self._gray else TableCipher(table)

    def picture(self, sealed: np.ndarray) -> np.ndarray:
        """uint8 [n, *sealed_shape] → uint8 [n, *image_shape]: scrambled planes taken for Y, Cb and Cr."""
        return from_planes(sealed) if self._gray else sealed

    def formula_bits(self) -> float:
        """log2 of N!·8^N·2^N, times 6^N where colours are shuffled."""
        states = 16 * (6 if self.sealed_shape[2] == 3 else 1)
        return log2_factorial(self._blocks) + self._blocks * math.log2(states)


def turned_pixels(block: int) -> np.ndarray:
    """int64 [8, M²]: which pixel of a block each pixel of its eight states is."""
    cells = np.arange(block * block).reshape(block, block)
    turns = [np.rot90(cells, k) for k in range(4)]
    return np.stack([t.ravel() for t in turns] + [np.fliplr(t).ravel() for t in turns])


# Whole numbers throughout, so that NumPy and torch, on any device, agree to the last bit. With
# Y·1000 = 299 R + 587 G + 114 B, Cb = (B - Y) / 1.772 + 128 and Cr = (R - Y) / 1.402 + 128.


def to_planes(images: Images) -> Images:
    """uint8 [n, h, w, 3] RGB → uint8 [n, h, 3w, 1]: Y, Cb and Cr side by side."""
    wide = _whole(images)
    luma = 299 * wide[..., 0] + 587 * wide[..., 1] + 114 * wide[..., 2]
    planes = [
        (luma + 500) // 1000,
        (2 * (1000 * wide[..., 2] - luma) + 257 * 1772) // (2 * 1772),
        (2 * (1000 * wide[..., 0] - luma) + 257 * 1402) // (2 * 1402),
    ]
    return _bytes(planes, 2)[..., None]


def from_planes(planes: Images) -> Images:
    """The inverse of to_planes, to within one gray level."""
    y, cb, cr = (
        _whole(planes[:, :, i * planes.shape[2] // 3 : (i + 1) * planes.shape[2] // 3, 0]) for i in range(3)
    )
    cb, cr = cb - 128, cr - 128
    red = y + (2 * 1402 * cr + 1000) // 2000
    blue = y + (2 * 1772 * cb + 1000) // 2000
    # G = (Y - 0.299 R - 0.114 B) / 0.587 with R and B unrounded, over 587,000.
    green = y - (2 * (299 * 1402 * cr + 114 * 1772 * cb) + 587_000) // (2 * 587_000)
    return _stack([red, green, blue])


def _whole(images: Images) -> Any:
    if isinstance(images, np.ndarray):
        return images.astype(np.int32)
    return images.int()


def _bytes(planes: list[Any], axis: int) -> Images:
    if isinstance(planes[0], np.ndarray):
        return np.concatenate(planes, axis).clip(0, 255).astype(np.uint8)
    import torch

    return torch.cat(planes, axis).clamp(0, 255).byte()


def _stack(planes: list[Any]) -> Images:
    if isinstance(planes[0], np.ndarray):
        return np.stack(planes, -1).clip(0, 255).astype(np.uint8)
    import torch

    return torch.stack(planes, -1).clamp(0, 255).byte()
