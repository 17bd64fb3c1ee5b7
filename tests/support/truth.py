"""What a scorer knows about images that were sealed under one key, made of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from crypto.arrays import Images, Int64Array
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.truth import Truth

KEY = SecretKey(bytes(range(32)))


def make_truth(
    plain: Images,
    gallery: Images,
    name: str = "block_pixel_shuffle",
    scope: str = "consortium",
    block: int = 8,
    labels: Int64Array | None = None,
    **options: Any,
) -> Truth:
    """Return the truth about images sealed under KEY as rows 0, 1, …; the gallery is these images and others.

    Args:
        plain: The audit images, uint8 [r, h, w, c].
        gallery: The other images, uint8 [g, h, w, c].
        name: The scheme.
        scope: The key scope.
        block: Side of a block in pixels.
        labels: Labels of all images, int64 [r + g]; all 0 by default.
        options: The scheme's options.
    """
    height, width, channels = plain.shape[1:]
    spec = describe(name, (height, width, channels), block, scope, options)
    together = np.concatenate([plain, gallery])
    return Truth(
        pick=np.arange(len(plain)),
        plain=plain,
        sealed=load(spec).cipher(KEY).encrypt(plain),
        gallery=together,
        labels=np.zeros(len(together), np.int64) if labels is None else labels,
        spec=spec,
        block=block,
        seed=0,
        orbit=load(spec).orbit,
        row_keys=scope == "image",
    )
