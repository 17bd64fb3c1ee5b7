"""What a scheme leaves unchanged, whatever the key and whoever holds it, and the images that it gives away so.

- block_pixel_shuffle, plain: the histogram of every channel; value_shuffle, permuted: that of all values together;
- pe, etc, block_pixel: the histogram of min(v, 255 − v), of all channels together;
- le: in every block, the histogram of min(v, 15 − v) over its nibbles; ele: the same blocks in any order;
- orthogonal: the length of every block about mid-gray;
- noise: nothing, which is found out by looking for the histogram.

Source: our own, from the schemes' steps. An image whose invariants equal a ciphertext's may be its plain image;
equality is exact, but for the rounding of orthogonal's float32. Nothing is decrypted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crypto.errors import CipherwardError
from crypto.kernels.blocks import to_blocks
from crypto.schemes.etc import to_planes
from crypto.spec import SchemeSpec

_CHUNK = 16  # images held at a time
#: Largest difference of two blocks' lengths, in gray levels, that float32 makes: 0.01 at 768 values.
_ROUNDING = 0.1
#: In words, what a scheme leaves of an image. Of a scheme that is not here nothing is known, and nothing is claimed.
KEPT = {
    "block_pixel_shuffle": "the histogram",
    "plain": "the histogram",
    "noise": "the histogram",
    "value_shuffle": "the histogram of all values",
    "permuted": "the histogram of all values",
    "pe": "the histogram of min(v, 255 − v)",
    "etc": "the histogram of min(v, 255 − v)",
    "block_pixel": "the histogram of min(v, 255 − v)",
    "le": "the histograms of the blocks' nibbles",
    "ele": "the histograms of the blocks' nibbles",
    "orthogonal": "the blocks' lengths",
}


def candidates(
    spec: SchemeSpec,
    sealed: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    gallery: np.ndarray,
    time_left: Callable[[], bool] = lambda: True,
) -> list[np.ndarray | None]:
    """int64 [k] for every row: the gallery images that could be it, in order; None where time ran out.

    sealed: rows → sealed images. gallery: uint8 [m, *image_shape]. Raises CipherwardError for a scheme not in KEPT.
    """
    if spec.name not in KEPT:
        raise CipherwardError(
            f"it is not known what {spec.name} leaves of an image",
            "say it in coordinator/exchange/linking.py",
        )
    found: list[np.ndarray | None] = [None] * len(rows)
    planes = spec.name == "etc" and spec.options["form"] == "gray"
    parts = []
    for i in range(0, len(gallery), _CHUNK):
        if not time_left():
            return found
        some = gallery[i : i + _CHUNK]
        parts.append(invariants(spec, to_planes(some) if planes else some))
    known = np.concatenate(parts)
    slack = _ROUNDING if spec.name == "orthogonal" else 0.0
    for i in range(0, len(rows), _CHUNK):
        if not time_left():
            break
        for k, values in enumerate(invariants(spec, sealed(rows[i : i + _CHUNK])), i):
            near = np.flatnonzero(np.abs(known[:, 0] - values[0]) <= slack)
            found[k] = near[(np.abs(known[near] - values) <= slack).all(1)]
    return found


def invariants(spec: SchemeSpec, images: np.ndarray) -> np.ndarray:
    """[n, h, w, c], plain or sealed → [n, d]: equal for an image and whatever the scheme makes of it."""
    n = len(images)
    if spec.name == "orthogonal":
        blocks = to_blocks(images, spec.block).astype(np.float64) - 127.5
        return np.sqrt((blocks**2).sum((2, 3)))
    if spec.name in ("le", "ele"):
        values = to_blocks(images, spec.block).reshape(n * spec.blocks, -1)
        nibbles = np.concatenate([values & 15, values >> 4], 1)
        counts = _histograms(np.minimum(nibbles, 15 - nibbles), 8).reshape(n, spec.blocks, 8)
        if spec.name == "ele":
            # The blocks of an image in an order that the blocks themselves give.
            order = np.stack([np.lexsort(c.T) for c in counts])
            counts = np.take_along_axis(counts, order[..., None], 1)
        return counts.reshape(n, -1)
    if spec.name in ("pe", "etc", "block_pixel"):
        return _histograms(np.minimum(images, 255 - images).reshape(n, -1), 128)
    if spec.name in ("value_shuffle", "permuted"):
        return _histograms(images.reshape(n, -1), 256)
    channels = images.shape[3]
    return _histograms(images.transpose(0, 3, 1, 2).reshape(n * channels, -1), 256).reshape(n, -1)


def _histograms(values: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, k] below `size` → int32 [n, size]."""
    at = values + np.arange(len(values))[:, None] * size
    counts = np.bincount(at.ravel(), minlength=len(values) * size)
    return counts.astype(np.int32).reshape(len(values), size)
