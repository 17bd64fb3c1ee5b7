"""Plugins for pydicom that call openjpeg (JPEG 2000) and rle (RLE) directly.

pydicom's own plugins for them ask for the package pylibjpeg, which only finds these two.
"""

from __future__ import annotations

import threading
from typing import Any

#: Transfer syntaxes of the two decoders.
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
RLE = "1.2.840.10008.1.2.5"
#: The plugins' name in pydicom.
NAME = "cipherward"
#: pydicom asks for this; both decoders are dependencies of cipherward.
DECODER_DEPENDENCIES = dict.fromkeys((*JPEG_2000, RLE), ("pylibjpeg-openjpeg", "pylibjpeg-rle"))
_lock = threading.Lock()


def register(uid: str) -> None:
    """Give pydicom the decoder of a transfer syntax, once."""
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(uid)
    with _lock:
        if NAME not in decoder.available_plugins:
            decoder.add_plugin(NAME, (__name__, "decode_frame"))


def is_available(uid: str) -> bool:
    """Return whether a transfer syntax is one of the two decoders'."""
    return uid == RLE or uid in JPEG_2000


def decode_frame(code: bytes, runner: Any) -> bytearray:
    """Return a frame's pixels as bytes, and tell pydicom's runner how they are ordered."""
    if runner.transfer_syntax == RLE:
        from rle.utils import decode_pixel_data as decode_rle

        decode: Any = decode_rle
        pixels: bytearray = decode(code, version=2, **runner.options)
        runner.set_option("planar_configuration", 1)
        return pixels
    from openjpeg.utils import decode_pixel_data

    decode = decode_pixel_data
    pixels = decode(code, version=2)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")  # openjpeg undoes the transform
    bits = int(runner.get_option("j2k_precision", runner.bits_stored))
    runner.set_option("bits_allocated", 8 if bits <= 8 else 16 if bits <= 16 else 32)
    return pixels
