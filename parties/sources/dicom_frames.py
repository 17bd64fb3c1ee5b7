"""Refuse DICOM files that hold more pixels than they name: frames would be left out, or rows begin too early.

Source: DICOM PS3.5 A.4 (encapsulated pixels: an offset table, and fragments) and 8.1.1 (native pixels).
"""

from __future__ import annotations

from typing import BinaryIO

from parties.sources.reading import UnusablePixelsError

#: How the code of a frame begins: JPEG and JPEG-LS, JPEG 2000, and JPEG 2000 in the boxes of a JP2 file. None of them
#: is inside a code, so a fragment that goes on with a frame does not begin so.
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
_MORE = "it holds more frames or larger ones than it names (NumberOfFrames, Rows, Columns)"


def require_no_more_bytes(file: BinaryIO, end: int, named: int, row: int) -> None:
    """Check that native pixels are not longer than the frames that a file names.

    Args:
        file: The file.
        end: Where its pixels end.
        named: Where the frames end that it names.
        row: Bytes of the longer of a row and a column. Some programs fill up with zeros, which are no pixels.

    Raises:
        UnusablePixelsError: If they are. With a wrong number of columns every row would begin in the wrong place.
    """
    if end - named <= 1:  # the length of pixels is even
        return
    file.seek(named)
    if end - named > row or any(file.read(end - named)):
        raise UnusablePixelsError(_MORE)


def require_no_more_frames(file: BinaryIO, at: int, frames: int, one_fragment_a_frame: bool) -> None:
    """Check that encapsulated pixels hold no more frames than a file names.

    Args:
        file: The file.
        at: Where its offset table begins.
        frames: How many frames it names.
        one_fragment_a_frame: Whether a frame has one fragment (RLE). Otherwise it may have several.

    Raises:
        UnusablePixelsError: If they do.
    """
    from pydicom.encaps import parse_basic_offsets, parse_fragments

    file.seek(at)
    try:
        offsets = parse_basic_offsets(file)
        count, places = parse_fragments(file)
    except ValueError:  # damaged: decoding says so, of the frames that it concerns
        return
    if len(offsets) > frames:
        raise UnusablePixelsError(_MORE)
    if count <= frames:
        return
    if not one_fragment_a_frame:
        count = 0
        for place in places:
            file.seek(place + 8)
            count += file.read(8).startswith(_STARTS)
    if count > frames:
        raise UnusablePixelsError(_MORE)
