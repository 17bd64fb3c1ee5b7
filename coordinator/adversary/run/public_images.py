"""Public plain images: what anybody may have, for the attacks of tier T2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from crypto.errors import CipherwardError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")


def read_public(folder: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [m, *shape]: every image below a folder, brought to this size and number of channels.

    Files that cannot be decoded are passed over. Raises CipherwardError where none is left.
    """
    height, width, channels = shape
    images = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in ENDINGS):
        try:
            with Image.open(path) as picture:
                plain = picture.convert("L" if channels == 1 else "RGB")
                if plain.size != (width, height):
                    plain = plain.resize((width, height), Image.Resampling.BILINEAR)
                images.append(np.asarray(plain, np.uint8).reshape(shape))
        except (OSError, ValueError, SyntaxError):  # Pillow raises SyntaxError for a broken PNG
            continue
    if not images:
        raise CipherwardError(f"no public image in {folder}", f"it should hold {', '.join(ENDINGS)} files")
    return np.stack(images)
