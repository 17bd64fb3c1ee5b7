"""The rows of a label file, or of a table of patients: CSV in UTF-8 or in Excel's UTF-16, with the columns in use."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from coordinator.exchange.image_file import UnreadableFormatError, open_regular
from crypto.errors import CipherwardError
from crypto.plural import counted
from parties.sources.class_names import normalized
from parties.sources.layout import SPLIT_NAMES
from parties.sources.same_patient import one_spelling
from parties.sources.walk import PICTURE_ENDINGS, VOLUME_ENDINGS, without_ending

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
# What programs write where a cell is missing, in lower case and without signs around it (databases: (null), \\N); and
# what pandas and R write, which others use as a word.
_MISSING = ("", "nan", "nat", "null", "n/a", "n.a", "#n/a", "#na", "undefined", "\\n")
_MISSING_AS_WRITTEN = ("NA", "None")
_SIGNS = "()[]{}<>'\"`.?-\u2013\u2014 "
# Words that mean this only between signs: (none), <empty>, and (blank) of Excel's pivot tables.
_MISSING_IN_SIGNS = ("none", "na", "empty", "blank", "missing")
# What spreadsheets write where a formula fails, in several languages (#REF!, #NOMBRE?, #NV, Err:502), and LibreOffice
# where a column is too narrow (###).
_FAILED = re.compile(r"#.*[!?]|#+|#N/?[ADV]|Err:\d+")
_DRIVE = re.compile(r"[A-Za-z]:/")  # of Windows
#: Bytes of a label file, at most.
MAX_BYTES = 1 << 28
#: What `cipherward-party patients` reads of a table.
PATIENT_HINT = "a table of patients has a header with image and patient"
HINT = "a label file has a header with path and label, and may have patient, split and hospital"
_SEPARATORS = "its cells are separated by commas, semicolons or tabs"


@dataclass(frozen=True)
class _Table:
    """A table: where its columns are, and each line's number and cells."""

    header: list[str]
    places: dict[str, int]
    lines: list[tuple[int, list[str]]]

    @property
    def unused(self) -> list[str]:
        """The names of the columns that are not used, or their numbers if they have cells and no name."""
        rest = [i for i in range(len(self.header)) if i not in self.places.values()]
        full = {i for i in rest if any(cells[i].strip() for _, cells in self.lines if i < len(cells))}
        return [
            self.header[i] or f"column {i + 1}, without a name" for i in rest if self.header[i] or i in full
        ]


@dataclass(frozen=True)
class Row:
    """One image of a label file: its line, and its cells. An empty text: the cell is missing, or the column is."""

    line: int
    path: str
    label: str
    patient: str
    split: str
    hospital: str


def read_rows(file: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of a label file, and the names of the columns that are not used."""
    table = _read_table(file, ("path", "label"), tuple(COLUMNS), HINT)
    rows = [_read_row(file, line, _values(file, line, cells, table, HINT)) for line, cells in table.lines]
    return rows, table.unused


def read_patients(file: Path) -> list[tuple[int, str, str]]:
    """Return the lines of a table of patients: the number, the path of an image, and its patient in one spelling."""
    table = _read_table(file, ("path", "patient"), ("path", "patient"), PATIENT_HINT)
    rows = []
    for line, cells in table.lines:
        value = _values(file, line, cells, table, PATIENT_HINT)
        if _is_missing(value["patient"]):
            raise CipherwardError(
                f"{file}, line {line}: {value['path']} has no patient ({value['patient'] or 'an empty cell'})",
                "fill it in",
            )
        rows.append((line, value["path"], one_spelling(value["patient"])))
    return rows


def _read_table(file: Path, needed: tuple[str, ...], columns: tuple[str, ...], hint: str) -> _Table:
    """Return a table.

    Args:
        file: A CSV file.
        needed: The columns that it must have, by their names in COLUMNS.
        columns: The columns that are used if they are there.
        hint: What such a file looks like.

    Raises:
        CipherwardError: If it cannot be read, is no CSV, lacks a column or has no line.
    """
    text, skipped = _read_text(file, hint), 0
    if text[:4].casefold() == "sep=":  # for Excel
        text, skipped = re.sub(r"\A[^\r\n]*(\r\n|\r|\n|\Z)", "", text), 1
    first = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = [row for row in _parse(text, delimiter, skipped, file) if any(map(str.strip, row[1]))]
    if not lines:
        raise CipherwardError(f"{file} is empty", hint)
    header = [name.strip() for name in lines[0][1]]
    spelled = [re.sub(r"[ -]+", "_", name.lower()) for name in header]
    places = _find_columns(file, header, spelled, needed, columns, hint)
    if not lines[1:]:
        raise CipherwardError(f"{file} names no image", hint)
    return _Table(header, places, lines[1:])


def _read_text(file: Path, hint: str) -> str:
    """Return the text of a table. Raises CipherwardError if it is none."""
    if file.suffix.lower() == ".parquet":
        raise CipherwardError(
            f"{file}: Parquet needs pyarrow, which is not part of cipherward", "save it as CSV"
        )
    try:
        with open_regular(file) as stream:  # a pipe would be waited for without end
            if os.fstat(stream.fileno()).st_size > MAX_BYTES:
                raise CipherwardError(f"{file} is larger than {MAX_BYTES >> 20} MiB", hint)
            data = stream.read()
    except UnreadableFormatError as error:
        raise CipherwardError(f"cannot read {file}: {error}", hint) from None
    except OSError as error:
        raise CipherwardError(f"cannot read {file}: {error.strerror}", hint) from None
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


def _parse(text: str, delimiter: str, skipped: int, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line, from 1, and its cells.

    A stray quote would take the lines up to the next quote for one cell, and the images that they name would be left
    out. So a cell with a line break is refused.

    Args:
        text: The table.
        delimiter: What separates cells.
        skipped: Lines before the text.
        file: Its name, for messages.
    """
    stream = io.StringIO(text, newline="")
    # A space before a quote would make the quotes a part of the cell, and its commas separators.
    reader = csv.reader(stream, delimiter=delimiter, strict=True, skipinitialspace=True)
    hint = 'a double quote opens a cell that the next one closes: write "" for one inside a quoted cell, or remove it'
    while True:
        line = skipped + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise CipherwardError(f"{file}, line {line}: it is no CSV: {error}", hint) from None
        if cells is None:
            return
        if any("\n" in cell or "\r" in cell for cell in cells):
            last = skipped + reader.line_num
            raise CipherwardError(
                f"{file}, line {line}: a cell holds a line break, up to line {last}",
                "take the line breaks, or the column, out of the table; if no cell should hold one, a stray double "
                "quote opens it",
            )
        yield line, cells


def _find_columns(
    file: Path,
    header: list[str],
    spelled: list[str],
    needed: tuple[str, ...],
    columns: tuple[str, ...],
    hint: str,
) -> dict[str, int]:
    """Return where each known column is."""
    places: dict[str, int] = {}
    for column in columns:
        found = [i for i, name in enumerate(spelled) if name in COLUMNS[column]]
        if len(found) > 1:
            twins = " and ".join(header[i] for i in found)
            raise CipherwardError(
                f"{file}: the columns {twins} could both be the {column}", f"remove one; {hint}"
            )
        if found:
            places[column] = found[0]
    for column in needed:
        if column not in places:
            several = ". A column for each class (several labels an image) is not supported"
            raise CipherwardError(
                f"{file} has no column for the {column}: it has {', '.join(header[:20])}",
                f"call it {column}; {hint}; {_SEPARATORS}{several if 'label' in needed else ''}",
            )
    return places


def _values(file: Path, line: int, cells: list[str], table: _Table, hint: str) -> dict[str, str]:
    """Return the cells of a line by column, the path in its usual form; those of missing columns are empty."""
    if len(cells) <= max(table.places.values()):
        raise CipherwardError(f"{file}, line {line}: it has {counted(len(cells), 'cell')}", hint)
    width = len(table.header)
    if any(map(str.strip, cells[width:])):  # a separator in a label would cut the label
        raise CipherwardError(
            f"{file}, line {line}: it has {counted(len(cells), 'cell')}, and the header names {width}",
            "put a cell that holds the separator between double quotes",
        )
    value = {
        column: cells[table.places[column]].strip() if column in table.places else "" for column in COLUMNS
    }
    path = value["path"].replace("\\", "/")
    steps = [step for step in path.split("/") if step not in ("", ".")]
    if not steps or path.startswith("/") or ".." in steps or _DRIVE.match(path):
        raise CipherwardError(
            f"{file}, line {line}: {path!r} is no path inside the folder of images",
            "paths are relative to the folder of images, such as tumor/0001.png",
        )
    return value | {"path": "/".join(steps)}


def _read_row(file: Path, line: int, value: dict[str, str]) -> Row:
    """Return a row of a label file."""
    path = value["path"]
    if _is_missing(value["label"]):
        raise CipherwardError(
            f"{file}, line {line}: {path} has no label ({value['label'] or 'an empty cell'})",
            "fill it in, or remove the row",
        )
    if '"' in value["label"]:
        raise CipherwardError(
            f"{file}, line {line}: the label {value['label']!r} holds a double quote",
            "a stray quote makes another class; remove it",
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
    hospital = "" if _is_missing(value["hospital"]) else normalized(value["hospital"])
    return Row(line, path, normalized(value["label"]), patient, split, hospital)


def _is_missing(cell: str) -> bool:
    """Return whether a cell says that its value is missing."""
    bare = cell.strip(_SIGNS).casefold()
    is_between = cell[:1] + cell[-1:] in ("()", "[]", "<>", "{}") and bare in _MISSING_IN_SIGNS
    return bare in _MISSING or is_between or cell in _MISSING_AS_WRITTEN or bool(_FAILED.fullmatch(cell))


class FileFinder:
    """Finds the file that a row names. An ending may be left out if one image has the name.

    Accents are compared in one form: macOS names files in another one than the programs that write tables. Capitals
    count only where they tell files apart: a table made on Windows or macOS may have others.
    """

    def __init__(self, files: list[str]) -> None:
        self.files = set(files)
        self.exact, self.folded = (_Names(files, form) for form in (normalized, _folded))

    def __call__(self, path: str) -> str:
        """Return the file of a path; empty if there is none, or there are several."""
        found = self.candidates(path)
        return found[0] if len(found) == 1 else ""

    def candidates(self, path: str) -> list[str]:
        """Return the files that a path may mean; those with an image's ending alone where others share the name."""
        if path in self.files:
            return [path]
        return self.exact.candidates(path) or self.folded.candidates(path)

    def elsewhere(self, path: str) -> list[str]:
        """Return the files that have the name of a path in another folder, or with its %20 as spaces."""
        plain = unquote(path)
        return self.candidates(plain) or self.candidates(PurePosixPath(plain).name)


class _Names:
    """The files by their paths, their paths without ending, and their names, each in one form."""

    def __init__(self, files: list[str], form: Callable[[str], str]) -> None:
        self.form = form
        self.paths, self.stems, self.names = (defaultdict[str, list[str]](list) for _ in range(3))
        for name in files:
            self.paths[form(name)].append(name)
            self.stems[form(without_ending(name))].append(name)
            self.names[form(PurePosixPath(name).name)].append(name)

    def candidates(self, path: str) -> list[str]:
        """Return the files that a path may mean."""
        path = self.form(path)
        several: list[str] = []
        for alike in (self.paths, self.stems, *(() if "/" in path else (self.names,))):
            found = alike.get(path, [])
            # A scan often has a file of its own beside it, such as scan.json.
            images = [name for name in found if name.lower().endswith((*PICTURE_ENDINGS, *VOLUME_ENDINGS))]
            if len(found := images or found) == 1:
                return found
            several = several or found
        return several


def _folded(name: str) -> str:
    """Return a name as file systems compare it that do not tell capitals apart."""
    return normalized(normalized(name).casefold())
