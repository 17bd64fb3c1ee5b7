"""Read an image file as a square picture of one size and one mode, gray or RGB.

All pictures get the same mode and size, because a file's own mode or size can reveal its class. Files with more than
8 bits a channel are refused unless a window is stated, transparent ones unless a background is (reading.py). A file's
content decides who decodes it, whatever its name says (coordinator/exchange/image_file.py): Pillow the pictures,
dicom.py and nifti.py the others.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from coordinator.exchange.image_file import (
    HOSPITAL_FORMATS,
    MAX_PIXELS,
    UnreadableFormatError,
    open_allowed,
    open_picture,
    open_regular,
)
from crypto.arrays import AnyArray, UInt8Array
from crypto.errors import CipherwardError
from parties.sources import dicom, nifti
from parties.sources.frame_decoders import capture_warnings
from parties.sources.reading import DEFAULT, Reading, UnusablePixelsError, apply_window, to_square
from parties.sources.whole_pictures import (
    require_all_scans,
    require_whole_jpeg,
    require_whole_png,
)
from parties.sources.whole_tiff import require_whole_tiff

# Metadata that can hold an orientation: the keys that Pillow uses for JPEG and PNG, and the bytes in a JPEG file.
_ORIENTATION_KEYS = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))
_ORIENTATION_MARKS = (b"Exif\0", b"http://ns.adobe.com/xap/")
# Tags of TIFF 6.0 and their values.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT, _DEPTH = 258, 262, 284, 339, 32997
_DESCRIPTION, _COLOUR_MAP, _EXTRA_CHANNELS, _UNSPECIFIED = 270, 320, 338, 0
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED, _A_PLANE_EACH = 0, 1, 2, 2
# Of a PNG file of 2 or 4 bits, in Pillow's words: from one gray value to the next.
_GRAY_STEPS = {"L;2": 85, "L;4": 17}
_IMAGEJ_STACK = re.compile(r"ImageJ=.*?^images=(\d{1,9})\s*$", re.DOTALL | re.MULTILINE)
#: An error of libtiff, such as "Fax4Decode: Bad code word at line 13 of strip 0 (x 11)."
_LIBTIFF = re.compile(rb"^(\w+(Decode\w*|Setup\w*|Lib)|TIFF\w+|filename|tempfile\.tif): .*\.$")
#: Bytes that may stand before the pixels of a JPEG file.
_MAX_JPEG_HEADER = 1 << 26
_TRANSPARENT = "it is transparent; state what is behind it: --background 0 (black) to 255"


class UndecodableImageError(CipherwardError):
    """An image file whose content cannot be decoded. The other images can be used without it.

    Attributes:
        reason: Why, without the file's name.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message, "export it again, restore it from a copy, or leave it out")
        self.reason = reason


def read_picture(
    path: Path, size: int, channels: int, reading: Reading = DEFAULT, part: int = -1
) -> UInt8Array:
    """Return an image file as uint8 [size, size, channels].

    Args:
        path: The file.
        size: Side of the result, in pixels.
        channels: 1 (gray) or 3 (RGB).
        reading: How the file is read.
        part: The frame of a DICOM file, or the slice of a NIfTI file, from 0; -1 for the only one.

    Raises:
        UndecodableImageError: If the content of the file is not an image, or not one that is accepted.
        CipherwardError: If the disk, the network, a permission or a lack of memory prevents reading it.
    """
    with decoding_errors(path):
        plain = _decode_plain_jpeg(path, size, channels)
        return plain if plain is not None else _decode(path, size, channels, reading, part)


@contextlib.contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises at a file into the errors of `read_picture`."""
    try:
        yield
    except MemoryError:
        raise CipherwardError(
            f"not enough memory to decode {path}", "free some memory, or remove the file"
        ) from None
    except CipherwardError:
        raise
    except Exception as error:  # decoders raise anything at malformed files
        if isinstance(error, OSError) and error.errno is not None:  # a decoder's own OSErrors have none
            raise read_error(path, error) from None
        reason = reason_of(error)
        raise UndecodableImageError(f"cannot decode {path}: {reason}", reason) from None


def read_error(path: Path, error: OSError) -> CipherwardError:
    """Return the error for a file that the operating system cannot read."""
    return CipherwardError(
        f"cannot read {path}: {error.strerror}",
        "fix that, and run the same command again: it continues where it stopped",
    )


def reason_of(error: Exception) -> str:
    """Return why a file cannot be decoded, in one line that does not depend on the run."""
    if isinstance(error, (UnreadableFormatError, UnusablePixelsError)):
        return str(error)
    if isinstance(error, UnidentifiedImageError):  # its text holds the open file's number
        return "its header is damaged, or it is of a kind that is not decoded"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if "truncated" in str(error).lower():
        return f"it is cut off ({error})"
    return f"it is damaged, or of a kind that is not decoded ({type(error).__name__}: {error})"


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
        require_all_scans(data)
        is_gray = mode == "Gray" and channels == 1
        plain: UInt8Array = simplejpeg.decode_jpeg(data, "GRAY" if is_gray else "RGB")
    except UnusablePixelsError:
        raise
    except (ValueError, KeyError):
        return None  # damaged or rare: Pillow decides whether it can be decoded
    if (
        plain.shape[2] > channels
    ):  # Pillow computes gray from rounded colours; the file's luma is not rounded
        plain = np.asarray(Image.fromarray(plain).convert("L"))[..., None]
    return plain


def _decode(path: Path, size: int, channels: int, reading: Reading, part: int) -> UInt8Array:
    """Return a file of any allowed format, mode and size as uint8 [size, size, channels]."""
    needs_aspect = reading.fit != "stretch"
    with open_allowed(path, HOSPITAL_FORMATS) as (kind, file):
        if kind == "DICOM":
            frames = 1 if part >= 0 else dicom.read_header(file, reading).frames
            _require_one(frames, part, kind)
            picture = Image.fromarray(dicom.read_frame(file, max(part, 0), reading))
            aspect = dicom.pixel_aspect(file, max(part, 0)) if needs_aspect else 1.0
        elif kind == "NIfTI":
            _require_one(1 if part >= 0 else nifti.slice_count(file)[0], part, kind)
            picture = Image.fromarray(nifti.read_slice(file, max(part, 0), reading))
            aspect = nifti.pixel_aspect(file) if needs_aspect else 1.0
        else:
            with open_picture(file, kind) as opened:
                return to_square(_show(opened, file, reading), size, channels, reading)
        return to_square(picture, size, channels, reading, aspect)


def _require_one(parts: int, part: int, kind: str) -> None:
    """Raise UnusablePixelsError if a file that was taken for one picture, for its name, holds several."""
    if part < 0 and parts > 1:
        raise UnusablePixelsError(
            f"a {kind} file of {parts} pictures where one is expected; save each in a file of its own"
        )


def _show(picture: ImageFile.ImageFile, file: BinaryIO, reading: Reading) -> Image.Image:
    """Decode a picture and return it upright, with 8 bits a channel and without transparency.

    Args:
        picture: The picture, whose pixels are not decoded yet.
        file: Its file.
        reading: How it is read.
    """
    if picture.format in ("TIFF", "WEBP", "PNG") and (count := getattr(picture, "n_frames", 1)) > 1:
        raise UnusablePixelsError(f"{count} pictures in one file; save each in a file of its own")
    if picture.format == "TIFF":
        _refuse_partly_read(picture)
    is_deep = _is_deep(picture)
    steps = {_GRAY_STEPS.get(str(part[3]), 1) for part in picture.tile}
    colours = _palette_size(picture)
    _load(picture)
    require_whole(picture, file)
    if picture.mode == "P" and int(np.max(np.asarray(picture))) >= colours:
        raise UnusablePixelsError("its pixels name colours that are not in its palette")
    clear = picture.info.get("transparency")
    if picture.format == "PNG" and isinstance(clear, int) and len(steps) == 1:
        # Pillow spreads the 4 or 16 gray values of such a file over 256, and not the one that is transparent.
        picture.info["transparency"] = clear * steps.pop()
    # Looking for an orientation is Python code, which only one thread can run at a time: skip it if possible.
    if picture.format not in ("JPEG", "PNG") or not _ORIENTATION_KEYS.isdisjoint(picture.info):
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I") or picture.mode == "F" or _sample_format(picture) == _SIGNED:
        return Image.fromarray(_show_deep(picture, is_deep, reading))
    if is_deep:
        raise UnusablePixelsError(
            "more than 8 bits a channel, with colour or transparency; convert it to 8 bits"
        )
    return _cover(picture, reading)


def _load(picture: ImageFile.ImageFile) -> None:
    """Decode a picture's pixels.

    Raises:
        UnusablePixelsError: If libtiff says that they are damaged, which it often does on the terminal only.
    """
    if all(part[0] != "libtiff" for part in picture.tile):
        picture.load()
        return
    with capture_warnings(_LIBTIFF) as errors:
        picture.load()
    if errors:
        raise UnusablePixelsError("its compressed pixels are damaged")


def require_whole(picture: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Check that a picture that Pillow decoded holds all pixels that its header names.

    Raises:
        UnusablePixelsError: If it does not: Pillow fills the picture with black or gray, and says nothing.
    """
    if picture.format in ("JPEG", "MPO"):
        file.seek(0)
        require_whole_jpeg(
            file.read(_MAX_JPEG_HEADER + 4 * len(picture.getbands()) * picture.width * picture.height)
        )
    elif picture.format == "PNG":
        require_whole_png(file)
    elif picture.format == "TIFF":
        require_whole_tiff(file, getattr(picture, "tag_v2", {}))


def _palette_size(picture: Image.Image) -> int:
    """Return how many colours a picture's palette has in its file. Call it before the pixels are decoded."""
    if picture.palette is None:
        return 0
    kind, colours = picture.palette.getdata()
    return len(colours) // len(kind.partition(";")[0])  # such as RGB, BGRX or, in planes, RGB;L


def _refuse_partly_read(picture: ImageFile.ImageFile) -> None:
    """Raise UnusablePixelsError if Pillow would leave something of a TIFF file out, or take its palette for black.

    ImageJ lists the first picture of a large stack alone, and names their number in the description.
    """
    description = str(getattr(picture, "tag_v2", {}).get(_DESCRIPTION, ""))
    stack = _IMAGEJ_STACK.match(description)
    if _tiff_numbers(picture, _DEPTH, 1)[0] > 1 or (stack and int(stack[1]) > 1):
        raise UnusablePixelsError("a volume of several planes in one file; save each in a file of its own")
    if _tiff_numbers(picture, _PLANES, 1)[0] == _A_PLANE_EACH and picture.mode in ("LA", "La"):
        # Pillow leaves the second plane out, and the whole picture is transparent.
        raise UnusablePixelsError("gray and transparency in planes of their own; convert it")
    others = _tiff_numbers(picture, _EXTRA_CHANNELS, 1).count(_UNSPECIFIED)
    if others > (1 if picture.mode == "RGB" else 0):  # one beside colours is a channel for transparency
        raise UnusablePixelsError(
            "channels beside gray or colour, which would be left out; save it without them"
        )
    if picture.mode == "P" and 0 < max(_tiff_numbers(picture, _COLOUR_MAP, 0)) < 256:
        raise UnusablePixelsError(
            "its palette holds colours of 8 bits, where a TIFF file has 16; convert it"
        )


def _show_deep(picture: ImageFile.ImageFile, is_deep: bool, reading: Reading) -> UInt8Array:
    """Return a gray picture whose values are signed or have more than 8 bits under the window, uint8 [h, w]."""
    values, full = _deep_values(picture, is_deep)
    clear = picture.info.get("transparency")  # of a PNG file: the value that is transparent
    hidden = values == clear if isinstance(clear, int) else np.zeros(values.shape, bool)
    if not hidden.any():
        return apply_window(values, reading.window, full)
    if reading.background is None:
        raise UnusablePixelsError(_TRANSPARENT)
    gray = apply_window(np.where(hidden, np.float32(np.nan), values), reading.window, full)
    gray[hidden] = reading.background
    return gray


def _is_deep(picture: ImageFile.ImageFile) -> bool:
    """Return whether a file has more than 8 bits a channel. Call it before the pixels are decoded.

    Pillow silently drops the lower eight bits of a PNG with 16 bits a channel. It takes the colours of a TIFF file
    for 8 bits where each has a plane of its own, whatever the file says. A BMP file of 16 bits a pixel has 5 or 6 a
    channel.
    """
    return (
        any(";16" in str(part[3]) for part in picture.tile if picture.format != "BMP")
        or max(_tiff_numbers(picture, _BITS_PER_SAMPLE, 1)) > 8
    )


def _tiff_numbers(picture: Image.Image, tag: int, default: int) -> tuple[int, ...]:
    """Return a tag's whole numbers in a TIFF file, and the default in other pictures or where the tag is missing."""
    tags = getattr(picture, "tag_v2", None)
    value = tags.get(tag, default) if tags is not None else default
    numbers = tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)
    return numbers or (default,)


def _sample_format(picture: Image.Image) -> int:
    """Return what a gray TIFF file says that its numbers are; unsigned for other pictures."""
    formats = _tiff_numbers(picture, _SAMPLE_FORMAT, _UNSIGNED)
    return formats[0] if len(formats) == 1 else _UNSIGNED


def _deep_values(
    picture: ImageFile.ImageFile, is_deep: bool
) -> tuple[AnyArray, tuple[float, float] | None]:
    """Return the numbers of a gray picture whose values are signed or have more than 8 bits, and their range.

    The range is None for 32 bits. Pillow takes 8 bits for unsigned and 32 for signed, whatever a TIFF file says, and
    does not turn 16 bits whose 0 is white.
    """
    values, tags = np.asarray(picture), getattr(picture, "tag_v2", None)
    if tags is None:
        return values, (0.0, 65535.0) if picture.mode.startswith("I;16") or is_deep else None
    bits, sample = int(tags.get(_BITS_PER_SAMPLE, (1,))[0]), _sample_format(picture)
    if bits == 8 and sample == _SIGNED:
        values = values.astype(np.uint8).view(np.int8)
    elif bits == 32 and sample == _UNSIGNED and values.dtype == np.int32:
        values = values.view(np.uint32)
    full = None
    if bits <= 16:
        low = -(2.0 ** (bits - 1)) if sample == _SIGNED else 0.0
        full = low, low + 2.0**bits - 1
    if bits > 8 and values.dtype.kind in "iu" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = -1.0 - values if sample == _SIGNED else (full or (0.0, 2.0**bits - 1))[1] - values
    return values, full


def _cover(picture: Image.Image, reading: Reading) -> Image.Image:
    """Return a picture without transparency: on the stated background, where it is transparent at all."""
    if picture.mode not in ("LA", "PA", "La", "RGBA", "RGBa") and "transparency" not in picture.info:
        return picture
    whole = picture.convert("RGBA")
    lowest, _ = whole.getchannel("A").getextrema()
    if lowest == 255:
        return whole.convert("L") if picture.mode in ("L", "LA", "La") else whole.convert("RGB")
    if reading.background is None:
        raise UnusablePixelsError(_TRANSPARENT)
    ground = Image.new("RGBA", whole.size, (*(reading.background,) * 3, 255))
    ground.alpha_composite(whole)
    return ground.convert("L") if picture.mode in ("L", "LA", "La") else ground.convert("RGB")
