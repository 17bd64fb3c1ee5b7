"""Image files of noise."""

from __future__ import annotations

import numpy as np
from PIL import Image


def picture(path, mode="L", size=(20, 20), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    gray = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    gray[...] = gray[..., :1]
    # A palette straight from RGB would dither; from gray it is exact.
    Image.fromarray(gray).convert("L" if mode == "P" else mode).convert(mode).save(path)
    return gray[..., 0]
