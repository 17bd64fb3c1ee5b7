"""Ciphers: a scheme under one key. One table for all images, one matrix for all blocks, or a key for every row."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from crypto.cores import cores
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.kernels.executors import Images, apply_torch, must_be, prepare, run
from crypto.kernels.table import Table

if TYPE_CHECKING:
    import torch


class Cipher(Protocol):
    """A scheme under one key, its tables built."""

    def encrypt(self, images: Images, first: int = 0, out: np.ndarray | None = None) -> Images:
        """uint8 [n, *image_shape] → [n, *sealed_shape]; `first` is the row of the first image.

        out: where the result of NumPy images goes, contiguous and of its shape and dtype; None makes one.
        """

    def decrypt(self, images: Images, first: int = 0) -> Images:
        """[n, *sealed_shape] → uint8 [n, *image_shape]."""


def _same(images: Images) -> Images:
    return images


class TableCipher:
    """A cipher that applies one table to every image.

    before and after: what turns plain images into the table's and back, for a scheme whose sealed shape is
    not the plain one.
    """

    def __init__(
        self,
        table: Table,
        before: Callable[[Images], Images] = _same,
        after: Callable[[Images], Images] = _same,
    ) -> None:
        self._tables = table, table.inverse()
        self._ready = prepare(self._tables[0]), prepare(self._tables[1])
        self._before, self._after = before, after

    def encrypt(self, images: Images, first: int = 0, out: np.ndarray | None = None) -> Images:
        """uint8 [n, *image_shape] → uint8 [n, *sealed_shape], whatever the row."""
        return self._apply(0, self._before(images), out)

    def decrypt(self, images: Images, first: int = 0) -> Images:
        """The inverse of encrypt."""
        return self._after(self._apply(1, images))

    def _apply(self, way: int, images: Images, out: np.ndarray | None = None) -> Images:
        if isinstance(images, np.ndarray):
            return run(self._tables[way], self._ready[way], images, out)
        return apply_torch(self._tables[way], images)


class MatrixCipher:
    """A cipher that multiplies every flattened block of images [h, w, c], centred at mid-gray, by one matrix.

    matrix: float32 [M²c, M²c], orthogonal. Sealed images are float32 in units of gray levels.
    """

    def __init__(self, shape: tuple[int, int, int], block: int, matrix: np.ndarray) -> None:
        self._shape, self._block, self._matrix = shape, block, matrix

    def encrypt(self, images: Images, first: int = 0, out: np.ndarray | None = None) -> Images:
        """uint8 [n, h, w, c] → float32 [n, h, w, c]."""
        must_be(images, self._shape, "uint8")
        if isinstance(images, np.ndarray):
            return _turned(images, self._block, self._matrix, out)
        return _turned_torch(images, self._block, self._matrix)

    def decrypt(self, images: Images, first: int = 0) -> Images:
        """float32 [n, h, w, c] → uint8 [n, h, w, c], rounded to whole levels."""
        must_be(images, self._shape, "float32")
        if isinstance(images, np.ndarray):
            return np.rint(_turned(images, self._block, self._matrix.T)).clip(0, 255).astype(np.uint8)
        return _turned_torch(images, self._block, self._matrix.T).round().clamp(0, 255).byte()


def _turned(
    images: np.ndarray, block: int, matrix: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    n, height, width, _ = images.shape
    out = np.empty(images.shape, np.float32) if out is None else out
    for i in range(0, n, 16):  # float32 blocks of a few images at a time, not of all
        blocks = to_blocks(images[i : i + 16], block).astype(np.float32) - np.float32(127.5)
        flat = blocks.reshape(-1, matrix.shape[0]) @ matrix + np.float32(127.5)
        out[i : i + 16] = from_blocks(flat.reshape(blocks.shape), height, width)
    return out


def _turned_torch(images: torch.Tensor, block: int, matrix: np.ndarray) -> torch.Tensor:
    import torch

    n, height, width, channels = images.shape
    across = (n, height // block, block, width // block, block, channels)
    blocks = images.float().sub(127.5).reshape(across).transpose(2, 3).reshape(-1, matrix.shape[0])
    turned = blocks @ torch.tensor(matrix, device=images.device) + 127.5
    apart = turned.reshape(n, across[1], across[3], block, block, channels).transpose(2, 3)
    return apart.reshape(images.shape)


class RowCipher:
    """A cipher whose key is another one for every row: `make` builds the cipher of a row."""

    def __init__(self, make: Callable[[int], Cipher]) -> None:
        self._make = make

    def encrypt(self, images: Images, first: int = 0, out: np.ndarray | None = None) -> Images:
        """uint8 [n, *image_shape] → [n, *sealed_shape]; image i is sealed as row first + i."""
        if not len(images):
            return self._make(first).encrypt(images)
        sealed = _each(images, lambda i: self._make(first + i).encrypt(images[i : i + 1]))
        if out is None:
            return sealed
        np.copyto(out, sealed, casting="no")
        return out

    def decrypt(self, images: Images, first: int = 0) -> Images:
        """The inverse of encrypt, for the same rows."""
        if not len(images):
            return self._make(first).decrypt(images)
        return _each(images, lambda i: self._make(first + i).decrypt(images[i : i + 1]))


def _each(images: Images, one: Callable[[int], Images]) -> Images:
    if len(images) == 1:
        return one(0)
    with ThreadPoolExecutor(cores()) as threads:
        parts = list(threads.map(one, range(len(images))))
    if isinstance(images, np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)
