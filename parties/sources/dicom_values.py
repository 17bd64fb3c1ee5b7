"""What the stored pixels of a gray DICOM image stand for, and which gray values show them.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and window), C.7.6.3 (padding) and C.7.6.16 (functional
groups of single frames).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from crypto.arrays import AnyArray, BoolArray, UInt8Array
from parties.sources.reading import (
    AUTO_PERCENTILES,
    STATE_A_WINDOW,
    Reading,
    UnusablePixelsError,
    apply_window,
    scale,
)

#: The most colours that a palette holds (DICOM PS3.3 C.7.6.3.1.5).
_PALETTE_ENTRIES = 1 << 16


@dataclass(frozen=True)
class PixelTags:
    """The tags that say what pixels stand for."""

    tags: Any

    def number(self, name: str, default: int = 0) -> int:
        """Return a tag's whole number."""
        value = self.tags.get(name)
        return default if value in (None, "") else int(value)

    def text(self, name: str) -> str:
        """Return a tag's text, without spaces around it."""
        return str(self.tags.get(name) or "").strip()

    def show(self, pixels: AnyArray, index: int, reading: Reading) -> UInt8Array:
        """Return stored pixels [h, w] of a frame as gray values, uint8 [h, w]. Padding is black."""
        padding = self.padding(pixels)
        gray = self.window(self.modality(pixels, index), padding, index, reading)
        if self.text("PhotometricInterpretation") == "MONOCHROME1":
            gray = 255 - gray
        if padding is not None:
            gray[padding] = 0
        return gray

    def padding(self, pixels: AnyArray) -> BoolArray | None:
        """Return which pixels are padding, bool [h, w]; None if the file names no padding."""
        if self.tags.get("PixelPaddingValue") in (None, ""):
            return None
        first = self.signed("PixelPaddingValue")
        last = (
            first
            if self.tags.get("PixelPaddingRangeLimit") in (None, "")
            else self.signed("PixelPaddingRangeLimit")
        )
        return np.asarray((pixels >= min(first, last)) & (pixels <= max(first, last)))

    def signed(self, name: str) -> int:
        """Return a tag's number in the type of the pixels: files often store a negative one as unsigned."""
        value = self.tags.get(name)
        number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
        if self.number("PixelRepresentation") and number > 0x7FFF and self.number("BitsAllocated") == 16:
            number -= 0x10000
        return number

    def lookup(self, sequence: str, name: str, index: int) -> Any:
        """Return a tag of a frame: from its own functional group, the shared one, or the file."""
        per_frame, shared = (
            self.tags.get(key) or ()
            for key in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
        )
        for group in (*per_frame[index : index + 1], *shared[:1]):
            for item in (group.get(sequence) or ())[:1]:
                if item.get(name) not in (None, ""):
                    return item.get(name)
        return self.tags.get(name)

    def modality(self, pixels: AnyArray, index: int) -> AnyArray:
        """Return the values that the pixels stand for, such as Hounsfield units."""
        if self.tags.get("ModalityLUTSequence"):
            from pydicom.pixels.processing import apply_modality_lut

            return np.asarray(apply_modality_lut(pixels, self.tags))
        slope, intercept = self.rescale(index)
        return pixels if (slope, intercept) == (1.0, 0.0) else pixels * slope + intercept

    def rescale(self, index: int) -> tuple[float, float]:
        """Return the slope and the intercept of a frame."""
        slope, intercept = (
            self.lookup("PixelValueTransformationSequence", name, index)
            for name in ("RescaleSlope", "RescaleIntercept")
        )
        values = (
            1.0 if slope in (None, "") else float(slope),
            0.0 if intercept in (None, "") else float(intercept),
        )
        if not all(map(math.isfinite, values)) or not values[0]:
            raise UnusablePixelsError(
                "its rescale slope and intercept make one value of all pixels, or none"
            )
        return values

    def window(
        self, values: AnyArray, padding: BoolArray | None, index: int, reading: Reading
    ) -> UInt8Array:
        """Return values as gray values under the stated window, or else the file's."""
        is_deep = self.number("BitsStored", 8) > 8 or values.dtype.kind == "f"
        if reading.window == "auto" and is_deep:
            inside = values if padding is None else values[~padding]
            low, high = np.percentile(inside, AUTO_PERCENTILES) if inside.size else (0.0, 0.0)
            return scale(values, float(low), float(high))
        if reading.window and is_deep:
            return apply_window(values, reading.window, self.full_range(index))
        if self.tags.get("VOILUTSequence"):
            from pydicom.pixels.processing import apply_voi

            bits = int(self.tags.VOILUTSequence[0].LUTDescriptor[2])
            whole = np.rint(values).astype(np.int64) if values.dtype.kind == "f" else values
            return scale(apply_voi(whole, self.tags), 0, 2**bits - 1)
        centre, width = (
            _first(self.lookup("FrameVOILUTSequence", name, index))
            for name in ("WindowCenter", "WindowWidth")
        )
        if centre is not None and width is not None:
            return _apply_file_window(
                values, centre, width, self.lookup("FrameVOILUTSequence", "VOILUTFunction", index)
            )
        if not is_deep and values.dtype.kind in "ui":
            low, high = self.full_range(index) or (0.0, 255.0)
            return scale(values, low, high)
        raise UnusablePixelsError(f"more than 8 bits a pixel and no window of its own; {STATE_A_WINDOW}")

    def full_range(self, index: int) -> tuple[float, float] | None:
        """Return the values of the darkest and the brightest pixel that the file's type can store."""
        if self.tags.get("ModalityLUTSequence"):
            return 0.0, 2.0 ** int(self.tags.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
        bits, (slope, intercept) = self.number("BitsStored", 8), self.rescale(index)
        if bits > 16:
            return None
        low = -(2 ** (bits - 1)) if self.number("PixelRepresentation") else 0
        ends = sorted((low * slope + intercept, (low + 2**bits - 1) * slope + intercept))
        return ends[0], ends[1]


def require_small_palette(tags: Any, is_little_endian: bool) -> None:
    """Check what a segmented palette unfolds to, before pydicom unfolds it: six bytes can name 65,535 numbers.

    Source: DICOM PS3.3 C.7.9.2. Segments that repeat others (indirect ones) are not read.

    Raises:
        UnusablePixelsError: If it is more than a palette can hold.
    """
    for colour in ("Red", "Green", "Blue"):
        data = tags.get(f"Segmented{colour}PaletteColorLookupTableData")
        if not isinstance(data, bytes):
            continue
        bits = int(tags.get(f"{colour}PaletteColorLookupTableDescriptor")[2])
        kind = np.dtype("u1" if bits == 8 else "<u2" if is_little_endian else ">u2")
        words = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind).tolist()
        at = entries = 0
        while at + 1 < len(words):
            code, length = words[at], words[at + 1]
            at += 2 + (length if code == 0 else 1)
            entries += length
            if code not in (0, 1) or entries > _PALETTE_ENTRIES:
                raise UnusablePixelsError(
                    "its palette is larger than one can be, or in a form that is not read"
                )


def _first(value: Any) -> float | None:
    """Return the first number of a tag that may hold several, or None."""
    if value in (None, ""):
        return None
    number = float(value) if isinstance(value, (int, float, str)) else float(value[0])
    if not math.isfinite(number):
        raise UnusablePixelsError(f"its own window is no number; {STATE_A_WINDOW}")
    return number


def _apply_file_window(values: AnyArray, centre: float, width: float, function: Any) -> UInt8Array:
    """Return values as gray values under a DICOM window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    name = str(function or "LINEAR").strip().upper()
    if name == "SIGMOID" and width > 0:
        return scale(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60))), 0, 1)
    if name == "LINEAR_EXACT" and width > 0:
        return scale(values, centre - width / 2, centre + width / 2)
    if name == "LINEAR" and width > 1:
        return scale(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)
    if name == "LINEAR" and width == 1:
        return np.where(values > centre - 0.5, 255, 0).astype(np.uint8)
    raise UnusablePixelsError(f"its own window has no width or an unknown form; {STATE_A_WINDOW}")
