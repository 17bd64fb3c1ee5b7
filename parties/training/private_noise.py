"""Random numbers of private training: which units a step samples, and the noise.

They come from ChaCha20 under a key that the operating system draws anew for every training, and never from the plan's
seed: whoever knew the seed would subtract the noise. torch's and NumPy's generators are not used, because their state
can be computed from their output.

Floating-point numbers betray what they were added to by their lowest bits (Mironov 2012; Jin et al. 2022, arXiv
2112.05307). Two measures are taken against that, as in Opacus' secure mode and in Google's library. Noise is the sum
of four Gaussian numbers in float64 (Holohan and Braghin 2021, arXiv 2107.10138). The noised sum is rounded to a grid
that does not depend on the data (`round_to_grid`), so that the lowest bits carry nothing. That is a mitigation:
it is not the exact discrete Gaussian mechanism, whose bound holds to the last bit.
"""

from __future__ import annotations

import math

import numpy as np

from crypto.arrays import BoolArray, Float64Array
from crypto.key import SecretKey

#: The grid is so many powers of two finer than the noise's deviation. Rounding adds a millionth of the deviation, and
#: every cell holds some 2^32 float64 numbers.
_GRID_BITS = 20
#: Gaussian numbers that are summed up.
_SUMMANDS = 4
#: Numbers that are drawn at once, to bound memory.
_CHUNK = 1 << 20


class PrivateRandom:
    """A stream of random numbers from a fresh key. It cannot be repeated."""

    def __init__(self) -> None:
        self._key, self._draws = SecretKey.generate(), 0

    def _words(self, n: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """Return uniform 64-bit words, uint64 [n]."""
        self._draws += 1
        return self._key.keystream(f"privacy/{self._draws}", 8 * n).view("<u8")

    def sample(self, n: int, rate: float) -> BoolArray:
        """Return which of n units a step takes, bool [n]: each with probability `rate` (Poisson sampling)."""
        if rate >= 1:
            return np.ones(n, bool)
        return np.asarray(self._words(n) < np.uint64(math.floor(rate * 2.0**64)))

    def normal(self, n: int) -> Float64Array:
        """Return standard Gaussian numbers, float64 [n]."""
        # Loads in a quarter of a second, and only private training needs it.
        from scipy.special import ndtri

        result = np.empty(n)
        for start in range(0, n, _CHUNK):
            size = min(_CHUNK, n - start)
            words = self._words(_SUMMANDS * size).reshape(_SUMMANDS, size)
            # 52 bits, to which float64 adds a half exactly. Of 53 bits the largest number would be rounded up to 1,
            # whose Gaussian is infinite, and the training of a whole ViT draws billions of them.
            uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
            result[start : start + size] = ndtri(uniform).sum(0) / math.sqrt(_SUMMANDS)
        return result


def round_to_grid(values: Float64Array, deviation: float) -> Float64Array:
    """Return noised values rounded to multiples of a power of two, 2^20 times finer than the noise's deviation."""
    grid = 2.0 ** (math.floor(math.log2(deviation)) - _GRID_BITS)
    return np.round(values / grid) * grid
