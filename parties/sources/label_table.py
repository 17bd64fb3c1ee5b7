"""The rows of a label file: a table (CSV) in UTF-8 or in Excel's UTF-16, with the columns that are used."""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from coordinator.exchange.image_file import UnreadableFormatError, open_regular
from crypto.errors import CipherwardError
from parties.sources.class_names import normalized
from parties.sources.layout import SPLIT_NAMES
from parties.sources.same_patient import one_spelling

#: What each column may be called, in lower case.
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "image_id", "img"),
    "label": ("label", "class", "diagnosis", "dx", "category", "target"),
    "patient": (
        *("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid", "case", "case_id"),
        *("participant", "participant_id", "lesion_id"),
    ),
    "split": ("split", "set", "subset"),
    "hospital": ("hospital", "site", "center", "centre", "institution"),
}
# What tables hold where a cell is missing, in lower case; and what pandas and R write, which others use as a word.
_MISSING = ("", "nan", "-nan", "null", "n/a", "#n/a", "#na", "<na>", "?", "-")
_MISSING_AS_WRITTEN = ("NA", "None")
#: Bytes of a label file, at most.
MAX_BYTES = 1 << 28
HINT = "a label file has a header with path and label, and may have patient, split and hospital"
_SEPARATORS = "its cells are separated by commas, semicolons or tabs"


@dataclass(frozen=True)
class Row:
    """One image of a label file: its line, and its cells. An empty text: the cell is missing, or the column is."""

    line: int
    path: str
    label: str
    patient: str
    split: str
    hospital: str


def _decode(data: bytes, file: Path) -> str:
    """Return the text of a label file. Raises CipherwardError if it is none."""
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise CipherwardError(f"{file} is a workbook of Excel or the like, or an archive", "save it as CSV")
    # Excel's "Unicode text" says what it is by its first two bytes.
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise CipherwardError(f"{file} is not UTF-8 text", "save it as CSV in UTF-8")
    return text


def read_rows(file: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of a label file, and the names of the columns that are not used."""
    if file.suffix.lower() == ".parquet":
        raise CipherwardError(
            f"{file}: Parquet needs pyarrow, which is not part of cipherward", "save it as CSV"
        )
    try:
        with open_regular(file) as stream:  # a pipe would be waited for without end
            if os.fstat(stream.fileno()).st_size > MAX_BYTES:
                raise CipherwardError(f"{file} is larger than {MAX_BYTES >> 20} MiB", HINT)
            text = _decode(stream.read(), file)
    except UnreadableFormatError as error:
        raise CipherwardError(f"cannot read {file}: {error}", HINT) from None
    except OSError as error:
        raise CipherwardError(f"cannot read {file}: {error.strerror}", HINT) from None
    skipped = 0
    if text[:4].casefold() == "sep=":  # for Excel
        text, skipped = text.partition("\n")[2], 1
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise CipherwardError(f"{file} is no CSV: {error}", HINT) from None
    while table and not any(map(str.strip, table[0])):
        table, skipped = table[1:], skipped + 1
    if not table:
        raise CipherwardError(f"{file} is empty", HINT)
    header = [name.strip() for name in table[0]]
    places = _find_columns(file, [re.sub(r"[ -]+", "_", name.lower()) for name in header])
    rows = [
        _read_row(file, i, cells, places, len(header))
        for i, cells in enumerate(table[1:], 2 + skipped)
        if any(map(str.strip, cells))
    ]
    if not rows:
        raise CipherwardError(f"{file} names no image", HINT)
    return rows, [name for i, name in enumerate(header) if name and i not in places.values()]


def _find_columns(file: Path, header: list[str]) -> dict[str, int]:
    """Return where each known column is."""
    places: dict[str, int] = {}
    for column, names in COLUMNS.items():
        found = [i for i, name in enumerate(header) if name in names]
        if len(found) > 1:
            twins = " and ".join(header[i] for i in found)
            raise CipherwardError(
                f"{file}: the columns {twins} could both be the {column}", f"remove one; {HINT}"
            )
        if found:
            places[column] = found[0]
    for column in ("path", "label"):
        if column not in places:
            raise CipherwardError(
                f"{file} has no column for the {column}: it has {', '.join(header[:20])}",
                f"call it {column}; {HINT}; {_SEPARATORS}. A column for each class (several labels an image) is not"
                " supported",
            )
    return places


def _read_row(file: Path, line: int, cells: list[str], places: dict[str, int], width: int) -> Row:
    """Return a row of the table."""
    if len(cells) <= max(places.values()):
        raise CipherwardError(f"{file}, line {line}: it has {len(cells)} cells", HINT)
    if any(map(str.strip, cells[width:])):  # a separator in a label would cut the label
        raise CipherwardError(
            f"{file}, line {line}: it has {len(cells)} cells, and the header names {width}",
            "put a cell that holds the separator between double quotes",
        )
    value = {column: cells[places[column]].strip() if column in places else "" for column in COLUMNS}
    path = value["path"].replace("\\", "/").removeprefix("./")
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise CipherwardError(f"{file}, line {line}: {path!r} is no path inside the folder of images", HINT)
    if _is_missing(value["label"]):
        raise CipherwardError(
            f"{file}, line {line}: {path} has no label ({value['label'] or 'an empty cell'})",
            "fill it in, or remove the row",
        )
    if "|" in value["label"]:
        raise CipherwardError(
            f"{file}, line {line}: several labels an image ({value['label']})",
            "choose one class an image: this model does not support multi-label tasks",
        )
    split = SPLIT_NAMES.get(value["split"].casefold(), "")
    if value["split"] and not split:
        raise CipherwardError(
            f"{file}, line {line}: {value['split']!r} is no split", "known: train, val, test"
        )
    patient = "" if _is_missing(value["patient"]) else one_spelling(value["patient"])
    return Row(line, path, normalized(value["label"]), patient, split, value["hospital"])


def _is_missing(cell: str) -> bool:
    """Return whether a cell says that its value is missing."""
    return cell.casefold() in _MISSING or cell in _MISSING_AS_WRITTEN
