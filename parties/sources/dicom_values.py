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
from parties.sources.dicom_tables import read_table
from parties.sources.reading import (
    AUTO_PERCENTILES,
    NO_NUMBER,
    STATE_A_WINDOW,
    Reading,
    UnusablePixelsError,
    apply_window,
    aspect_of,
    scale,
)

#: What says how large pixels are, from one row to the next and from one column to the next. The first counts (DICOM
#: PS3.3 10.7.1).
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
#: OverlayBitPosition of each overlay (DICOM PS3.3 C.9.2): above 0, the overlay is in a bit of the pixels.
OVERLAY_POSITIONS = tuple(0x60000102 + (number << 17) for number in range(16))

_MORE_BITS = "its pixels have more bits than it says (BitsStored)"


@dataclass(frozen=True)
class PixelTags:
    """The tags that say what pixels stand for."""

    tags: Any

    @property
    def is_little_endian(self) -> bool:
        """Whether the file stores numbers with their lowest byte first."""
        return bool(self.tags.original_encoding[1] is not False)

    def number(self, name: str, default: int = 0) -> int:
        """Return a tag's whole number."""
        value = value_of(self.tags, name)
        return default if value in (None, "") else int(value)

    def text(self, name: str) -> str:
        """Return a tag's text, without spaces around it."""
        return str(value_of(self.tags, name) or "").strip()

    def show(self, pixels: AnyArray, index: int, reading: Reading) -> UInt8Array:
        """Return stored pixels [h, w] of a frame as gray values, uint8 [h, w]. Padding is black."""
        padding, is_float = self.padding(pixels), pixels.dtype.kind == "f"
        gray = self.window(self.modality(pixels, index), padding, index, reading, is_float)
        if self.is_inverted:
            gray = 255 - gray
        if padding is not None:
            gray[padding] = 0
        return gray

    @property
    def is_inverted(self) -> bool:
        """Whether the lowest value of a gray image is white.

        Raises:
            UnusablePixelsError: If two tags contradict each other (DICOM PS3.3 C.8.11.3.1.2). Some programs obey one
                of them and some the other, so that nobody knows what is meant.
        """
        is_inverted = self.text("PhotometricInterpretation") == "MONOCHROME1"
        if self.text("PresentationLUTShape") == ("IDENTITY" if is_inverted else "INVERSE"):
            raise UnusablePixelsError(
                "one of its tags says that its lowest value is black, another that it is white "
                "(PhotometricInterpretation, PresentationLUTShape)"
            )
        return is_inverted

    def show_colours(self, pixels: AnyArray) -> UInt8Array:
        """Return stored colours [h, w, 3] in 8 bits. They are unsigned, whatever the file says.

        Raises:
            UnusablePixelsError: If they have more bits than the file says: bright colours would become dark ones.
        """
        stored, colours = self.number("BitsStored", 8), pixels.view(f"u{pixels.dtype.itemsize}")
        if int(colours.max()) >> stored:
            raise UnusablePixelsError(_MORE_BITS)
        spread = colours >> (stored - 8) if stored >= 8 else colours * (255 / (2**stored - 1))
        return np.asarray(spread).astype(np.uint8)

    def padding(self, pixels: AnyArray) -> BoolArray | None:
        """Return which pixels are padding, bool [h, w]; None if there is none. What is no number is padding."""
        kind = {"f4": "Float", "f8": "DoubleFloat"}.get(pixels.dtype.str[1:], "")
        number = self.real if kind else self.signed
        nothing = np.isnan(pixels) if kind else None
        first, limit = f"{kind}PixelPaddingValue", f"{kind}PixelPaddingRangeLimit"
        if value_of(self.tags, first) in (None, ""):
            return nothing
        ends = [number(name) for name in (first, limit) if value_of(self.tags, name) not in (None, "")]
        padding = np.asarray((pixels >= min(ends)) & (pixels <= max(ends)))
        return padding if nothing is None else padding | nothing

    def clear_unused_bits(self, pixels: AnyArray) -> AnyArray:
        """Return whole numbers [h, w] without what stands in the bits above those that are stored. Padding stays.

        Overlays may stand there, and nothing where the sign of a negative number is not repeated.

        Raises:
            UnusablePixelsError: If anything else does: the numbers have more bits than the file says, and cutting
                these off would make dark pixels of the brightest.
        """
        stored, allocated = self.number("BitsStored", 8), 8 * pixels.dtype.itemsize
        if pixels.dtype.kind == "f" or stored >= allocated:
            return pixels
        padding = self.padding(pixels)
        shown = pixels if padding is None else pixels[~padding]
        low, high = self.stored_range()
        least, most = (int(shown.min()), int(shown.max())) if shown.size else (low, high)
        if low <= least and most <= high:
            return pixels
        is_sign_left_out = low < 0 <= least and most < 2**stored
        has_overlays = any(self.tags[tag].value for tag in OVERLAY_POSITIONS if tag in self.tags)
        if not is_sign_left_out and not has_overlays:
            raise UnusablePixelsError(_MORE_BITS)
        shift = allocated - stored
        cleared = (pixels << shift) >> shift
        return cleared if padding is None else np.where(padding, pixels, cleared)

    def real(self, name: str) -> float:
        """Return a tag's number."""
        return float(value_of(self.tags, name))

    def signed(self, name: str) -> int:
        """Return a tag's number in the type of the pixels: files often store one in the other type."""
        value = value_of(self.tags, name)
        number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
        if self.number("BitsAllocated") == 16:
            number &= 0xFFFF
            if self.number("PixelRepresentation") and number > 0x7FFF:
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
                if (value := value_of(item, name)) not in (None, ""):
                    return value
        return value_of(self.tags, name)

    def aspect(self, index: int) -> float:
        """Return the height of a frame's pixels as a share of their width; 1 where the file does not say it.

        Raises:
            UnusablePixelsError: If it says it in a text that is no number.
        """
        for name in _SPACINGS:
            try:
                vertical, horizontal = self.lookup("PixelMeasuresSequence", name, index)
            except UnusablePixelsError:
                raise
            except (TypeError, ValueError, OverflowError):  # nothing, or one number
                continue
            return aspect_of(vertical, horizontal)
        return 1.0

    def modality(self, pixels: AnyArray, index: int) -> AnyArray:
        """Return the values that the pixels stand for, such as Hounsfield units."""
        if self.tags.get("ModalityLUTSequence"):
            table = read_table(
                self.tags.ModalityLUTSequence[0], self.is_little_endian, self.stored_range()[0]
            )
            return table.apply(pixels)
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
        self, values: AnyArray, padding: BoolArray | None, index: int, reading: Reading, is_float: bool
    ) -> UInt8Array:
        """Return values as gray values under the stated window, or else the file's.

        Args:
            values: What the pixels stand for, [h, w].
            padding: Which pixels are padding, bool [h, w]; None if there is none.
            index: The frame.
            reading: Its window takes the place of the file's own.
            is_float: Whether the file stores floating-point numbers, whose type has no range to show.

        Raises:
            UnusablePixelsError: If no window is known, or no value is a number.
        """
        if values.dtype.kind == "f" and not np.isfinite(values).any():
            raise UnusablePixelsError(NO_NUMBER)
        is_deep = self.number("BitsStored", 8) > 8 or values.dtype.kind == "f"
        if reading.window == "auto" and is_deep:
            inside = values if padding is None else values[~padding]
            inside = inside[np.isfinite(inside)]
            low, high = np.percentile(inside, AUTO_PERCENTILES) if inside.size else (0.0, 0.0)
            return scale(values, float(low), float(high))
        full = None if is_float else self.full_range(index)
        if reading.window and is_deep:
            return apply_window(values, reading.window, full)
        if self.tags.get("VOILUTSequence"):
            lowest = full[0] if full else float(np.nanmin(values))
            table = read_table(self.tags.VOILUTSequence[0], self.is_little_endian, lowest)
            return scale(table.apply(values), 0, 2**table.bits - 1)
        centre, width = (
            _first(self.lookup("FrameVOILUTSequence", name, index))
            for name in ("WindowCenter", "WindowWidth")
        )
        if centre is not None and width is not None:
            return _apply_file_window(
                values, centre, width, self.lookup("FrameVOILUTSequence", "VOILUTFunction", index)
            )
        if not is_deep and values.dtype.kind in "ui":
            low, high = full or (0.0, 255.0)
            return scale(values, low, high)
        raise UnusablePixelsError(f"more than 8 bits a pixel and no window of its own; {STATE_A_WINDOW}")

    def full_range(self, index: int) -> tuple[float, float] | None:
        """Return the values of the darkest and the brightest pixel that the file's type can store."""
        if self.tags.get("ModalityLUTSequence"):
            return 0.0, 2.0 ** int(self.tags.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
        if self.number("BitsStored", 8) > 16:
            return None
        slope, intercept = self.rescale(index)
        ends = sorted(end * slope + intercept for end in self.stored_range())
        return ends[0], ends[1]

    def stored_range(self) -> tuple[int, int]:
        """Return the lowest and the highest number that a pixel can have, before it is rescaled."""
        bits = self.number("BitsStored", 8)
        low = -(2 ** (bits - 1)) if self.number("PixelRepresentation") else 0
        return low, low + 2**bits - 1


def value_of(tags: Any, name: str) -> Any:
    """Return the value of a tag; None if it is missing.

    Raises:
        UnusablePixelsError: If it should be a number, or several, and is another text. The text names the tag, and
            not its value.
    """
    from pydicom.datadict import dictionary_VR

    try:
        value = tags.get(name)
    except (ValueError, TypeError, ArithmeticError):
        raise UnusablePixelsError(f"its tag {name} is damaged") from None
    if value is not None and not isinstance(value, (int, float)) and dictionary_VR(name) in ("DS", "IS"):
        for part in [value] if isinstance(value, str) else value:
            if isinstance(part, str) and part.strip() and not _is_number(part):
                why = (
                    "it has a comma, and numbers in DICOM have a decimal point"
                    if "," in part
                    else "it is a text"
                )
                raise UnusablePixelsError(f"its tag {name} is no number: {why}")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
