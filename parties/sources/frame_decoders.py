"""Plugins for pydicom that call openjpeg (JPEG 2000), rle (RLE), GDCM and Pillow (JPEG) directly.

pydicom's own plugins for the first two ask for the package pylibjpeg, which only finds them. Its plugin for GDCM
refuses JPEG of 12 bits, which GDCM has decoded since version 3.0, and lets GDCM write to the terminal. Its plugin for
Pillow transforms the colours of some codes twice, and none of them says that colours lie pixel by pixel.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from coordinator.exchange.image_file import open_picture
from parties.sources.codestream import stated_precision
from parties.sources.whole_pictures import require_whole_jpeg

#: Transfer syntaxes of the decoders.
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
RLE = "1.2.840.10008.1.2.5"
BASELINE_JPEG = "1.2.840.10008.1.2.4.50"
#: JPEG Extended, and the two forms of lossless JPEG (ITU-T T.81, process 14).
JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (51, 57, 70))
#: The plugins' name in pydicom.
NAME = "cipherward"
#: pydicom asks for this; the decoders are dependencies of cipherward.
DECODER_DEPENDENCIES = dict.fromkeys(
    (*JPEG_2000, RLE, BASELINE_JPEG, *JPEG),
    ("pylibjpeg-openjpeg", "pylibjpeg-rle", "pillow", "python-gdcm"),
)
_lock = threading.Lock()
#: What the decoder of RLE writes when it panics; what it was called by may follow.
_PANIC = b"panicked at"
#: What the JPEG library of GDCM writes about a damaged code, and all that it writes about codes.
_DAMAGE = (b"premature end", b"Premature end", b"bad Huffman code", b"found marker")
_WARNINGS = re.compile(b"|".join((*_DAMAGE, b"JPEG", b"DCT coefficient")))


def register(uid: str) -> None:
    """Give pydicom the decoder of a transfer syntax, once."""
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(uid)
    with _lock:
        if NAME not in decoder.available_plugins:
            decoder.add_plugin(NAME, (__name__, "decode_frame"))


def is_available(uid: str) -> bool:
    """Return whether a transfer syntax is one of the decoders'."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(code: bytes, runner: Any) -> bytearray:
    """Return a frame's pixels as bytes, and tell pydicom's runner how they are ordered."""
    if runner.transfer_syntax == BASELINE_JPEG:
        return _decode_baseline(code, runner)
    if runner.transfer_syntax in JPEG:
        return _decode_jpeg(code, runner)
    if runner.transfer_syntax == RLE:
        return _decode_rle(code, runner)
    from openjpeg.utils import decode_pixel_data

    decode: Any = decode_pixel_data
    pixels: bytearray = decode(code, version=2)
    runner.set_option(
        "planar_configuration", 0
    )  # whatever the file says: the code alone orders its colours
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")  # openjpeg undoes the transform
    bits = int(runner.get_option("j2k_precision", runner.bits_stored))
    runner.set_option("bits_allocated", 8 if bits <= 8 else 16 if bits <= 16 else 32)
    return pixels


def _decode_baseline(code: bytes, runner: Any) -> bytearray:
    """Return the pixels of a JPEG Baseline frame, as RGB where Adobe's marker says that they are transformed.

    Raises:
        UnusablePixelsError: If the code is damaged or lacks a scan. Pillow fills what is cut off with gray.
    """
    require_whole_jpeg(code)
    with open_picture(io.BytesIO(code), "JPEG") as picture:
        if runner.samples_per_pixel > 1:
            runner.set_option("planar_configuration", 0)
            if picture.info.get("adobe_transform"):
                runner.set_option(
                    "photometric_interpretation", "RGB"
                )  # Pillow undoes it, pydicom would once more
            elif "adobe_transform" not in picture.info:
                picture.draft("YCbCr", picture.size)
        return bytearray(picture.tobytes())


def _decode_rle(code: bytes, runner: Any) -> bytearray:
    """Return the pixels of an RLE frame. Raises ValueError if the code is damaged.

    The decoder panics at some damaged codes: it writes to the terminal, and what it raises is no Exception.
    """
    from rle.utils import decode_pixel_data

    decode: Any = decode_pixel_data
    try:
        with capture_warnings(_WARNINGS):
            pixels: bytearray = decode(code, version=2, **runner.options)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the code is damaged") from None
    runner.set_option("planar_configuration", 1)
    return pixels


def _decode_jpeg(code: bytes, runner: Any) -> bytearray:
    """Return the pixels of a lossless or 12-bit JPEG frame. Raises ValueError if GDCM cannot decode it."""
    # GDCM fills what is cut off with gray, and says so on the terminal only. Codes are padded with 0 or 255.
    if not code.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise ValueError("the code has no end")
    gdcm = _load_gdcm()
    precision = stated_precision(code)
    bits = 8 if precision <= 8 else 16
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(code)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    colours = gdcm.PhotometricInterpretation
    image.SetPhotometricInterpretation(colours(colours.GetPIType(runner.photometric_interpretation)))
    if runner.samples_per_pixel > 1:
        image.SetPlanarConfiguration(0)
        runner.set_option("planar_configuration", 0)
    syntaxes = gdcm.TransferSyntax
    image.SetTransferSyntax(syntaxes(syntaxes.GetTSType(str(runner.transfer_syntax))))
    image.SetPixelFormat(
        gdcm.PixelFormat(
            runner.samples_per_pixel, bits, precision, precision - 1, runner.pixel_representation
        )
    )
    runner.set_option("bits_allocated", bits)
    with capture_warnings(_WARNINGS) as warned:
        pixels = bytearray(image.GetBuffer().encode("utf-8", "surrogateescape"))
    if any(word in line for line in warned for word in _DAMAGE):
        raise ValueError("the code is damaged")
    if len(pixels) != runner.columns * runner.rows * runner.samples_per_pixel * bits // 8:
        raise ValueError("GDCM returned another number of pixels")
    return pixels


@contextlib.contextmanager
def capture_warnings(pattern: re.Pattern[bytes]) -> Iterator[list[bytes]]:
    """Collect what a library of C or the decoder of RLE writes to the terminal; what others write is passed on.

    A library says only there that a code is damaged, and goes on with gray pixels. It holds Python's lock while
    it decodes, so that nothing of ours is written then. There is one terminal, so one thread at a time captures.

    Args:
        pattern: What is in a line of the library.
    """
    lines: list[bytes] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock)
        try:
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            terminal = os.dup(2)
        except OSError:  # no folder for temporary files, or no terminal
            yield lines
            return
        try:
            os.dup2(file.fileno(), 2)
            yield lines
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        file.seek(0)
        written = file.read()
        for line in written.splitlines(keepends=True):
            if _PANIC in written or pattern.search(line):
                lines.append(line)
            else:
                with contextlib.suppress(OSError):
                    os.write(2, line)


def _load_gdcm() -> Any:
    """Return GDCM's module, which writes nothing to the terminal from then on."""
    import gdcm

    with _lock:
        if gdcm.Trace.GetErrorFlag():
            for off in ("DebugOff", "WarningOff", "ErrorOff"):
                getattr(gdcm.Trace, off)()
            gdcm.Trace.SetStreamToFile(os.devnull)
    return gdcm
