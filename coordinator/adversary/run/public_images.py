"""Public plain images, which anybody may have: for the attacks of tier T2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from coordinator.exchange.image_file import PUBLIC_FORMATS, no_public_image, open_image, public_files
from crypto.arrays import Images
from crypto.plural import counted


def read_public(
    folder: Path, shape: tuple[int, int, int], log: Callable[[str], None] = lambda _: None
) -> Images:
    """Read every image below a folder, resized and converted to one shape.

    Files that cannot be decoded are left out, and counted in a line of the log. A file is read if its content is PNG,
    JPEG or BMP, whichever of these its name says.

    Args:
        folder: the folder.
        shape: height, width and channels (1 or 3).
        log: called with a line if files were left out.

    Returns:
        uint8 [m, *shape].

    Raises:
        CipherwardError: if no image could be read.
    """
    height, width, channels = shape
    images, left_out = [], 0
    for path in public_files(folder):
        try:
            with open_image(path, PUBLIC_FORMATS) as picture:
                plain = picture.convert("L" if channels == 1 else "RGB")
                if plain.size != (width, height):
                    plain = plain.resize((width, height), Image.Resampling.BILINEAR)
                images.append(np.asarray(plain, np.uint8).reshape(shape))
        except Exception:  # decoders raise anything at malformed files
            left_out += 1
    if left_out:
        log(
            f"{folder}: {counted(left_out, 'file')} left out, whose content is not a readable PNG, JPEG or BMP image"
        )
    if not images:
        raise no_public_image(folder)
    return np.stack(images)
