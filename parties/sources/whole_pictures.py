"""Refuse JPEG and PNG files that hold fewer or other pixels than their headers name; whole_tiff.py TIFF files.

Decoders fill what is missing with black or gray, and say nothing. What is filled in would be sealed as an image.

Source: ITU-T T.81 (JPEG): B.2 (markers), G.1.2 (progressive scans). PNG, third edition: sections 7.2, 8.1 (rows and
passes) and 10 (zlib).
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import simplejpeg

from parties.sources.reading import UnusablePixelsError

#: Why a picture is refused.
DAMAGED = "its compressed pixels are damaged, or end too early"
CUT_OFF = "it is cut off: it holds fewer pixels than its header names"
MORE = "it holds more pixels than its header names"
#: Bytes that are read or unfolded at a time.
PIECE = 1 << 20

# Segments of a JPEG header that its codes need: frame headers, Huffman tables, quantization tables, restart interval.
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_NEEDED = _FRAMES | {0xC4, 0xDB, 0xDD}
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
#: A marker among codes: neither a stuffed byte nor a restart nor a fill byte.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
#: What the JPEG library says of bytes behind the last code, up to the end marker.
_SURPLUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
#: What it says of damaged codes; what else it says, such as of a rare form, is no damage.
_DAMAGE = re.compile(
    r"premature end|Premature end|bad Huffman code|found marker|extraneous bytes|Inconsistent progression"
)
#: Bytes that cameras and programs leave before the end marker.
_HARMLESS_SURPLUS = 8
#: Pixels of each pass of an interlaced PNG file: first row, first column, and the steps.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def require_all_scans(code: bytes) -> None:
    """Check that the scans of a JPEG code hold all numbers of its channels, to the last bit.

    A code that was cut between two scans, and closed, is a blurred picture, or one without its colours. A code whose
    header is damaged, or of another kind than baseline, extended and progressive JPEG, is not looked at.

    Raises:
        UnusablePixelsError: If they do not.
    """
    missing: dict[int, set[int]] = {}  # of each channel: the frequencies of which no last bit was found
    is_progressive, is_over = False, False
    at = 2
    while not is_over and at + 4 <= len(code) and code[at] == 0xFF:
        marker, length = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        fields = code[at + 4 : at + 2 + length]
        if marker in _FRAMES and len(fields) > 5:
            is_progressive = marker == 0xC2
            missing = {channel: set(range(64)) for channel in fields[6 : 6 + 3 * fields[5] : 3]}
        if marker == 0xDA and fields and len(fields) >= 4 + 2 * fields[0]:
            first, last, bits = fields[1 + 2 * fields[0] :][:3]
            done = range(first, last + 1) if is_progressive else range(64)
            for channel in fields[1 : 1 + 2 * fields[0] : 2]:
                if not is_progressive or not bits & 15:
                    missing.get(channel, set()).difference_update(done)
            if not any(missing.values()):
                return
            found = _MARKER.search(code, at + 2 + length)
            at, is_over = (found.start(1) - 1, found[1] == b"\xd9") if found else (len(code), True)
        elif marker == 0xD9:
            is_over = True
        else:
            at += 1 if marker == 0xFF else 2 if marker in _NO_LENGTH else 2 + length
    if is_over and any(missing.values()):
        raise UnusablePixelsError(CUT_OFF)


def require_whole_jpeg(code: bytes) -> None:
    """Check that a JPEG code has all its scans, and that its codes make as many pixels as it names.

    The JPEG library fills what is missing with gray. It says so, but not through Pillow. A code that simplejpeg's
    library does not decode at all is left to the decoder.

    Raises:
        UnusablePixelsError: If it has not, or codes are damaged.
    """
    require_all_scans(code)
    header, codes = _without_comments(code)
    frame = next((part for part in header if part[1] in _FRAMES), b"")
    if len(frame) < 10:
        return
    height, colours = int.from_bytes(frame[5:7], "big"), {1: "GRAY", 4: "CMYK"}.get(frame[9], "RGB")
    try:
        # Fast, and at an eighth of the size (8): that decodes every code and does the least else.
        simplejpeg.decode_jpeg(b"\xff\xd8" + b"".join(header) + codes, colours, True, True, 1, 1, 8)
    except (ValueError, KeyError) as error:
        message = str(error)
        if surplus := _SURPLUS.search(message):
            _refuse_surplus(int(surplus[1]), codes, height)
        elif _DAMAGE.search(message):
            raise UnusablePixelsError(DAMAGED) from None


def _without_comments(code: bytes) -> tuple[list[bytes], bytes]:
    """Return the segments of a JPEG header that its codes need, and what follows from the first scan on.

    The library passes on its first warning alone: one about a comment or a foreign byte would hide the others.
    """
    header: list[bytes] = []
    at = 2
    while at + 4 <= len(code):
        marker, length = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        if code[at] != 0xFF or marker in (0, 0xFF):
            at += 1
        elif marker == 0xDA:
            return header, code[at:]
        elif marker in _NO_LENGTH:
            at += 2
        else:
            if marker in _NEEDED:
                header.append(code[at : at + 2 + length])
            at += 2 + length
    return header, b""


def _refuse_surplus(surplus: int, codes: bytes, height: int) -> None:
    """Raise UnusablePixelsError if bytes behind the last code are as many as half a row of blocks has."""
    scan = len(codes) - codes.rfind(b"\xff\xda")
    if surplus > _HARMLESS_SURPLUS and 2 * surplus * (math.ceil(height / 8) + 1) > scan:
        raise UnusablePixelsError(MORE)


def require_whole_png(file: BinaryIO) -> None:
    """Check that the rows of a PNG file are as many as its header names. Pillow has decoded it already.

    Raises:
        UnusablePixelsError: If they are fewer, or more.
    """
    file.seek(8)
    chunks = _png_chunks(file)
    named, row = _png_bytes(next(chunks)[1])
    length, _ = unfold((part for _, part in chunks), named + row)
    if length < named:
        raise UnusablePixelsError(CUT_OFF)
    if length >= named + row:  # some programs fill the last row up
        raise UnusablePixelsError(MORE)


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the pieces of each chunk of a PNG file that is a header or holds pixels."""
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        left = int.from_bytes(head[:4], "big")
        if head[4:] not in (b"IHDR", b"IDAT"):
            file.seek(left + 4, 1)
            continue
        while left and (piece := file.read(min(left, PIECE))):
            left -= len(piece)
            yield head[4:], piece
        if left:
            return
        file.seek(4, 1)


def _png_bytes(head: bytes) -> tuple[int, int]:
    """Return how many bytes the rows of a PNG file have, unfolded, and how many the longest row has."""
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (0, 4))
    bits = head[8] * _PNG_CHANNELS[head[9]]
    named = row = 0
    for y, x, down, across in _PASSES if head[12] else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // across), -((y - height) // down)
        if columns > 0 and rows > 0:
            row = max(row, 1 + -(-columns * bits // 8))
            named += rows * (1 + -(-columns * bits // 8))
    return named, row


def unfold(pieces: Iterable[bytes], most: int | None) -> tuple[int, bool]:
    """Return how many bytes the pieces of a zlib stream unfold to, up to `most` or so, and whether it has its end."""
    data, length = zlib.decompressobj(), 0
    for piece in itertools.chain(pieces, (b"",)):
        part = piece
        while (most is None or length < most) and not data.eof and (rows := data.decompress(part, PIECE)):
            length, part = length + len(rows), data.unconsumed_tail
    return length, data.eof
