"""A label file: a table (CSV) of image files with their class and, if it has them, patient, split and hospital.

    path,label,patient,split,hospital
    img/0001.png,glioma,P17,train,north

The layout of many competitions. Paths are relative to the folder of images; an ending may be left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from crypto.errors import CipherwardError
from crypto.plural import agreeing, counted
from parties.sources.catalog import NO_PATIENT, Catalog, Item, Selection
from parties.sources.class_names import find_twins, normalized, require_usable_names
from parties.sources.label_table import HINT, FileFinder, Row, read_rows
from parties.sources.layout import require_folder
from parties.sources.patients import note_of_names
from parties.sources.picture import UndecodableImageError
from parties.sources.reading import Reading
from parties.sources.same_patient import join_issuers, name_patients
from parties.sources.walk import Parts, doubts_of_recognizable, ignored_reason, look, note_of_links, walk

_BETWEEN_LABELS = re.compile(r"[;,/+&]")


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
    table, unused = read_rows(file)
    hospital = normalized(selection.hospital)
    rows = _select_hospital(table, hospital, file)
    require_usable_names(selection.classes, "the list of classes")
    for label, line in {row.label: row.line for row in reversed(rows)}.items():  # the first line of each
        require_usable_names([label], f"{file}, line {line}")
    classes = list(selection.classes) or sorted({row.label for row in rows})
    require_usable_names(classes, str(file))
    _check_labels(rows, classes, file)
    if len(classes) < 2:
        raise CipherwardError(
            f"{file} names {counted(len(classes), 'class', 'classes')}; at least two are needed", HINT
        )
    tree = walk(root)
    paths = _match_files(rows, tree.files, file)
    reading = Reading(allow_burned_in=selection.allow_burned_in)
    refused: list[tuple[str, str]] = []
    held: dict[str, Parts] = {}
    for path in paths:
        try:
            held[path] = look(root, path, reading)
        except UndecodableImageError as error:
            refused.append((path, error.reason))
        except CipherwardError as error:
            if not (reason := ignored_reason(error)):
                raise
            refused.append((path, reason))  # the label file names it, so it is missed
    used = [(row, path) for row, path in zip(rows, paths, strict=True) if path in held]
    groups = _groups(used, held) if selection.groups != "none" else dict.fromkeys(held, "")
    items = [
        Item(path, classes.index(row.label), row.split, groups[path], part, row.hospital)
        for row, path in used
        for part in (range(held[path].count) if held[path].kind != "picture" else (-1,))
    ]
    silent = sum(parts.may_show_names for parts in held.values())
    ignored = [
        *tree.ignored,
        *_why_not_named(root, file, tree.files, set(paths), table, hospital),
    ]
    items.sort(key=lambda item: (item.path.split("/"), item.part))
    notes = [f"{counted(len(rows), 'image is', 'images are')} named in {file.name}"]
    notes += note_of_links(tree, held)
    if unused:
        notes.append(f"columns of {file.name} that are not used: {', '.join(unused[:20])}")
    patients = {row.patient for row in rows if row.patient}
    notes += _notes_of_patients(rows, used, groups, selection)
    if (nowhere := sum(not row.hospital for row in rows)) and nowhere < len(rows):
        notes.append(
            f"{nowhere} of {counted(len(rows), 'row')} {agreeing(nowhere, 'names', 'name')} no hospital"
        )
    shared = patients & {row.patient for row in table if row.hospital != hospital}
    if shared and hospital:
        notes.append(
            f"{counted(len(shared), 'patient is', 'patients are')} in rows of other hospitals too: what one "
            "hospital trains on, another may"
            " test on"
        )
    doubts = doubts_of_recognizable(held.values())
    return Catalog(root, classes, items, ignored, refused, notes, silent, doubts)


def _notes_of_patients(
    rows: list[Row], used: list[tuple[Row, str]], groups: dict[str, str], selection: Selection
) -> list[str]:
    """Return a line about the rows that name no patient, if others do; or about file names that seem to name them."""
    alone = sum(not row.patient for row in rows)
    if alone < len(rows):
        tagged = sum(not row.patient and groups[path].startswith(("tag ", "label ")) for row, path in used)
        told = f"{counted(tagged, 'is', 'are')} grouped by DICOM tags, each other one" if tagged else "each"
        line = (
            f"{alone} of {counted(len(rows), 'row')} {agreeing(alone, 'names', 'name')} no patient: {told} is "
            "taken for one of its own"
        )
        return [line] if alone else []
    if selection.groups != "folder":
        return []
    remedy = "If they are patients, name them in a column patient; if not: --groups none"
    return note_of_names((path for path, group in groups.items() if not group), remedy)


def _groups(rows: list[tuple[Row, str]], held: dict[str, Parts]) -> dict[str, str]:
    """Return the patient of each file: as its row says, or else its tags and the rows of files with equal tags."""
    names = {path: ["label file " + row.patient] if row.patient else [] for row, path in rows}
    tag_of = join_issuers(parts.group for parts in held.values())
    hints = {path: "tag " + tag_of[parts.group] for path, parts in held.items() if parts.group}
    groups = name_patients(names, hints)
    for path, parts in held.items():
        if not groups[path] and (parts.count > 1 or parts.kind == "NIfTI"):
            groups[path] = f"file {NO_PATIENT}{path}"  # its frames or slices stay together
    return groups


def _check_labels(rows: list[Row], classes: list[str], file: Path) -> None:
    """Raise CipherwardError if a label means several classes, or none that is stated."""
    _refuse_several_labels(rows, file)
    if unknown := sorted({row.label for row in rows} - set(classes)):
        raise CipherwardError(
            f"{file}: label {unknown[0]!r} is none of the classes that are stated: {', '.join(classes)}",
            "correct the label, or state the consortium's classes with --classes",
        )


def _refuse_several_labels(rows: list[Row], file: Path) -> None:
    """Raise CipherwardError if a label is made of others: `edema; mass` beside `edema` and `mass` is no class."""
    known = {row.label for row in rows}
    for row in rows:
        parts = [part.strip() for part in _BETWEEN_LABELS.split(row.label)]
        if len(parts) > 1 and known.issuperset(parts):
            raise CipherwardError(
                f"{file}, line {row.line}: several labels an image ({row.label})",
                "choose one class an image: this model does not support multi-label tasks",
            )


def _select_hospital(rows: list[Row], hospital: str, file: Path) -> list[Row]:
    """Return a hospital's rows, and check that no image has two labels, and that all or no rows have a split."""
    known = sorted({row.hospital for row in rows if row.hospital})
    twins = [name for name in known if sum(name.casefold() == other.casefold() for other in known) > 1][:3]
    twins = twins or list((find_twins(known) or ())[:2])
    if twins:
        raise CipherwardError(
            f"{file}: {' and '.join(repr(name) for name in twins)} seem to be one hospital",
            "write its name in one way: rows under the other name would be left out",
        )
    if hospital:
        nowhere = [row for row in rows if not row.hospital]
        rows, count = [row for row in rows if row.hospital == hospital], len(rows)
        if rows and nowhere:  # nobody's images would be left out by every hospital
            raise CipherwardError(
                f"{file}: {len(nowhere)} of {counted(count, 'row')} {agreeing(len(nowhere), 'has', 'have')} no "
                f"hospital, such as line {nowhere[0].line}",
                "fill in all; they are left out otherwise",
            )
        if not rows:
            raise CipherwardError(
                f"{file} has no rows of the hospital {hospital!r}",
                f"known: {', '.join(known[:20]) or 'none'}",
            )
    lines: dict[str, Row] = {}
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
            f"{file}: {len(rows) - with_split} of {counted(len(rows), 'row')} "
            f"{agreeing(len(rows) - with_split, 'has', 'have')} no split",
            "fill in all, or none",
        )
    if with_split and not {"train", "test"} <= {row.split for row in rows}:
        raise CipherwardError(
            f"{file}: its rows are not in both train and test", "fill in both, or leave the column out"
        )
    return rows


def _why_not_named(
    root: Path, file: Path, files: list[str], named: set[str], table: list[Row], hospital: str
) -> list[tuple[str, str]]:
    """Return the files that no row in use names, each with the reason."""
    rest = [name for name in files if name not in named]
    own = {name for name in rest if (root / name).resolve() == file.resolve()}
    others = set[str]()
    if hospital:
        file_of = FileFinder(files)
        others = {found for row in table if row.hospital != hospital and (found := file_of(row.path))}
    reasons = {name: "the label file" if name in own else "not in the label file" for name in rest}
    return [
        (name, "another hospital's row" if name in others else reason) for name, reason in reasons.items()
    ]


def _match_files(rows: list[Row], files: list[str], file: Path) -> list[str]:
    """Return the file of each row."""
    file_of = FileFinder(files)
    paths = [file_of(row.path) for row in rows]
    for row, path in zip(rows, paths, strict=True):
        if not path and len(several := file_of.candidates(row.path)) > 1:
            raise CipherwardError(
                f"{file}, line {row.line}: {row.path} may be {several[0]} or {several[1]}",
                "write the whole path, with the file's ending",
            )
    if missing := [row.path for row, path in zip(rows, paths, strict=True) if not path]:
        near = file_of.elsewhere(missing[0])
        raise CipherwardError(
            f"{file} names {counted(len(missing), 'image that is', 'images that are')} not in the folder: "
            f"{', '.join(missing[:3])}",
            (f"the folder holds {near[0]}; " if near else "add them, or remove their rows; ")
            + "paths are relative to the folder of images",
        )
    named: dict[str, Row] = {}
    for row, path in zip(rows, paths, strict=True):
        if (twin := named.setdefault(path, row)) is not row:
            raise CipherwardError(
                f"{file}, lines {twin.line} and {row.line}: {twin.path} and {row.path} are one file, {path}",
                "name each image once: this model does not support multi-label tasks",
            )
    return paths
