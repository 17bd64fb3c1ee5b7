"""Open image files that others wrote: which formats are read, told by content, and how large they may be.

A file's name says nothing. Pillow has decoders for dozens of formats, and by default offers a file to all of them;
the one for EPS starts Ghostscript. Here the first bytes must be those of an allowed format, and that format's decoder
alone sees the file.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile

#: The first bytes of a file in each format that is read. A JPEG file with several pictures (MPO) begins like others.
SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "BMP": b"BM"}
#: The formats of a hospital's images.
HOSPITAL_FORMATS = ("PNG", "JPEG")
#: The formats of public images.
PUBLIC_FORMATS = ("PNG", "JPEG", "BMP")
#: Pixels that one image may have. It is the bound from which Pillow warns of a decompression bomb: 0.25 GiB as RGB.
#: A chest radiograph has 20 million.
MAX_PIXELS = (1 << 28) // 3
_LONGEST_SIGNATURE = max(map(len, SIGNATURES.values()))


class UnreadableFormatError(ValueError):
    """A file whose content is of no allowed format, or is too large an image."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, unbuffered.

    Raises:
        UnreadableFormatError: If it is a pipe, a device or a folder. Opening a pipe would wait for ever.
        OSError: If the system refuses.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableFormatError("not a regular file")
    return open(descriptor, "rb", buffering=0)


def format_of(start: bytes, allowed: Sequence[str]) -> str:
    """Return the format that a file's first bytes are of.

    Raises:
        UnreadableFormatError: If it is none of the allowed ones.
    """
    for name in allowed:
        if start.startswith(SIGNATURES[name]):
            return name
    raise UnreadableFormatError(f"its content is not {', '.join(allowed[:-1])} or {allowed[-1]}")


@contextlib.contextmanager
def open_image(path: Path, allowed: Sequence[str] = HOSPITAL_FORMATS) -> Iterator[ImageFile.ImageFile]:
    """Open an image file of an allowed format, whatever its name. Its pixels are not decoded yet.

    Raises:
        UnreadableFormatError: If the content is of another format, or the image has too many pixels.
        Exception: Whatever the decoder raises at a malformed file.
    """
    with open_regular(path) as file, _open_stream(file, allowed) as picture:
        yield picture


@contextlib.contextmanager
def open_image_bytes(
    data: bytes, allowed: Sequence[str] = HOSPITAL_FORMATS
) -> Iterator[ImageFile.ImageFile]:
    """Open the content of an image file, as `open_image` does."""
    with _open_stream(io.BytesIO(data), allowed) as picture:
        yield picture


@contextlib.contextmanager
def _open_stream(file: BinaryIO, allowed: Sequence[str]) -> Iterator[ImageFile.ImageFile]:
    """Open an image of an allowed format at the start of a stream."""
    kind = format_of(file.read(_LONGEST_SIGNATURE), allowed)
    file.seek(0)
    with Image.open(file, formats=[kind]) as picture:
        require_few_pixels(*picture.size)
        yield picture


def require_few_pixels(width: int, height: int) -> None:
    """Check that an image is no decompression bomb: a few kilobytes that unfold to gigabytes.

    Raises:
        UnreadableFormatError: If it has too many pixels.
    """
    if width * height > MAX_PIXELS:
        raise UnreadableFormatError(f"{width}×{height} pixels are more than {MAX_PIXELS:,}")
