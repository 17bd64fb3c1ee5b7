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
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile

from crypto.errors import CipherwardError

#: What marks each format that is read: alternatives, each of (offset, bytes) pairs that must all be there. A JPEG
#: file with several pictures (MPO) begins like others. The first bytes of a DICOM file are free; "DICM" follows them.
SIGNATURES: dict[str, tuple[tuple[tuple[int, bytes], ...], ...]] = {
    "PNG": (((0, b"\x89PNG\r\n\x1a\n"),),),
    "JPEG": (((0, b"\xff\xd8\xff"),),),
    "TIFF": (
        ((0, b"II*\0"),),
        ((0, b"MM\0*"),),
        ((0, b"II+\0"),),
        ((0, b"MM\0+"),),
    ),  # the last two: BigTIFF
    "BMP": (((0, b"BM"),),),
    "WEBP": (((0, b"RIFF"), (8, b"WEBP")),),
    "DICOM": (((128, b"DICM"),),),
    "NIfTI": (
        ((344, b"n+1\0"),),
        ((4, b"n+2\0\r\n\x1a\n"),),
        ((0, b"\x1f\x8b\x08"),),
    ),  # NIfTI-1, NIfTI-2, gzip
}
#: The formats of a hospital's images that Pillow decodes.
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
#: The formats of a hospital's images. DICOM comes first: its first 128 bytes can be those of any other format.
HOSPITAL_FORMATS = ("DICOM", "NIfTI", *PICTURE_FORMATS)
#: The formats of public images.
PUBLIC_FORMATS = ("PNG", "JPEG", "BMP")
#: How the names of their files end.
PUBLIC_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
#: Pixels that one image may have. It is the bound from which Pillow warns of a decompression bomb: 0.25 GiB as RGB.
#: A chest radiograph has 20 million.
MAX_PIXELS = (1 << 28) // 3
#: Bytes from the beginning of a file that hold every signature.
SIGNATURE_BYTES = max(
    at + len(mark) for marks in SIGNATURES.values() for parts in marks for at, mark in parts
)

# What Pillow warns of (sizes, odd metadata) is either refused here or does not matter; the terminal is for what does.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL(\..*)?$")


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

    Args:
        start: SIGNATURE_BYTES of the file, or the whole file if it is shorter.
        allowed: Names of formats, in the order in which they are compared.

    Raises:
        UnreadableFormatError: If it is none of the allowed ones.
    """
    for name in allowed:
        for marks in SIGNATURES[name]:
            if all(start.startswith(mark, at) for at, mark in marks):
                return name
    if not start:
        raise UnreadableFormatError("the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise UnreadableFormatError("a Git LFS pointer, not the file itself")
    raise UnreadableFormatError(f"its content is not {', '.join(allowed[:-1])} or {allowed[-1]}")


@contextlib.contextmanager
def open_allowed(path: Path, allowed: Sequence[str] = HOSPITAL_FORMATS) -> Iterator[tuple[str, BinaryIO]]:
    """Open a file of an allowed format, whatever its name, and yield the format's name and the file at its start.

    Raises:
        UnreadableFormatError: If the content is of another format.
        OSError: If the system refuses.
    """
    with open_regular(path) as file:
        kind = format_of(file.read(SIGNATURE_BYTES), allowed)
        file.seek(0)
        yield kind, file


@contextlib.contextmanager
def open_image(path: Path, allowed: Sequence[str] = PICTURE_FORMATS) -> Iterator[ImageFile.ImageFile]:
    """Open an image file of an allowed format, whatever its name. Its pixels are not decoded yet.

    Raises:
        UnreadableFormatError: If the content is of another format, or the image has too many pixels.
        Exception: Whatever the decoder raises at a malformed file.
    """
    with open_allowed(path, allowed) as (kind, file), open_picture(file, kind) as picture:
        yield picture


@contextlib.contextmanager
def open_image_bytes(
    data: bytes, allowed: Sequence[str] = PICTURE_FORMATS
) -> Iterator[ImageFile.ImageFile]:
    """Open the content of an image file, as `open_image` does."""
    stream = io.BytesIO(data)
    kind = format_of(data[:SIGNATURE_BYTES], allowed)
    with open_picture(stream, kind) as picture:
        yield picture


@contextlib.contextmanager
def open_picture(file: BinaryIO, kind: str) -> Iterator[ImageFile.ImageFile]:
    """Open the image in a file of a known format. Only that format's decoder sees the file.

    Raises:
        UnreadableFormatError: If the image has too many pixels.
        Exception: Whatever the decoder raises at a malformed file.
    """
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


def public_files(folder: Path) -> list[Path]:
    """Return the files below a folder of public images that are named as images, sorted."""
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in PUBLIC_SUFFIXES)


def no_public_image(folder: Path) -> CipherwardError:
    """Return the error for a folder in which no public image is found, or none that can be read."""
    return CipherwardError(
        f"no public image in {folder}", f"it should hold {', '.join(PUBLIC_SUFFIXES)} files"
    )
