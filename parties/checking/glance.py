"""What one image file shows at a glance: its format, size and mode from the header, and a small picture of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from coordinator.exchange.image_file import HOSPITAL_FORMATS, open_allowed, open_picture
from crypto.arrays import Float64Array, UInt8Array
from parties.sources import dicom, nifti
from parties.sources.catalog import Item
from parties.sources.picture import UndecodableImageError, decoding_errors, read_picture, require_whole
from parties.sources.reading import Reading

#: Side of the small picture, in pixels. JPEG files are decoded at about this size: a fraction of the time.
SIDE = 64
#: A picture is in colour if so many of its pixels have channels so far apart. JPEG leaves a few levels in gray ones.
COLOUR_SPREAD, COLOUR_SHARE = 24, 0.005
_BORDER = 2  # pixels of the small picture
_FLAT = 3.0  # gray levels: JPEG leaves a few in an empty edge
_TRANSPARENT_MODES = ("LA", "PA", "La", "RGBA", "RGBa")


@dataclass(frozen=True)
class Header:
    """What a file's header says.

    Attributes:
        format: Such as PNG, or DICOM.
        width: In pixels.
        height: In pixels.
        mode: Channels and bits, in Pillow's words for pictures.
        aspect: The height of a pixel as a share of its width.
        may_be_transparent: Whether it has a channel or a colour for transparency.
    """

    format: str
    width: int
    height: int
    mode: str
    aspect: float
    may_be_transparent: bool

    @property
    def stretch(self) -> float:
        """How much longer one side is than the other, as a viewer shows the image; 1 if it is square."""
        ratio = max(1, self.width) / (max(1, self.height) * self.aspect)
        return max(ratio, 1 / ratio)


@dataclass(frozen=True)
class Look:
    """What a small picture of an image shows.

    Attributes:
        is_colour: Whether its channels differ.
        is_blank: Whether all of it has one gray value, or one colour.
        border: Of its top, bottom, left and right edge: the mean gray value, and 1 if the edge is of one gray value
            (0 otherwise), float64 [8].
        thumb: Gray values of the picture at 16×16, uint8.
        bits: Difference hash: 64 bits, whether each of 8×8 places is darker than its right neighbour.
    """

    is_colour: bool
    is_blank: bool
    border: Float64Array
    thumb: UInt8Array
    bits: int


def read_header(root: Path, item: Item, reading: Reading) -> Header | str:
    """Return the header of an image, or why it cannot be used."""
    path = root / item.path
    try:
        with decoding_errors(path), open_allowed(path, HOSPITAL_FORMATS) as (kind, file):
            if kind == "DICOM":
                header = dicom.read_header(file, reading)
                return Header(kind, header.width, header.height, header.mode, header.aspect, False)
            if kind == "NIfTI":
                _, width, height = nifti.slice_count(file)
                return Header(kind, width, height, "volume", nifti.pixel_aspect(file), False)
            with open_picture(file, kind) as picture:
                clear = picture.mode in _TRANSPARENT_MODES or "transparency" in picture.info
                return Header(picture.format or kind, *picture.size, picture.mode, 1.0, clear)
    except UndecodableImageError as error:
        return error.reason


def look(root: Path, item: Item, reading: Reading) -> Look | str:
    """Return what an image shows, or why it cannot be used."""
    try:
        return _describe(_small_picture(root / item.path, item.part, reading))
    except UndecodableImageError as error:
        return error.reason


def _small_picture(path: Path, part: int, reading: Reading) -> UInt8Array:
    """Return an image as uint8 [SIDE, SIDE, 3]."""
    with decoding_errors(path), open_allowed(path, HOSPITAL_FORMATS) as (kind, file):
        if kind == "JPEG":
            with open_picture(file, kind) as picture:
                picture.draft(None, (SIDE, SIDE))
                small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
                require_whole(picture, file)
                return np.asarray(small)
    return read_picture(path, SIDE, 3, dataclasses.replace(reading, fit="stretch"), part)


def _describe(picture: UInt8Array) -> Look:
    spread = picture.max(2).astype(np.int16) - picture.min(2)
    gray = Image.fromarray(picture).convert("L")
    values = np.asarray(gray, np.float64)
    sides = (values[:_BORDER], values[-_BORDER:], values[:, :_BORDER], values[:, -_BORDER:])
    border = np.array([x for side in sides for x in (side.mean(), side.std() < _FLAT)], np.float64)
    grid = np.asarray(gray.resize((9, 8), Image.Resampling.BOX), np.int16)
    packed = np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes()
    thumb = np.asarray(gray.resize((16, 16), Image.Resampling.BOX))
    is_colour = bool((spread > COLOUR_SPREAD).mean() > COLOUR_SHARE)
    is_blank = bool((picture == picture[0, 0]).all())
    return Look(is_colour, is_blank, border, thumb, int.from_bytes(packed, "big"))
