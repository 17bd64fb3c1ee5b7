"""The size that the code of a compressed frame states, read before a decoder allocates it."""

from __future__ import annotations

from coordinator.exchange.image_file import require_few_pixels
from parties.sources.reading import UnusablePixelsError

# Markers of a frame's header in JPEG and JPEG-LS (ITU-T T.81 B.2.2, T.87): baseline to lossless, and JPEG-LS.
_FRAME_MARKERS = frozenset(
    (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
)
#: The beginning of a JPEG 2000 code, and of the marker that holds its size (ITU-T T.800 A.4.1, A.5.1).
_J2K_START = b"\xff\x4f\xff\x51"
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))


def stated_size(code: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG, JPEG-LS or JPEG 2000 code.

    Raises:
        UnusablePixelsError: If it is none of them, or ends before it states a size.
    """
    start = code.find(_J2K_START, 0, 1 << 16)  # after the boxes of a JP2 file, if there are any
    if start >= 0 and (start == 0 or code.startswith(b"\0\0\0\x0cjP  ")):
        fields = code[start + 8 : start + 24]
        if len(fields) == 16:
            x, y, left, top = (int.from_bytes(fields[i : i + 4], "big") for i in range(0, 16, 4))
            return x - left, y - top
    at = _frame_header(code)
    height, width = (int.from_bytes(code[at + i : at + i + 2], "big") for i in (5, 7))
    return width, height


def _frame_header(code: bytes) -> int:
    """Return where the frame header of a JPEG or JPEG-LS code begins, with its marker."""
    at = 2
    while code.startswith(b"\xff\xd8") and at + 9 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker in _FRAME_MARKERS:
            return at
        if marker == 0xFF:
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    raise UnusablePixelsError("the code of a frame is damaged, or not of the kind that the file names")


def stated_precision(code: bytes) -> int:
    """Return the bits a channel of a JPEG code.

    Raises:
        UnusablePixelsError: If it is none, or ends before it states them.
    """
    at = _frame_header(code)
    return code[at + 4]


def require_declared_form(code: bytes, is_signed: bool, is_ybr: bool) -> None:
    """Check that a JPEG 2000 code does not contradict its file: its decoder believes the code, and the rest the file.

    A code of unsigned numbers in a file of signed ones is common, and their bits say what is meant.

    Args:
        code: The code of a frame. Another one than JPEG 2000 is not looked at.
        is_signed: Whether the file says that its pixels are signed.
        is_ybr: Whether the file says that its colours are YBR_FULL, which no transform within the code undoes.

    Raises:
        UnusablePixelsError: If the numbers are signed in the code alone, or the colours would be transformed twice.
    """
    at = code.find(_J2K_START, 0, 1 << 16)
    if at < 0 or len(code) < at + 43:
        return
    if code[at + 42] & 0x80 and not is_signed:
        raise UnusablePixelsError("its compressed pixels are signed, and its tags say that they are not")
    at += 2
    while is_ybr and at + 12 <= len(code) and code[at : at + 2] != b"\xff\x90":  # up to the first tile
        if code[at : at + 2] == b"\xff\x52" and code[at + 8] == 1:
            raise UnusablePixelsError(
                "its compressed colours are transformed, and its tags say that they are YBR_FULL"
            )
        at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")


def require_declared_size(code: bytes, width: int, height: int) -> None:
    """Check that a code states the size that its file declares, and not too large a one.

    Raises:
        UnusablePixelsError: If it states another.
    """
    stated = stated_size(code)
    if stated != (width, height):
        raise UnusablePixelsError("its compressed pixels are of another size than the file declares")
    require_few_pixels(*stated)
