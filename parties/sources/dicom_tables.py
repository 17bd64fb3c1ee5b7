"""Lookup tables of DICOM images: of values, and palettes.

They are applied here and not by pydicom. It counts the entries of a table of 8 bits with 8 bits, so that the table
repeats after 256, and it takes the numbers of big-endian palettes for little-endian ones.

Source: DICOM PS3.3 C.11.1.1 (modality LUT), C.11.2.1.1 (VOI LUT), C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9.2 (palettes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crypto.arrays import AnyArray
from parties.sources.reading import UnusablePixelsError

#: The most entries that a table can have: its descriptor holds 16 bits, of which 0 stands for this.
_MOST_ENTRIES = 1 << 16
_COLOURS = ("Red", "Green", "Blue")


@dataclass(frozen=True)
class Table:
    """A lookup table.

    Attributes:
        first: The value that the first entry stands for. Smaller values have the first entry, too, and those beyond
            the last entry have the last.
        bits: Of an entry.
        entries: Numbers [n] of a table of values, or uint8 [n, 3] of a palette.
    """

    first: int
    bits: int
    entries: AnyArray

    def apply(self, values: AnyArray) -> AnyArray:
        """Return the entries that values [h, w] stand for, [h, w] or [h, w, 3]. A value that is no number is 0."""
        whole = np.rint(np.nan_to_num(values)).clip(-1e9, 1e9) if values.dtype.kind == "f" else values
        return np.asarray(
            self.entries[(whole.astype(np.int64) - self.first).clip(0, len(self.entries) - 1)]
        )


def read_table(item: Any, is_little_endian: bool, lowest: float) -> Table:
    """Return the lookup table in an item of a modality LUT or VOI LUT sequence.

    Args:
        item: The item.
        is_little_endian: How the file stores numbers.
        lowest: The lowest value that the table can be asked for. If it is negative, a first value that is stored as
            an unsigned number is a negative one: without explicit types nothing else says so.

    Raises:
        UnusablePixelsError: If the table is shorter than it says, or in a form that is not read.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or _MOST_ENTRIES
    if not 8 <= bits <= 16:
        raise UnusablePixelsError(f"a lookup table of {bits} bits is not read")
    if first > 0x7FFF and lowest < 0:
        first -= 0x10000
    data = item.LUTData
    if not isinstance(data, bytes):
        words = np.atleast_1d(np.asarray(data, np.int64)).astype("<u2")
        return Table(first, bits, _entries(words.tobytes(), count, bits, is_little_endian=True))
    return Table(first, bits, _entries(data, count, bits, is_little_endian))


def _entries(data: bytes, count: int, bits: int, is_little_endian: bool) -> AnyArray:
    """Return entries of two bytes, or of one where eight bits are stored so: an odd number has a byte behind it."""
    if len(data) >= 2 * count:
        return np.frombuffer(data, "<u2" if is_little_endian else ">u2", count).astype(np.uint16)
    if bits == 8 and len(data) == count + count % 2:
        return np.frombuffer(data, np.uint8, count)
    raise UnusablePixelsError("its lookup table is shorter than it says")


def read_palette(tags: Any, is_little_endian: bool) -> Table:
    """Return an image's palette in colours of 8 bits.

    Raises:
        UnusablePixelsError: If it is shorter than it says, larger than a palette can be, or says that its colours
            have 16 bits where all are those of 8: then they are black, or something else is meant.
    """
    descriptors = [
        [int(number) for number in tags[f"{colour}PaletteColorLookupTableDescriptor"].value]
        for colour in _COLOURS
    ]
    count, first, bits = descriptors[0]
    count = count or _MOST_ENTRIES
    if descriptors[1:] != descriptors[:1] * 2 or bits not in (8, 16):
        raise UnusablePixelsError("its palette is in a form that is not read")
    if tags.get("RedPaletteColorLookupTableData") is None:
        colours = _unfold(tags, count, first, bits, is_little_endian)
    else:
        data = [tags[f"{colour}PaletteColorLookupTableData"].value for colour in _COLOURS]
        # Some files name 16 bits, and store bytes.
        stored = 8 if all(len(part) == count + count % 2 for part in data) else bits
        colours = np.stack([_entries(part, count, stored, is_little_endian) for part in data], 1)
    if colours.dtype != np.uint8:
        is_eight = int(colours.max()) <= 0xFF
        if is_eight is not (bits == 8):
            raise UnusablePixelsError(
                f"its palette names {bits} bits a colour and holds {8 if is_eight else 16}"
            )
        colours = (colours >> (bits - 8)).astype(np.uint8)
    return Table(first, bits, colours)


def _unfold(tags: Any, count: int, first: int, bits: int, is_little_endian: bool) -> AnyArray:
    """Return the colours of a segmented palette, uint8 or uint16 [n, 3]."""
    from pydicom.pixels.processing import apply_color_lut

    _require_small_palette(tags, bits, is_little_endian)
    if bits == 8 and count > 256:  # pydicom repeats such a palette
        raise UnusablePixelsError("its palette is in a form that is not read")
    return np.asarray(apply_color_lut(np.arange(first, first + count, dtype=np.int64), tags))


def _require_small_palette(tags: Any, bits: int, is_little_endian: bool) -> None:
    """Check what a segmented palette unfolds to, before pydicom unfolds it: six bytes can name 65,535 numbers.

    Source: DICOM PS3.3 C.7.9.2. Segments that repeat others (indirect ones) are not read.

    Raises:
        UnusablePixelsError: If it is more than a palette can hold.
    """
    kind: np.dtype[Any] = np.dtype("u1" if bits == 8 else "<u2" if is_little_endian else ">u2")
    for colour in _COLOURS:
        data = tags.get(f"Segmented{colour}PaletteColorLookupTableData")
        if not isinstance(data, bytes):
            continue
        words: list[int] = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind).tolist()
        at = entries = 0
        while at + 1 < len(words):
            code, length = words[at], words[at + 1]
            at += 2 + (length if code == 0 else 1)
            entries += length
            if code not in (0, 1) or entries > _MOST_ENTRIES:
                raise UnusablePixelsError(
                    "its palette is larger than one can be, or in a form that is not read"
                )
