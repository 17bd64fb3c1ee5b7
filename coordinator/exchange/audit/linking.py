"""Linking ciphertexts to plain images by what a scheme leaves unchanged under any key.

Source: our own, from the schemes' steps. Every scheme declares its invariants (crypto/schemes, crypto/invariants.py):

- block_pixel_shuffle, patch_shuffle, plain: the histogram of every channel; value_shuffle, permuted: that of all
  values together;
- pe, etc, sub_block_etc, block_pixel: the histogram of min(v, 255 - v), of all channels together;
- le: in every block, the histogram of min(v, 15 - v) over its nibbles; ele: the same blocks in any order;
- orthogonal: the length of every block about mid-gray; noisy_orthogonal: the same, up to the noise;
- block_projection: the lengths of the blocks in any order, up to the noise, where matrices are orthogonal;
- noise: nothing; linking looks for the histogram and shows that there is none.

An image whose invariants equal a ciphertext's may be its plain image. Equality is exact, except for the rounding of
orthogonal's float32 and for noise. Nothing is decrypted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crypto.arrays import AnyArray, Images, Int64Array, Rows
from crypto.scheme import load
from crypto.spec import SchemeSpec

#: Images that are in memory at a time.
_CHUNK = 16


def candidates(
    spec: SchemeSpec,
    sealed: Callable[[Rows], AnyArray],
    rows: Rows,
    gallery: Images,
    time_left: Callable[[], bool] = lambda: True,
) -> list[Int64Array | None]:
    """Return for every row the gallery images that its ciphertext could be.

    Args:
        spec: The scheme of the ciphertexts.
        sealed: rows → sealed images.
        rows: int64 [r].
        gallery: Plain images uint8 [m, *image_shape].
        time_left: Whether there is time to go on.

    Returns:
        For every row the numbers of gallery images in ascending order, int64 [k]; None where time ran out.

    Raises:
        CipherwardError: If it is not known what the scheme leaves of an image.
    """
    scheme = load(spec)
    scheme.require_kept()
    return matching(scheme.invariants, sealed, rows, gallery, time_left, scheme.invariant_tolerance)


def matching(
    invariants: Callable[[AnyArray], AnyArray],
    sealed: Callable[[Rows], AnyArray],
    rows: Rows,
    gallery: Images,
    time_left: Callable[[], bool] = lambda: True,
    tolerance: float = 0.0,
) -> list[Int64Array | None]:
    """Return for every row the gallery images whose invariants equal those of its ciphertext, as `candidates` does.

    Args:
        invariants: Images, plain or sealed, to rows [n, d] that can be compared.
        sealed: rows → sealed images.
        rows: int64 [r].
        gallery: Plain images uint8 [m, *image_shape].
        time_left: Whether there is time to go on.
        tolerance: The largest difference that counts as none.
    """
    matches: list[Int64Array | None] = [None] * len(rows)
    parts = []
    for i in range(0, len(gallery), _CHUNK):
        if not time_left():
            return matches
        parts.append(invariants(gallery[i : i + _CHUNK]))
    known = np.concatenate(parts)
    for i in range(0, len(rows), _CHUNK):
        if not time_left():
            break
        for k, values in enumerate(invariants(sealed(rows[i : i + _CHUNK])), i):
            near = np.flatnonzero(np.abs(known[:, 0] - values[0]) <= tolerance)
            matches[k] = near[(np.abs(known[near] - values) <= tolerance).all(1)]
    return matches
