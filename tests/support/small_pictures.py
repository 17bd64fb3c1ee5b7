"""Pictures small enough to train networks on within a test."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from crypto.arrays import Float64Array, Images


def waves(n: int, side: int, channels: int = 3, seed: int = 0) -> Images:
    """Return pictures of a level, a slope and two waves, uint8 [n, side, side, channels] from 20 to 235.

    Each picture and each colour has its own.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    y, x = y[None, :, :, None], x[None, :, :, None]
    level, down, across, high, low = (rng.normal(size=(n, 1, 1, channels)) for _ in range(5))
    phase = rng.uniform(0, 2 * np.pi, (2, n, 1, 1, channels))
    field = level + down * (y - 0.5) + across * (x - 0.5)
    field += 0.5 * high * np.sin(4 * x + 2 * y + phase[0]) + 0.3 * low * np.sin(9 * y + phase[1])
    return np.asarray(20 + 215 / (1 + np.exp(-1.2 * field))).astype(np.uint8)


def pictures(n: int, size: int = 48, seed: int = 0, channels: int = 1) -> Images:
    """Return smooth random pictures, uint8 [n, size, size, channels], with texture everywhere."""
    noise = np.random.default_rng(seed).normal(size=(n, size, size, channels))
    smooth: Float64Array = gaussian_filter(noise, (0, 2, 2, 0))
    low, high = smooth.min(axis=(1, 2, 3), keepdims=True), smooth.max(axis=(1, 2, 3), keepdims=True)
    scaled: Float64Array = np.rint(255 * (smooth - low) / (high - low))
    return scaled.astype(np.uint8)
