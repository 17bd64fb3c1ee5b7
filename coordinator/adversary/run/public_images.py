"""Public plain images, which anybody may have: for the attacks of tier T2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from crypto.arrays import Images
from crypto.errors import CipherwardError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def read_public(folder: Path, shape: tuple[int, int, int]) -> Images:
    """Read every image below a folder, resized and converted to one shape.

    Files that cannot be decoded are skipped.

    Args:
        folder: the folder.
        shape: height, width and channels (1 or 3).

    Returns:
        uint8 [m, *shape].

    Raises:
        CipherwardError: if no image could be read.
    """
    height, width, channels = shape
    images = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES):
        try:
            with Image.open(path) as picture:
                plain = picture.convert("L" if channels == 1 else "RGB")
                if plain.size != (width, height):
                    plain = plain.resize((width, height), Image.Resampling.BILINEAR)
                images.append(np.asarray(plain, np.uint8).reshape(shape))
        except (OSError, ValueError, SyntaxError):  # Pillow raises SyntaxError for a broken PNG
            continue
    if not images:
        raise CipherwardError(f"no public image in {folder}", f"it should hold {', '.join(SUFFIXES)} files")
    return np.stack(images)
