"""SSIM of many pairs of images at a time, compiled: most of the time of scoring goes into it.

`ssim_windows` does the same for one pair. Its running sums depend on the pixel before, so a processor does them one
after the other. Here eight pairs lie side by side, value by value, and each step is done for all eight at once. Every
window has the same value as there, to the last bit; only the mean over the windows adds them up in another order.
"""

from __future__ import annotations

import numba
import numpy as np

from crypto.arrays import Float64Array, Images, UInt8Array
from parties.scoring.ssim_windows import C1, C2, SUMS

#: Pairs side by side: eight float64 fill a register of AVX-512, and two of AVX2.
LANES = 8


def ssim_means(guesses: Images, plains: Images, side: int, texture: float) -> Float64Array:
    """Return the mean SSIM of at most eight pairs over the plain images' textured windows, float64 [n].

    Args:
        guesses: Images, uint8 [n, h, w, c].
        plains: The plain images, of the same shape, their sides not below the window's.
        side: The side of a window in pixels, odd.
        texture: Gray levels that the sample standard deviation of the plain window must exceed.

    Returns:
        The means; NaN where a plain image has no textured window.
    """
    n, height, width, channels = plains.shape
    sums, counts = np.zeros(LANES), np.zeros(LANES)
    shape = (height, width, LANES)
    lanes_of_guesses, lanes_of_plains = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for channel in range(channels):
        lanes_of_guesses[..., :n] = guesses[..., channel].transpose(1, 2, 0)
        lanes_of_plains[..., :n] = plains[..., channel].transpose(1, 2, 0)
        _add_windows(
            lanes_of_guesses.reshape(height, -1),
            lanes_of_plains.reshape(height, -1),
            side,
            texture,
            sums,
            counts,
        )
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[:n]


# What the loops below have in common, so that LLVM makes vector code of them: each begins at 0, writes one array and
# reads few, and no division asks whether it is by zero (none is: SSIM's constants are positive).
_vectorised = numba.njit(nogil=True, cache=True, error_model="numpy")


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _add_products(sums: Float64Array, a: UInt8Array, b: UInt8Array) -> None:
    """Add a·b to the sums, value by value. Sums are whole numbers here, so their order does not matter."""
    for i in range(sums.shape[0]):
        sums[i] += np.float64(np.int32(a[i]) * np.int32(b[i]))


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _exchange_products(
    sums: Float64Array, a: UInt8Array, b: UInt8Array, old_a: UInt8Array, old_b: UInt8Array
) -> None:
    """Add a·b to the sums and take old_a·old_b away, value by value."""
    for i in range(sums.shape[0]):
        sums[i] += np.float64(np.int32(a[i]) * np.int32(b[i]) - np.int32(old_a[i]) * np.int32(old_b[i]))


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _divide(values: Float64Array, divisor: int, result: Float64Array) -> None:
    """Write values / divisor into result."""
    for i in range(result.shape[0]):
        result[i] = values[i] / divisor


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _subtract(values: Float64Array, others: Float64Array, result: Float64Array) -> None:
    """Write values - others into result."""
    for i in range(result.shape[0]):
        result[i] = values[i] - others[i]


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _add_up(totals: Float64Array) -> None:
    """Turn each pixel's values, float64 [w * LANES], into running sums over the pixels."""
    for i in range(totals.shape[0] - LANES):
        totals[i + LANES] += totals[i]


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _values(means: Float64Array, norm: float, result: Float64Array) -> None:
    """Write the SSIM of windows into result, from the means of x, y, x·x, y·y and x·y, float64 [5, k]."""
    x, y, xx, yy, xy = means[0], means[1], means[2], means[3], means[4]
    for i in range(result.shape[0]):
        ux, uy = x[i], y[i]
        vx, vy, vxy = norm * (xx[i] - ux * ux), norm * (yy[i] - uy * uy), norm * (xy[i] - ux * uy)
        top = (2 * ux * uy + C1) * (2 * vxy + C2)
        result[i] = top / ((ux * ux + uy * uy + C1) * (vx + vy + C2))


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _texture(means: Float64Array, norm: float, texture: float, result: Float64Array) -> None:
    """Write into result whether a plain window has texture: 1 or 0."""
    y, yy = means[1], means[3]
    for i in range(result.shape[0]):
        spread = np.sqrt(max(yy[i] - y[i] * y[i], 0.0) * norm)
        result[i] = 1.0 if spread > texture else 0.0


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _add_products_of_floats(sums: Float64Array, a: Float64Array, b: Float64Array) -> None:
    """Add a·b to the sums, value by value."""
    for i in range(sums.shape[0]):
        sums[i] += a[i] * b[i]


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _window_means(
    sums: Float64Array, side: int, columns: Float64Array, totals: Float64Array, means: Float64Array
) -> None:
    """Turn the sums of columns into means over windows, in the order of SciPy's `uniform_filter`.

    Args:
        sums: Sums over the rows of a window, float64 [w * LANES].
        side: The side of a window.
        columns: Room for the means of columns, of the same shape.
        totals: Room for their running sums, float64 [(w - side // 2) * LANES].
        means: Gets the means over the windows that lie in the image, float64 [(w - side + 1) * LANES].
    """
    wide, half = sums.shape[0], side // 2
    reach = half * LANES
    _divide(sums, side, columns)
    for lane in range(LANES):
        total = 0.0
        for x in range(-half, half + 1):  # mirrored at the border
            total += columns[(-x - 1 if x < 0 else x) * LANES + lane]
        totals[lane] = total
    for x in range(1, half + 1):
        for lane in range(LANES):
            totals[x * LANES + lane] = (
                columns[(x + half) * LANES + lane] - columns[(half - x) * LANES + lane]
            )
    _subtract(columns[2 * reach + LANES :], columns[: wide - 2 * reach - LANES], totals[reach + LANES :])
    _add_up(totals)
    _divide(totals[reach:], side, means)


@_vectorised  # type: ignore[untyped-decorator] # numba has no types
def _add_windows(
    guess: UInt8Array,
    plain: UInt8Array,
    side: int,
    texture: float,
    sums: Float64Array,
    counts: Float64Array,
) -> None:
    """Add the SSIM of every textured window to `sums`, and their number to `counts`, both float64 [LANES].

    Args:
        guess: One channel of eight images, uint8 [h, w * LANES].
        plain: That of the plain images.
        side: The side of a window.
        texture: What the deviation of a plain window must exceed.
        sums: Are added to.
        counts: Are added to.
    """
    height, wide = guess.shape
    half, norm = side // 2, side * side / (side * side - 1)
    inner = wide - 2 * half * LANES
    running, means = np.zeros((SUMS, wide)), np.empty((SUMS, inner))
    columns, totals = np.empty(wide), np.empty(wide - half * LANES)
    values, textured = np.empty(inner), np.empty(inner)
    row_sums, row_counts = np.zeros(inner), np.zeros(inner)
    ones = np.ones(wide, np.uint8)
    for y in range(height):
        a, b = guess[y], plain[y]
        if y < side:
            _add_products(running[0], a, ones)
            _add_products(running[1], b, ones)
            _add_products(running[2], a, a)
            _add_products(running[3], b, b)
            _add_products(running[4], a, b)
        else:
            c, d = guess[y - side], plain[y - side]
            _exchange_products(running[0], a, ones, c, ones)
            _exchange_products(running[1], b, ones, d, ones)
            _exchange_products(running[2], a, a, c, c)
            _exchange_products(running[3], b, b, d, d)
            _exchange_products(running[4], a, b, c, d)
        if y < side - 1:
            continue
        for k in range(SUMS):
            _window_means(running[k], side, columns, totals, means[k])
        _values(means, norm, values)
        _texture(means, norm, texture, textured)
        _add_products_of_floats(row_sums, values, textured)
        row_counts += textured
    for i in range(inner):
        sums[i % LANES] += row_sums[i]
        counts[i % LANES] += row_counts[i]
