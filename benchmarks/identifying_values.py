"""Collect the identifying values of DICOM files, and search other files for them.

A value is the text of any attribute that can name somebody, a place, a time or a study: all text, dates, times and
identifiers, private attributes and those in sequences too. UIDs that the standard defines name nobody. Values of a
few characters, or of one character again and again, occur everywhere by chance: they are not searched for.

A long value is found wherever its bytes stand: as UTF-8 or UTF-16 text, or as its SHA-256, BLAKE2b or BLAKE3 digest
(a plain digest confirms a name that somebody guesses). A number, and a value of fewer than 8 bytes, is found where it
is a word of its own: digits occur in every digest. Members of archives and pictures inside reports are searched too.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import blake3
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from parties.sources.dicom import silence

#: Characters of the shortest value that is searched for.
MIN_LENGTH = 6
#: Values of so few different characters name nobody: 11111111 is a row of equal pixels, too.
_FEW = 2
#: A value of fewer bytes is found only as a word of its own.
_SURE = 8
#: All values are looked up at once by twice so many bytes; no value is shorter.
_STEP = MIN_LENGTH // 2
#: Bytes that are searched at a time, which bounds the memory.
_CHUNK = 1 << 22
#: Value representations that can hold an identifying text.
_TEXT = ("AE", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UN", "UR", "UT")
#: Attributes whose values are words of the standard, or of the pixels: they identify nobody.
_WORDS = ("CS",)
_PICTURE = re.compile(rb"data:[a-z/+]+;base64,([A-Za-z0-9+/=]+)")


def identifying_values(paths: Iterable[Path]) -> set[str]:
    """Return the identifying values of DICOM files. A file that pydicom cannot open has none."""
    silence()
    values: set[str] = set()
    for path in paths:
        try:
            data = dcmread(path, stop_before_pixels=True)
            values.update(_values_of(data))
        except Exception:  # whatever pydicom raises at broken files
            continue
    return values


def _values_of(data: Dataset) -> Iterator[str]:
    """Yield the values of a data set, and of those inside it."""
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                yield from _values_of(item)
        elif element.VR in _TEXT and element.VR not in _WORDS:
            several = element.value if isinstance(element.value, MultiValue) else [element.value]
            for value in several:
                text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                text = text.strip("\0 ")
                is_long = len(text) >= MIN_LENGTH and len(set(text)) > _FEW
                if is_long and text.isprintable() and text not in UID_dictionary:
                    yield text


class Search:
    """Searches bytes for values."""

    def __init__(self, values: Iterable[str]) -> None:
        """Prepare the search for these values."""
        self.values = sorted(set(values))
        self._by_start: dict[bytes, list[tuple[bytes, str, bool]]] = {}
        for value in self.values:
            raw = value.encode(errors="replace")
            is_word = len(raw) < _SURE or _is_number(value)
            self._add(raw, value, is_word)
            if not _is_number(value):
                self._add(value.encode("utf-16-le", errors="replace"), value)
            for digest in _digests(raw):
                self._add(digest, value)
                self._add(digest.hex().encode(), value)
        # Which three bytes a form begins with, and which follow: numbers below 2^24.
        starts = np.array([list(start) for start in self._by_start], np.uint32).reshape(-1, 2 * _STEP)
        self._first, self._second = (np.zeros(1 << 24, bool) for _ in range(2))
        self._first[_numbers(starts[:, :_STEP])[:, 0]] = True
        self._second[_numbers(starts[:, _STEP:])[:, 0]] = True

    def _add(self, form: bytes, value: str, is_word: bool = False) -> None:
        """Add a form of a value. A word is found only where no letter, digit or point stands beside it."""
        self._by_start.setdefault(form[: 2 * _STEP], []).append((form, value, is_word))

    def find(self, data: bytes) -> set[str]:
        """Return the values that some bytes hold."""
        found: set[str] = set()
        for begin in range(0, len(data), _CHUNK):
            chunk = np.frombuffer(data[begin : begin + _CHUNK + 2 * _STEP], np.uint8)
            if len(chunk) < 2 * _STEP:
                break
            numbers = _numbers(chunk[None].astype(np.uint32))[0]
            hits = self._first[numbers[:-_STEP]] & self._second[numbers[_STEP:]]
            for at in (begin + np.flatnonzero(hits)).tolist():
                for form, value, is_word in self._by_start.get(data[at : at + 2 * _STEP], ()):
                    if data.startswith(form, at) and not (is_word and _is_inside(data, at, len(form))):
                        found.add(value)
        return found


def is_short_number(value: str) -> bool:
    """Return whether a value is a number of so few digits that it stands among sealed pixels by chance.

    One stood in 15 of 304 fresh sealings of one set of CT and MR slices: dark pixels are digits, too.
    """
    return _is_number(value) and len(value) < _SURE


def _numbers(data: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the number that each three bytes in a row make, uint32 [n, m - 2], of bytes [n, m]."""
    numbers: NDArray[np.uint32] = (
        data[:, :-2] | data[:, 1:-1] << np.uint32(8) | data[:, 2:] << np.uint32(16)
    )
    return numbers


def _is_inside(data: bytes, at: int, length: int) -> bool:
    """Return whether a letter, a digit or a point stands beside a place in the data."""
    around = data[max(0, at - 1) : at] + data[at + length : at + length + 1]
    return re.search(rb"[0-9A-Za-z.]", around) is not None


def _is_number(value: str) -> bool:
    """Return whether a value is digits and points alone, such as a date or a time, but no UID."""
    return bool(re.fullmatch(r"\d+(\.\d+)?", value)) and len(value) < 24


def _digests(raw: bytes) -> tuple[bytes, ...]:
    return hashlib.sha256(raw).digest(), hashlib.blake2b(raw).digest()[:32], blake3.blake3(raw).digest()


def contents(path: Path) -> Iterator[bytes]:
    """Yield what a file holds: its bytes, the members of an archive, and the pictures inside of a page."""
    data = path.read_bytes()
    yield data
    for picture in _PICTURE.findall(data):
        yield base64.b64decode(picture)
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield archive.read(name)
