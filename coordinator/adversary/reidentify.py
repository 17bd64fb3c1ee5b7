"""Re-identification without a key (T2): which image of a gallery is this ciphertext?

Source: our own. What a scheme cannot change it leaves in every ciphertext, whatever the key and whoever holds it:

- block_pixel_shuffle, plain: the histogram of every channel; value_shuffle: that of all values together;
- pe, etc, block_pixel: the histogram of min(v, 255 − v), of all channels together;
- le: in every block, the histogram of min(v, 15 − v) over its nibbles; ele: the same blocks in any order;
- orthogonal: the length of every block about mid-gray.

A candidate whose invariants equal the ciphertext's is confirmed; equality is exact, but for the rounding of
orthogonal's float32. Nothing is decrypted: a guess is a copy out of the gallery, which `knowledge.public` must hold
here, and a ciphertext whose image is not in it stays sealed and is counted as none. It shows linkability and says
nothing of how well a picture can be recovered.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from coordinator.adversary.knowledge import Guess, Knowledge
from crypto.blocks import to_blocks
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.schemes.etc import to_planes
from crypto.spec import SchemeSpec

_CHUNK = 16  # images held at a time
#: Largest difference of two blocks' lengths, in gray levels, that float32 makes: 0.01 at 768 values.
_ROUNDING = 0.1


def attack(knowledge: Knowledge) -> Guess:
    """The gallery's image for every row that has one, the sealed picture for the others.

    Rows that were not reached in time stay sealed. Raises CipherwardError for a gallery of another shape.
    """
    started = time.monotonic()
    pool, rows, gallery = knowledge.pool, np.asarray(knowledge.rows, np.int64), knowledge.public
    images, note = load(pool.spec).picture(pool.images(rows)).copy(), "needs a gallery of plain images"
    if gallery is not None and len(gallery):
        if gallery.shape[1:] != pool.spec.image_shape:
            raise CipherwardError(
                f"a gallery of {gallery.shape[1:]} holds no plain images of {pool.spec.image_shape}",
                "bring the gallery to the size and channels of the sealed images",
            )
        found, equals = link(pool.spec, pool.images, rows, gallery, lambda: knowledge.budget.left() > 0)
        images[found >= 0] = gallery[found[found >= 0]]
        note = f"{(found >= 0).sum()} of {len(rows)} linked in a gallery of {len(gallery)}"
        if (equals > 1).any():
            note += f", {(equals > 1).sum()} of them to several images"
        if (found == _LATE).any():
            note += f"; truncated: out of time in {(found == _LATE).sum()} of {len(rows)} images"
    return Guess("reidentify", "T2", images, rows, None, time.monotonic() - started, note)


NONE, _LATE = -1, -2


def link(
    spec: SchemeSpec,
    sealed: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    gallery: np.ndarray,
    more: Callable[[], bool] = lambda: True,
) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [r] first gallery image that could be each row, -1 none, -2 out of time; int64 [r] how many could).

    sealed: rows → sealed images. gallery: uint8 [m, *image_shape].
    """
    found, equals = np.full(len(rows), _LATE), np.zeros(len(rows), np.int64)
    planes = spec.name == "etc" and spec.options["form"] == "gray"
    parts = []
    for i in range(0, len(gallery), _CHUNK):
        if not more():
            return found, equals
        some = gallery[i : i + _CHUNK]
        parts.append(invariants(spec, to_planes(some) if planes else some))
    known = np.concatenate(parts)
    slack = _ROUNDING if spec.name == "orthogonal" else 0.0
    for i in range(0, len(rows), _CHUNK):
        if not more():
            break
        for k, values in enumerate(invariants(spec, sealed(rows[i : i + _CHUNK])), i):
            near = np.flatnonzero(np.abs(known[:, 0] - values[0]) <= slack)
            same = near[(np.abs(known[near] - values) <= slack).all(1)]
            found[k], equals[k] = same[0] if len(same) else NONE, len(same)
    return found, equals


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
    if spec.name == "value_shuffle":
        return _histograms(images.reshape(n, -1), 256)
    channels = images.shape[3]
    return _histograms(images.transpose(0, 3, 1, 2).reshape(n * channels, -1), 256).reshape(n, -1)


def _histograms(values: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, k] below `size` → int32 [n, size]."""
    at = values + np.arange(len(values))[:, None] * size
    counts = np.bincount(at.ravel(), minlength=len(values) * size)
    return counts.astype(np.int32).reshape(len(values), size)
