"""What a scorer knows about images that were sealed under one key, made of arrays."""

from __future__ import annotations

import numpy as np

from coordinator.exchange.orbit import orbit_of
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.truth import Truth

KEY = SecretKey(bytes(range(32)))


def made_truth(
    plain, gallery, name="block_pixel_shuffle", scope="consortium", block=8, labels=None, **options
):
    """The truth about images sealed under KEY, as rows 0, 1, …; the gallery is they and these others."""
    spec = describe(name, plain.shape[1:], block, scope, options)
    every = np.concatenate([plain, gallery])
    return Truth(
        pick=np.arange(len(plain)),
        plain=plain,
        sealed=load(spec).cipher(KEY).encrypt(plain),
        gallery=every,
        labels=np.zeros(len(every), np.int64) if labels is None else labels,
        spec=spec,
        block=block,
        seed=0,
        orbit=orbit_of(spec),
        row_keys=scope == "image",
    )
