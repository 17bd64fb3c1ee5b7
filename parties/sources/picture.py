"""An image file → one size and one mode.

Gray or RGB, and square: a file's own mode or size can betray its class. Files of more than 8 bits a channel are
refused: bring them to 8 with a window of your choice.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from crypto.errors import CipherwardError

# Where a JPEG or PNG file can say that it is to be turned: as Pillow names it, and as it stands in a JPEG file.
_TURNED = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))
_TURNED_JPEG = (b"Exif\0", b"http://ns.adobe.com/xap/")


class Undecodable(CipherwardError):
    """An image whose own content cannot be read: the rest can go on without it."""


def read_picture(path: Path, size: int, channels: int) -> np.ndarray:
    """uint8 [size, size, channels] of an image file.

    Raises Undecodable naming a file whose content is no image that may be read, and CipherwardError where it was not
    got at: by the disk, the network, a permission or for want of memory.
    """
    try:
        plain = _as_it_stands(path, size, channels)
        return _by_pillow(path, size, channels) if plain is None else plain
    except MemoryError:
        raise CipherwardError(
            f"not enough memory to decode {path}", "free some memory, or take the file away"
        ) from None
    except Exception as error:  # decoders raise anything at malformed files
        if isinstance(error, OSError) and error.errno is not None:  # a decoder's own OSErrors have none
            raise unreadable(path, error) from None
        raise Undecodable(f"cannot decode {path}: {type(error).__name__}: {error}") from None


def unreadable(path: Path, error: OSError) -> CipherwardError:
    """The error for a file that the machine does not give."""
    return CipherwardError(
        f"cannot read {path}: {error.strerror}", "mend that, and run the same command again: it goes on"
    )


def _as_it_stands(path: Path, size: int, channels: int) -> np.ndarray | None:
    """uint8 [size, size, channels] of a whole JPEG file of this size that is not to be turned, or None.

    The pixels are Pillow's, which decodes by the same library; but that takes half as long again, and a third of it
    holds Python's lock, which the threads that seal are waiting for.
    """
    with open(path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        if length > (1 << 20) + 4 * size * size * channels:
            return None  # of another size, or mostly something else
        data = file.read(length)
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, mode, _ = simplejpeg.decode_jpeg_header(data)
        fits = (height, width) == (size, size) and mode in ("Gray", "YCbCr")
        if not fits or any(mark in data for mark in _TURNED_JPEG):
            return None
        alone = mode == "Gray" and channels == 1
        plain: np.ndarray = simplejpeg.decode_jpeg(data, "GRAY" if alone else "RGB")
    except (ValueError, KeyError):
        return None  # damaged, or rare: whether something of it can be shown is for Pillow to say
    if plain.shape[2] > channels:  # Pillow's gray is of the colours, rounded; the file's own is not
        plain = np.asarray(Image.fromarray(plain).convert("L"))[..., None]
    return plain


def _by_pillow(path: Path, size: int, channels: int) -> np.ndarray:
    """uint8 [size, size, channels] of any image file that Pillow reads."""
    with Image.open(path) as picture:
        # Of a PNG with 16 bits a channel Pillow would drop the lower eight without a word.
        deep = any(";16" in str(part[3]) for part in picture.tile)
        picture.load()
        # A search in vain for an orientation is Python code, of which one thread at a time can run some.
        if picture.format not in ("JPEG", "PNG") or not _TURNED.isdisjoint(picture.info):
            ImageOps.exif_transpose(picture, in_place=True)
        if deep or picture.mode.startswith("I") or picture.mode == "F":
            raise ValueError("more than 8 bits: which gray values matter is not ours to guess")
        # Pillow copies an image that is brought to the mode it has: a third of the time at 512².
        mode = "L" if channels == 1 else "RGB"
        plain = picture if picture.mode == mode else picture.convert(mode)
        if plain.size != (size, size):
            plain = plain.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.uint8).reshape(size, size, channels)
