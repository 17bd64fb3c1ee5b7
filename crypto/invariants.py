"""What block schemes leave unchanged under any key: histograms and block lengths, as rows that can be compared.

Source: our own, from the schemes' steps. Each scheme names the one that holds for it (`kept`, `invariants`). An image
whose invariants equal a ciphertext's may be its plain image. Nothing is decrypted.
"""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, Float64Array, Int32Array, UInt8Array
from crypto.kernels.blocks import to_blocks


def channel_histograms(images: UInt8Array) -> Int32Array:
    """Return the histogram of every channel of images uint8 [n, h, w, c]: int32 [n, c·256]."""
    n, channels = len(images), images.shape[3]
    return _histograms(images.transpose(0, 3, 1, 2).reshape(n * channels, -1), 256).reshape(n, -1)


def value_histograms(images: UInt8Array) -> Int32Array:
    """Return the histogram of all values of each image, its channels together: int32 [n, 256]."""
    return _histograms(images.reshape(len(images), -1), 256)


def sorted_histograms(images: UInt8Array) -> Int32Array:
    """Return how often the levels of every channel occur, rising, whichever levels they are: int32 [n, c·256].

    No substitution of levels changes that, whether it is one for all images or one for each.
    """
    n, channels = len(images), images.shape[3]
    return np.sort(channel_histograms(images).reshape(n, channels, -1), 2).reshape(n, -1)


def folded_histograms(images: UInt8Array) -> Int32Array:
    """Return the histogram of min(v, 255 - v) of each image, its channels together: int32 [n, 128]."""
    return _histograms(np.minimum(images, 255 - images).reshape(len(images), -1), 128)


def nibble_histograms(images: UInt8Array, block: int, ordered: bool) -> Int32Array:
    """Return the histograms of min(v, 15 - v) over the nibbles of every block: int32 [n, N·8].

    Args:
        images: uint8 [n, h, w, c].
        block: Side of a block in pixels.
        ordered: Whether the blocks keep their places. Otherwise they are sorted by their histograms.
    """
    n = len(images)
    blocks = to_blocks(images, block)  # [n, N, M², c]
    count = blocks.shape[1]
    values = blocks.reshape(n * count, -1)
    nibbles = np.concatenate([values & 15, values >> 4], 1)
    counts = _histograms(np.minimum(nibbles, 15 - nibbles), 8).reshape(n, count, 8)
    if not ordered:
        order = np.stack([np.lexsort(c.T) for c in counts])
        counts = np.take_along_axis(counts, order[..., None], 1)
    return counts.reshape(n, -1)


def block_lengths(images: AnyArray, block: int) -> Float64Array:
    """Return the Euclidean length of every block about mid-gray, in gray levels: float64 [n, N]."""
    blocks = to_blocks(images, block).astype(np.float64) - 127.5
    lengths: Float64Array = np.sqrt((blocks**2).sum((2, 3)))
    return lengths


def _histograms(values: UInt8Array, size: int) -> Int32Array:
    """Return the histograms, int32 [n, size], of rows uint8 [n, k] with values below `size`."""
    cells = values + np.arange(len(values))[:, None] * size
    counts = np.bincount(cells.ravel(), minlength=len(values) * size)
    return counts.astype(np.int32).reshape(len(values), size)
