"""Collect the identifying values of DICOM files, and search other files for them.

A value is the text of any attribute that can name somebody, a place, a time or a study: all text, dates, times and
identifiers, private attributes and those in sequences too. UIDs that the standard defines name nobody. Values of a
few characters occur everywhere by chance, so those with fewer than MIN_LENGTH are not searched for.

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
from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

#: Characters of the shortest value that is searched for.
MIN_LENGTH = 6
#: Bytes of a value that are looked up first, all values at once.
_WINDOW = 8
#: Value representations that can hold an identifying text.
_TEXT = ("AE", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UN", "UR", "UT")
#: Attributes whose values are words of the standard, or of the pixels: they identify nobody.
_WORDS = ("CS",)
_PICTURE = re.compile(rb"data:[a-z/+]+;base64,([A-Za-z0-9+/=]+)")


def identifying_values(paths: Iterable[Path]) -> set[str]:
    """Return the identifying values of DICOM files. A file that pydicom cannot open has none."""
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
                if len(text) >= MIN_LENGTH and text.isprintable() and text not in UID_dictionary:
                    yield text


class Search:
    """Searches bytes for values."""

    def __init__(self, values: Iterable[str]) -> None:
        """Prepare the search for these values."""
        self.values = sorted(set(values))
        self._long: dict[bytes, str] = {}
        words: dict[bytes, str] = {}
        for value in self.values:
            raw = value.encode(errors="replace")
            (words if len(raw) < _WINDOW or _is_number(value) else self._long)[raw] = value
            if not _is_number(value):
                self._long[value.encode("utf-16-le", errors="replace")] = value
            for digest in _digests(raw):
                self._long[digest] = value
                self._long[digest.hex().encode()] = value
        self._words = words
        starts = sorted({int.from_bytes(raw[:_WINDOW], "little") for raw in self._long})
        self._starts = np.array(starts, np.uint64)
        self._by_start: dict[int, list[bytes]] = {}
        for raw in self._long:
            self._by_start.setdefault(int.from_bytes(raw[:_WINDOW], "little"), []).append(raw)

    def find(self, data: bytes) -> set[str]:
        """Return the values that some bytes hold."""
        return self._find_long(data) | self._find_words(data)

    def _find_long(self, data: bytes) -> set[str]:
        """Return the values of which the bytes hold a long form: by its first eight bytes, then whole."""
        found: set[str] = set()
        for shift in range(_WINDOW):
            count = (len(data) - shift) // _WINDOW
            if count <= 0:
                break
            windows = np.frombuffer(data, "<u8", count, shift)
            for at in np.flatnonzero(np.isin(windows, self._starts)):
                begin = shift + int(at) * _WINDOW
                for raw in self._by_start[int(windows[at])]:
                    if data.startswith(raw, begin):
                        found.add(self._long[raw])
        return found

    def _find_words(self, data: bytes) -> set[str]:
        """Return the numbers and the short values that stand in the bytes as words of their own."""
        found: set[str] = set()
        for raw, value in self._words.items():
            begin = data.find(raw)
            while begin >= 0:
                around = data[max(0, begin - 1) : begin] + data[begin + len(raw) : begin + len(raw) + 1]
                if not re.search(rb"[0-9A-Za-z.]", around):
                    found.add(value)
                    break
                begin = data.find(raw, begin + 1)
        return found


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
