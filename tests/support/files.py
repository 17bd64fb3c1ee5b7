"""Image files of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from crypto.arrays import UInt8Array


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (20, 20), seed: int = 0) -> UInt8Array:
    """Write an image file of gray noise in this mode, and return its gray values, uint8 [h, w]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    gray = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    gray[...] = gray[..., :1]
    # A palette straight from RGB would dither; from gray it is exact.
    Image.fromarray(gray).convert("L" if mode == "P" else mode).convert(mode).save(path)
    return gray[..., 0]
