"""Read an image file as a square picture of one size and one mode, gray or RGB.

All pictures get the same mode and size, because a file's own mode or size can reveal its class. Files with more than
8 bits a channel are refused: convert them to 8 bits with a window of your choice. A file is read if its content is
PNG or JPEG, whatever its name says (coordinator/exchange/image_file.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from coordinator.exchange.image_file import (
    HOSPITAL_FORMATS,
    UnreadableFormatError,
    open_image,
    open_regular,
)
from crypto.arrays import UInt8Array
from crypto.errors import CipherwardError

# Metadata that can hold an orientation: the keys that Pillow uses for JPEG and PNG, and the bytes in a JPEG file.
_ORIENTATION_KEYS = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))
_ORIENTATION_MARKS = (b"Exif\0", b"http://ns.adobe.com/xap/")


class UndecodableImageError(CipherwardError):
    """An image file whose content cannot be decoded. The other images can be used without it.

    Attributes:
        reason: Why, without the file's name.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def read_picture(path: Path, size: int, channels: int) -> UInt8Array:
    """Return an image file as uint8 [size, size, channels].

    Raises:
        UndecodableImageError: If the content of the file is not an image, or not one that is accepted.
        CipherwardError: If the disk, the network, a permission or a lack of memory prevents reading it.
    """
    try:
        plain = _decode_plain_jpeg(path, size, channels)
        return _decode_with_pillow(path, size, channels) if plain is None else plain
    except MemoryError:
        raise CipherwardError(
            f"not enough memory to decode {path}", "free some memory, or remove the file"
        ) from None
    except Exception as error:  # decoders raise anything at malformed files
        if isinstance(error, OSError) and error.errno is not None:  # a decoder's own OSErrors have none
            raise read_error(path, error) from None
        reason = _reason_of(error)
        raise UndecodableImageError(f"cannot decode {path}: {reason}", reason) from None


def read_error(path: Path, error: OSError) -> CipherwardError:
    """Return the error for a file that the operating system cannot read."""
    return CipherwardError(
        f"cannot read {path}: {error.strerror}",
        "fix that, and run the same command again: it continues where it stopped",
    )


def _reason_of(error: Exception) -> str:
    """Return why a file cannot be decoded, in one line that does not depend on the run."""
    if isinstance(error, UnreadableFormatError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):  # its text holds the open file's number
        return "its header is damaged"
    return f"{type(error).__name__}: {error}"


def _decode_plain_jpeg(path: Path, size: int, channels: int) -> UInt8Array | None:
    """Return a JPEG file that needs no resizing and no turning, uint8 [size, size, channels]; None for other files.

    The pixels are the same as Pillow's, which uses the same library. Pillow takes half as long again, and holds
    Python's lock for a third of that time, while the threads that seal wait for it.
    """
    with open_regular(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length > (1 << 20) + 4 * size * size * channels:
            return None  # another size, or mostly other data
        data = file.read(length)
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, mode, _ = simplejpeg.decode_jpeg_header(data)
        fits = (height, width) == (size, size) and mode in ("Gray", "YCbCr")
        if not fits or any(mark in data for mark in _ORIENTATION_MARKS):
            return None
        is_gray = mode == "Gray" and channels == 1
        plain: UInt8Array = simplejpeg.decode_jpeg(data, "GRAY" if is_gray else "RGB")
    except (ValueError, KeyError):
        return None  # damaged or rare: Pillow decides whether it can be decoded
    if (
        plain.shape[2] > channels
    ):  # Pillow computes gray from rounded colours; the file's luma is not rounded
        plain = np.asarray(Image.fromarray(plain).convert("L"))[..., None]
    return plain


def _decode_with_pillow(path: Path, size: int, channels: int) -> UInt8Array:
    """Return a PNG or JPEG file of any mode and size as uint8 [size, size, channels]."""
    with open_image(path, HOSPITAL_FORMATS) as picture:
        # Pillow silently drops the lower eight bits of a PNG with 16 bits a channel.
        is_deep = any(";16" in str(part[3]) for part in picture.tile)
        picture.load()
        # Looking for an orientation is Python code, which only one thread can run at a time: skip it if possible.
        if picture.format not in ("JPEG", "PNG") or not _ORIENTATION_KEYS.isdisjoint(picture.info):
            ImageOps.exif_transpose(picture, in_place=True)
        if is_deep or picture.mode.startswith("I") or picture.mode == "F":
            raise ValueError(
                "more than 8 bits a channel; choose the gray values that matter and convert to 8 bits"
            )
        # Pillow copies an image even if it has the mode already: a third of the time at 512×512.
        mode = "L" if channels == 1 else "RGB"
        plain = picture if picture.mode == mode else picture.convert(mode)
        if plain.size != (size, size):
            plain = plain.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.uint8).reshape(size, size, channels)
