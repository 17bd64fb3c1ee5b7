"""Blocks: where each pixel of a block, or of a sub-block, stands in a flattened image; cutting and joining."""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, Int64Array


def block_pixels(height: int, width: int, rows: int, columns: int | None = None) -> Int64Array:
    """Return the flat pixel index of every pixel of every block, int64 [N, p], both in row-major order.

    A block has `rows` × `columns` pixels; it is square where no columns are given.
    """
    columns = columns or rows
    pixels = np.arange(height * width).reshape(height // rows, rows, width // columns, columns)
    return pixels.transpose(0, 2, 1, 3).reshape(-1, rows * columns)


def quarter_pixels(block: int) -> Int64Array:
    """Return the index within a block of the pixels of its four sub-blocks, row-major: int64 [4, (M/2)²]."""
    return block_pixels(block, block, block // 2)


def to_blocks(images: AnyArray, block: int) -> AnyArray:
    """Return images [n, h, w, c] as blocks [n, N, M*M, c], blocks and their pixels in row-major order."""
    n, h, w, c = images.shape
    parts = images.reshape(n, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(parts).reshape(n, -1, block * block, c)


def from_blocks(blocks: AnyArray, height: int, width: int) -> AnyArray:
    """Return blocks [n, N, M*M, c] as images [n, h, w, c]: the inverse of `to_blocks`."""
    n, _, area, c = blocks.shape
    block = round(area**0.5)
    parts = blocks.reshape(n, height // block, width // block, block, block, c)
    return np.ascontiguousarray(parts.transpose(0, 1, 3, 2, 4, 5)).reshape(n, height, width, c)
