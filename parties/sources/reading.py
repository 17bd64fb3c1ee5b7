"""How image files become pictures: the gray values that are shown, the shape, the background, what may be read.

Nothing here is guessed. A file with more than 8 bits a channel needs a stated window, because another window is
another picture; a transparent image needs a stated background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from crypto.arrays import AnyArray, UInt8Array
from crypto.errors import CipherwardError, similar_to

Fit = Literal["stretch", "pad", "crop"]
#: Percentiles of the values that the window `auto` maps to black and white. Set once; not tuned.
AUTO_PERCENTILES = (0.5, 99.5)
#: What to do about files that need a window: the end of several reasons.
STATE_A_WINDOW = "state a window: --window auto, full or LOW,HIGH"


#: Why an image of floating-point numbers is refused that holds NaN or infinity alone: it would be black.
NO_NUMBER = "none of its values is a number"


class UnusablePixelsError(ValueError):
    """An image that is not shown, or not without a statement. The text holds nothing of what the file says."""


@dataclass(frozen=True)
class Reading:
    """How the files of a source are read.

    Attributes:
        window: Gray values that become black and white, for images of more than 8 bits a channel: `auto` (percentiles
            0.5 and 99.5 of the image), `full` (the whole range of its type) or `LOW,HIGH` (for CT in Hounsfield
            units). Empty: a DICOM file's own window, and other deep images are refused.
        fit: How an image that is not square becomes square. `stretch` changes its aspect ratio, `pad` adds a border
            of the background (black if none is stated), `crop` keeps the middle. The last two show pixels that are
            not square, of which DICOM and NIfTI files tell, in their shape.
        background: Gray value 0 to 255 behind transparent pixels; None: transparent images are refused.
        allow_burned_in: Read DICOM images that say that names may be written into their pixels.
    """

    window: str = ""
    fit: Fit = "stretch"
    background: int | None = None
    allow_burned_in: bool = False

    def __post_init__(self) -> None:
        if self.window not in ("", "auto", "full"):
            _ = self.bounds
        if self.fit not in ("stretch", "pad", "crop"):
            hint = f"{similar_to(self.fit, ('stretch', 'pad', 'crop'))}known: stretch, pad, crop"
            raise CipherwardError(f"no such fit: {self.fit!r}", hint)
        if self.background is not None and not 0 <= self.background <= 255:
            raise CipherwardError(f"no such background: {self.background}", "state a gray value, 0 to 255")

    @property
    def bounds(self) -> tuple[float, float]:
        """LOW and HIGH of a stated window. Raises CipherwardError if the window is none."""
        try:
            low, high = (float(part) for part in self.window.split(","))
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError
        except ValueError:
            raise CipherwardError(
                f"no such window: {self.window!r}",
                f"{similar_to(self.window, ('auto', 'full'))}--window auto, full, or LOW,HIGH with LOW below HIGH, "
                "such as --window=-160,240",
            ) from None
        return low, high

    def describe(self) -> str:
        """Return a text of the settings that differ from the defaults, for fingerprints; empty if none does."""
        default = Reading()
        changed = [
            f"{name}={value}" for name, value in vars(self).items() if value != getattr(default, name)
        ]
        return " ".join(changed)


#: How files are read if nothing is stated.
DEFAULT = Reading()


def scale(values: AnyArray, low: float, high: float) -> UInt8Array:
    """Return values as gray values, uint8 of the same shape: `low` and below is black, `high` and above white."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    share = (np.asarray(values, np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    gray: UInt8Array = np.rint(np.nan_to_num(share, nan=0.0).clip(0, 255)).astype(np.uint8)
    return gray


def apply_window(values: AnyArray, window: str, full: tuple[float, float] | None) -> UInt8Array:
    """Return values as gray values under a stated window, uint8 of the same shape.

    Args:
        values: Numbers of any type.
        window: `auto`, `full` or `LOW,HIGH`.
        full: The range of the file's type, if it has a meaningful one.

    Raises:
        UnusablePixelsError: If no window is stated, or `full` is and the type has no range.
    """
    if not window:
        what = "signed values" if values.dtype == np.int8 else "more than 8 bits a channel"
        raise UnusablePixelsError(f"{what}; {STATE_A_WINDOW}")
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise UnusablePixelsError(NO_NUMBER)
    if window == "full":
        if full is None:
            what = "floating-point values" if values.dtype.kind == "f" else "32 bits a channel or more"
            raise UnusablePixelsError(f"{what} have no range to show; state --window auto or LOW,HIGH")
        return scale(values, *full)
    if window == "auto":
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, AUTO_PERCENTILES)
        return scale(values, float(low), float(high))
    return scale(values, *Reading(window).bounds)


def aspect_of(vertical: Any, horizontal: Any) -> float:
    """Return the height of a pixel as a share of its width; 1 where a file says nothing usable of it."""
    try:
        aspect = float(vertical) / float(horizontal)
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0
    return aspect if math.isfinite(aspect) and aspect > 0 else 1.0


def to_square(
    picture: Image.Image, size: int, channels: int, reading: Reading, aspect: float = 1.0
) -> UInt8Array:
    """Return a picture without transparency in one mode and size, uint8 [size, size, channels].

    Args:
        picture: The picture.
        size: Side of the result, in pixels.
        channels: 1 (gray) or 3 (RGB).
        reading: Its `fit` says how the picture becomes square.
        aspect: The height of a pixel as a share of its width.
    """
    # Pillow copies an image even if it has the mode already: a third of the time at 512×512.
    mode = "L" if channels == 1 else "RGB"
    if picture.mode == "LAB":  # Pillow converts it to RGB only
        picture = picture.convert("RGB")
    plain = picture if picture.mode == mode else picture.convert(mode)
    if plain.size != (size, size) or (aspect != 1 and reading.fit != "stretch"):
        plain = _fit(plain, size, reading, aspect)
    return np.asarray(plain, np.uint8).reshape(size, size, channels)


def _fit(picture: Image.Image, size: int, reading: Reading, aspect: float) -> Image.Image:
    """Return a picture resized to `size`×`size`, with its aspect ratio as `reading.fit` says."""
    width, height = picture.width, picture.height * aspect  # in widths of a pixel
    if reading.fit == "crop" and width != height:
        side = min(width, height)
        wide, high = max(1, round(side)), max(1, round(side / aspect))
        left, top = (picture.width - wide) // 2, (picture.height - high) // 2
        picture = picture.crop((left, top, left + wide, top + high))
    if reading.fit == "pad" and width != height:
        longest = max(width, height)
        inner = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
        picture = picture.resize(inner, Image.Resampling.BILINEAR)
        gray = reading.background or 0
        square = Image.new(picture.mode, (size, size), gray if picture.mode == "L" else (gray,) * 3)
        square.paste(picture, ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return square
    return picture.resize((size, size), Image.Resampling.BILINEAR)
