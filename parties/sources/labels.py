"""A label file: a table (CSV) of image files with their class and, if it has them, patient, split and hospital.

    path,label,patient,split,hospital
    img/0001.png,glioma,P17,train,north

The layout of many competitions. Paths are relative to the folder of images; an ending may be left out.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crypto.errors import CipherwardError
from parties.sources.catalog import Catalog, Item, Selection
from parties.sources.class_names import normalized, require_usable_names
from parties.sources.layout import SPLIT_NAMES, require_folder
from parties.sources.picture import UndecodableImageError
from parties.sources.reading import Reading
from parties.sources.walk import Parts, ignored_reason, look, walk

#: What each column may be called, in lower case.
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "image_id", "img"),
    "label": ("label", "class", "diagnosis", "dx", "category", "target"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "case", "case_id"),
    "split": ("split", "set", "subset"),
    "hospital": ("hospital", "site", "center", "centre", "institution"),
}
# What tables hold where a label is missing.
_NO_LABEL = ("", "nan", "null", "n/a", "#n/a", "<na>")
#: Bytes of a label file, at most.
MAX_BYTES = 1 << 28
_HINT = "a label file has a header with path and label, and may have patient, split and hospital"


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    patient: str
    split: str
    hospital: str


def read_labels(root: Path, selection: Selection) -> Catalog:
    """Return the catalog of the images that a label file names.

    Raises:
        CipherwardError: If the file cannot be read, names files that are not there, or gives an image several labels.
    """
    require_folder(root)
    file = Path(selection.labels).expanduser()
    if selection.groups not in ("folder", "none"):
        raise CipherwardError(
            f"groups: {selection.groups!r} does not go with a label file",
            "name the patients in its column patient",
        )
    table = _read_rows(file)
    rows = _select_hospital(table, selection.hospital, file)
    classes = list(selection.classes) or sorted({row.label for row in rows})
    require_usable_names(classes, str(file))
    if unknown := sorted({row.label for row in rows} - set(classes)):
        raise CipherwardError(
            f"{file}: label {unknown[0]!r} is none of the classes that are stated: {', '.join(classes)}",
            "correct the label, or state the consortium's classes with --classes",
        )
    if len(classes) < 2:
        raise CipherwardError(f"{file} names {len(classes)} class; at least two are needed", _HINT)
    tree = walk(root)
    paths = _match_files(rows, tree.files, file)
    reading = Reading(allow_burned_in=selection.allow_burned_in)
    items: list[Item] = []
    refused: list[tuple[str, str]] = []
    silent = 0
    for row, path in zip(rows, paths, strict=True):
        try:
            parts = look(root, path, reading)
        except UndecodableImageError as error:
            refused.append((path, error.reason))
            continue
        except CipherwardError as error:
            if not (reason := ignored_reason(error)):
                raise
            refused.append((path, reason))  # the label file names it, so it is missed
            continue
        silent += parts.may_show_names
        group = _group(row, path, parts) if selection.groups != "none" else ""
        for part in range(parts.count) if parts.kind != "picture" else (-1,):
            items.append(Item(path, classes.index(row.label), row.split, group, part, row.hospital))
    named = set(paths)
    rest = [name for name in tree.files if name not in named]
    own = {name for name in rest if (root / name).resolve() == file.resolve()}
    reasons = ((name, "the label file" if name in own else "not in the label file") for name in rest)
    ignored = [*tree.ignored, *reasons]
    items.sort(key=lambda item: (item.path.split("/"), item.part))
    notes = [f"{len(rows)} images are named in {file.name}"]
    patients = {row.patient for row in rows if row.patient}
    shared = patients & {row.patient for row in table if row.hospital != selection.hospital}
    if shared and selection.hospital:
        notes.append(
            f"{len(shared)} patients are in rows of other hospitals too: what one hospital trains on, another may"
            " test on"
        )
    return Catalog(root, classes, items, ignored, refused, notes, silent)


def _group(row: _Row, path: str, parts: Parts) -> str:
    if row.patient:
        return "label file " + row.patient
    if parts.group:
        return "tag " + parts.group
    return "file " + path if parts.count > 1 or parts.kind == "NIfTI" else ""


def _read_rows(file: Path) -> list[_Row]:
    """Return the rows of a label file."""
    if file.suffix.lower() == ".parquet":
        raise CipherwardError(
            f"{file}: Parquet needs pyarrow, which is not part of cipherward", "save it as CSV"
        )
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CipherwardError(f"{file} is larger than {MAX_BYTES >> 20} MiB", _HINT)
        data = file.read_bytes()
        if data.startswith(b"PK\x03\x04"):
            raise CipherwardError(
                f"{file} is a workbook of Excel or the like, or an archive", "save it as CSV"
            )
        # Excel's "Unicode text" says what it is by its first two bytes.
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as error:
        raise CipherwardError(f"cannot read {file}: {error.strerror}", _HINT) from None
    except UnicodeDecodeError:
        raise CipherwardError(f"{file} is not UTF-8 text", "save it as CSV in UTF-8") from None
    skipped = 0
    if text[:4].casefold() == "sep=":  # for Excel
        text, skipped = text.partition("\n")[2], 1
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise CipherwardError(f"{file} is no CSV: {error}", _HINT) from None
    if not table:
        raise CipherwardError(f"{file} is empty", _HINT)
    places = _find_columns(file, [name.strip().lower() for name in table[0]])
    rows = [
        _read_row(file, i, cells, places)
        for i, cells in enumerate(table[1:], 2 + skipped)
        if any(map(str.strip, cells))
    ]
    if not rows:
        raise CipherwardError(f"{file} names no image", _HINT)
    return rows


def _find_columns(file: Path, header: list[str]) -> dict[str, int]:
    """Return where each known column is."""
    places: dict[str, int] = {}
    for column, names in COLUMNS.items():
        found = [i for i, name in enumerate(header) if name in names]
        if len(found) > 1:
            twins = " and ".join(header[i] for i in found)
            raise CipherwardError(
                f"{file}: the columns {twins} could both be the {column}", f"remove one; {_HINT}"
            )
        if found:
            places[column] = found[0]
    for column in ("path", "label"):
        if column not in places:
            raise CipherwardError(
                f"{file} has no column for the {column}: it has {', '.join(header[:20])}",
                f"call it {column}; {_HINT}. A column for each class (several labels an image) is not supported",
            )
    return places


def _read_row(file: Path, line: int, cells: list[str], places: dict[str, int]) -> _Row:
    """Return a row of the table."""
    if len(cells) <= max(places.values()):
        raise CipherwardError(f"{file}, line {line}: it has {len(cells)} cells", _HINT)
    value = {column: cells[places[column]].strip() if column in places else "" for column in COLUMNS}
    path = value["path"].replace("\\", "/").removeprefix("./")
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise CipherwardError(
            f"{file}, line {line}: {path!r} is no path inside the folder of images", _HINT
        )
    if value["label"].casefold() in _NO_LABEL:
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
    return _Row(line, path, normalized(value["label"]), value["patient"], split, value["hospital"])


def _select_hospital(rows: list[_Row], hospital: str, file: Path) -> list[_Row]:
    """Return a hospital's rows, and check that no image has two labels, and that all or no rows have a split."""
    known = sorted({row.hospital for row in rows if row.hospital})
    if len({name.casefold() for name in known}) < len(known):
        twins = [name for name in known if sum(name.casefold() == other.casefold() for other in known) > 1]
        raise CipherwardError(
            f"{file}: {' and '.join(repr(name) for name in twins[:3])} seem to be one hospital",
            "write its name in one way: rows under the other name would be left out",
        )
    if hospital:
        rows = [row for row in rows if row.hospital == hospital]
        if not rows:
            raise CipherwardError(
                f"{file} has no rows of the hospital {hospital!r}",
                f"known: {', '.join(known[:20]) or 'none'}",
            )
    lines: dict[str, _Row] = {}
    for row in rows:
        if (twin := lines.setdefault(row.path, row)) is not row:
            what = "two labels" if twin.label != row.label else "twice"
            raise CipherwardError(
                f"{file}, lines {twin.line} and {row.line}: {row.path} is named {what}",
                "name each image once: this model does not support multi-label tasks",
            )
    with_split = sum(bool(row.split) for row in rows)
    if 0 < with_split < len(rows):
        raise CipherwardError(
            f"{file}: {len(rows) - with_split} of {len(rows)} rows have no split", "fill in all, or none"
        )
    if with_split and not {"train", "test"} <= {row.split for row in rows}:
        raise CipherwardError(
            f"{file}: its rows are not in both train and test", "fill in both, or leave the column out"
        )
    return rows


def _match_files(rows: list[_Row], files: list[str], file: Path) -> list[str]:
    """Return the file of each row. An ending may be left out if one file has the name."""
    known, stems = set(files), defaultdict(list)
    for name in files:
        stems[str(PurePosixPath(name).with_suffix(""))].append(name)
    by_name = Counter(PurePosixPath(name).name for name in files)
    whole = {PurePosixPath(name).name: name for name in files}
    paths, missing = [], []
    for row in rows:
        if row.path in known:
            paths.append(row.path)
        elif len(stems[row.path]) == 1:
            paths.append(stems[row.path][0])
        elif "/" not in row.path and by_name[row.path] == 1:
            paths.append(whole[row.path])
        else:
            missing.append(row)
    named: dict[str, _Row] = {}
    for row, path in zip(rows, paths, strict=False) if not missing else ():
        if (twin := named.setdefault(path, row)) is not row:
            raise CipherwardError(
                f"{file}, lines {twin.line} and {row.line}: {twin.path} and {row.path} are one file, {path}",
                "name each image once: this model does not support multi-label tasks",
            )
    if missing:
        first = ", ".join(row.path for row in missing[:3])
        raise CipherwardError(
            f"{file} names {len(missing)} images that are not in the folder: {first}",
            "add them, or remove their rows; paths are relative to the folder of images",
        )
    return paths
