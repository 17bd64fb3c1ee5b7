"""Sums over the pixels of images, compiled and in whole numbers: histograms, deviations, errors and block sums.

NumPy makes a copy in float64 for each, which takes longer than all the rest of a score but SSIM. Whole numbers are
exact, so the figures are those of NumPy's float64, whose sums of pixels are exact as well.
"""

from __future__ import annotations

import numba
import numpy as np

from crypto.arrays import Float32Array, Images, Int64Array

_compiled = numba.njit(nogil=True, cache=True)


@_compiled  # type: ignore[untyped-decorator] # numba has no types
def value_counts(images: Images) -> Int64Array:
    """Return how often each value stands in each channel, int64 [n, c, 256]."""
    n, height, width, channels = images.shape
    counts = np.zeros((n, channels, 256), np.int64)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    counts[i, c, images[i, y, x, c]] += 1
    return counts


@_compiled  # type: ignore[untyped-decorator] # numba has no types
def squared_errors(images: Images, others: Images) -> Int64Array:
    """Return the sum of squared differences of each pair, int64 [n]."""
    errors = np.zeros(len(images), np.int64)
    for i in range(len(images)):
        a, b = images[i].ravel(), others[i].ravel()
        total = np.int64(0)
        for k in range(a.shape[0]):
            difference = np.int32(a[k]) - np.int32(b[k])
            total += difference * difference
        errors[i] = total
    return errors


@_compiled  # type: ignore[untyped-decorator] # numba has no types
def tile_sums(images: Images, side: int) -> Float32Array:
    """Return the sums over tiles of side × side pixels, float32 [n, h/side, w/side, c]; exact below 2^24."""
    n, height, width, channels = images.shape
    sums = np.zeros((n, height // side, width // side, channels), np.float32)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    sums[i, y // side, x // side, c] += np.float32(images[i, y, x, c])
    return sums
