"""SSIM of two images, window by window, compiled: most of the time of scoring goes into it.

The numbers are scikit-image's to the last bit (`structural_similarity` with uniform windows): the same running sums
in the same order as SciPy's `uniform_filter`, and the same operations after them. scikit-image filters whole images
five times and keeps all that lies between; here one pass over the rows does it.
"""

from __future__ import annotations

import numba
import numpy as np

from crypto.arrays import BoolArray, Float64Array, UInt8Array

#: SSIM's two constants for a range of 255 (Wang et al. 2004).
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
#: What is averaged over windows: x, y, x·x, y·y and x·y.
SUMS = 5


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator] # numba has no types
def ssim_windows(
    guess: UInt8Array, plain: UInt8Array, side: int, texture: float
) -> tuple[Float64Array, BoolArray]:
    """Return the SSIM of every window that lies in the image, and whether the plain image has texture there.

    Args:
        guess: An image, uint8 [h, w, c].
        plain: The plain image, of the same shape, its sides not below the window's.
        side: The side of a window in pixels, odd.
        texture: Gray levels that the sample standard deviation of the plain window must exceed.

    Returns:
        float64 and bool [h - side + 1, w - side + 1, c].
    """
    height, width, channels = guess.shape
    half, norm = side // 2, side * side / (side * side - 1)
    shape = (height - side + 1, width - side + 1, channels)
    values, textured = np.empty(shape, np.float64), np.empty(shape, np.bool_)
    # Sums over the rows of a window, their means in one column each, and the means over whole windows.
    running = np.empty((SUMS, width), np.float64)
    columns, means = np.empty(width, np.float64), np.empty((SUMS, width), np.float64)
    for channel in range(channels):
        running[:] = 0.0
        for row in range(-half, half + 1):
            r = -row - 1 if row < 0 else row
            for x in range(width):
                a, b = np.float64(guess[r, x, channel]), np.float64(plain[r, x, channel])
                running[0, x] += a
                running[1, x] += b
                running[2, x] += a * a
                running[3, x] += b * b
                running[4, x] += a * b
        for y in range(height - half):
            if y > 0:
                new, old = y + half, y - half - 1
                old = -old - 1 if old < 0 else old
                for x in range(width):
                    a, b = np.float64(guess[new, x, channel]), np.float64(plain[new, x, channel])
                    c, d = np.float64(guess[old, x, channel]), np.float64(plain[old, x, channel])
                    running[0, x] += a - c
                    running[1, x] += b - d
                    running[2, x] += a * a - c * c
                    running[3, x] += b * b - d * d
                    running[4, x] += a * b - c * d
            if y < half:
                continue
            for k in range(SUMS):
                for x in range(width):
                    columns[x] = running[k, x] / side
                total = 0.0
                for x in range(-half, half + 1):
                    total += columns[-x - 1 if x < 0 else x]
                means[k, 0] = total / side
                for x in range(1, width - half):
                    old = x - half - 1
                    total += columns[x + half] - columns[-old - 1 if old < 0 else old]
                    means[k, x] = total / side
            for x in range(half, width - half):
                ux, uy = means[0, x], means[1, x]
                vx = norm * (means[2, x] - ux * ux)
                vy = norm * (means[3, x] - uy * uy)
                vxy = norm * (means[4, x] - ux * uy)
                top = (2 * ux * uy + C1) * (2 * vxy + C2)
                values[y - half, x - half, channel] = top / ((ux * ux + uy * uy + C1) * (vx + vy + C2))
                spread = np.sqrt(max(means[3, x] - uy * uy, 0.0) * norm)
                textured[y - half, x - half, channel] = spread > texture
    return values, textured
