"""Which training images are of one patient: a file in the hospital's private folder.

    private/patients-train.json   the digest of the sealed set, and for each of its rows the number of a patient

The numbers count from 0 in the order in which patients come; a patient's name or identifier is not in the file. It
is made by `cipherward-party patients`, from what the images say or from a table, and never leaves.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crypto.arrays import Int64Array
from crypto.errors import CipherwardError
from crypto.files import read_json, write_json
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.sources.folder import Folder
from parties.sources.source import Share, Source

#: The columns of the hospital's table.
COLUMNS = ("image", "patient")
_HINT = "say it: cipherward-party patients HOSPITAL [TABLE.csv]; or ask for a plan with privacy.unit image"


def patients_file(place: Place) -> Path:
    """Return where a hospital keeps which training images are of one patient."""
    return place.private / "patients-train.json"


def number_patients(patients: Sequence[str]) -> Int64Array:
    """Return a number for each image, int64 [n], equal for equal patients, from 0 in the order of first images."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], np.int64)


def record_patients(place: Place, patients: Sequence[str]) -> int:
    """Write down whose each training image is, and return the number of patients.

    Args:
        place: the hospital. Its training images are sealed.
        patients: the patient of each sealed row, in their order.
    """
    sealed = place.sealed("train")
    if len(patients) != len(sealed):
        raise ValueError(f"{len(patients)} patients for {len(sealed)} images")
    numbers = number_patients(patients)
    write_json(patients_file(place), {"digest": sealed.digest, "patients": numbers.tolist()})
    return len(np.unique(numbers))


def read_patient_table(place: Place, table: Path) -> list[str]:
    """Return the patient of each sealed training image, from a CSV file with the columns image and patient.

    Args:
        place: the hospital. Its training images are sealed, and its plain images are here.
        table: one line an image. `image` is the path below the hospital's image folder, or the file's name if that
            is unique. Images that are not in the training set may be there, too.

    Raises:
        CipherwardError: if the table cannot be read, is contradictory, or lacks a training image.
    """
    stated = _read_table(table)
    source, rows = _sealed_rows(place)
    names = source.names
    of_file = Counter(Path(name).name for name in names)

    def patient_of(name: str) -> str | None:
        file = Path(name).name
        if patient := stated.get(name) or (stated.get(file) if of_file[file] == 1 else None):
            return patient
        # All frames of a file are of one patient.
        path, hash_sign, part = name.rpartition("#")
        return stated.get(path) if hash_sign and part.isdigit() else None

    patients = []
    for row in rows:
        name = names[row]
        patient = patient_of(name)
        if patient is None:
            missing = sum(patient_of(n) is None for n in names)
            several = of_file[Path(name).name]
            raise CipherwardError(
                f"{table} does not say whose the image {name} is, and {missing} of {len(names)} are missing",
                f"{several} images have the file name {Path(name).name}: name each by its path below the folder"
                if several > 1
                else f"add a line for every training image, under the columns {', '.join(COLUMNS)}",
            )
        patients.append(patient)
    return patients


def patients_of_source(place: Place) -> list[str]:
    """Return the patient of each sealed training image, as DICOM tags, folders or the label file say it.

    Raises:
        CipherwardError: if they say it of no two images, or leave one out: an image of its own would be protected as
            an image, not as a patient.
    """
    source, rows = _sealed_rows(place)
    if isinstance(source, Share):
        whole, rows = source.source, [int(source.rows[row]) for row in rows]
    else:
        whole = source
    if not isinstance(whole, Folder) or len(np.unique(whole.groups)) == len(whole.groups):
        raise CipherwardError(
            f"the images of {place.settings.party} do not say which are of one patient",
            "name a table: cipherward-party patients HOSPITAL TABLE.csv",
        )
    if unnamed := sum(not whole.items[row].names_patient for row in rows):
        raise CipherwardError(
            f"{unnamed} of {len(rows)} training images of {place.settings.party} name no patient: a DICOM study or "
            "series is not one, and an image without any would count as a patient of its own",
            "name a table with a patient for each: cipherward-party patients HOSPITAL TABLE.csv",
        )
    return [str(whole.groups[row]) for row in rows]


def _sealed_rows(place: Place) -> tuple[Source, list[int]]:
    """Return the plain training images, and the row in them of each sealed image.

    Raises:
        CipherwardError: if they are not those that were sealed.
    """
    record: dict[str, Any] = read_json(place.rows_file("train"), "row list")
    source = place.plain("train")
    if record["source"] != source.fingerprint() or record["digest"] != place.sealed("train").digest:
        raise CipherwardError(
            f"the plain images of {place.settings.party} are not those that train was sealed from",
            "restore the images, or seal again",
        )
    return source, [int(row) for row in record["rows"]]


def _read_table(table: Path) -> dict[str, str]:
    """Return the patient by image of a CSV file."""
    patients: dict[str, str] = {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise CipherwardError(
                    f"{table} has the columns {', '.join(reader.fieldnames or ()) or 'of no table'}",
                    f"its first line names the columns {' and '.join(COLUMNS)}",
                )
            for line, row in enumerate(reader, 2):
                image, patient = ((row[column] or "").strip() for column in COLUMNS)
                if not image or not patient:
                    raise CipherwardError(f"{table}, line {line}: image or patient is empty", "fill it in")
                if patients.setdefault(image, patient) != patient:
                    raise CipherwardError(
                        f"{table}, line {line}: the image {image} is of two patients",
                        "name images by their path",
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CipherwardError(f"cannot read {table}: {type(error).__name__}", "name a CSV file") from None
    return patients


def read_units(place: Place, sealed: SealedDataset, unit: str) -> Int64Array:
    """Return the unit of each sealed training image, int64 [n], from 0: its patient, or the image itself.

    Args:
        place: the hospital.
        sealed: its training set.
        unit: patient or image.

    Raises:
        CipherwardError: if the unit is the patient, and the hospital did not say whose these images are.
    """
    if unit == "image":
        return np.arange(len(sealed))
    path = patients_file(place)
    if not path.exists():
        raise CipherwardError(
            f"privacy protects each patient, and {place.settings.party} did not say which images are of one patient",
            _HINT,
        )
    record = read_json(path, "list of patients")
    try:
        patients = np.array(record["patients"], np.int64)
        is_whole = patients.shape == (len(sealed),) and record["digest"] == sealed.digest
        is_counted = is_whole and np.array_equal(np.unique(patients), np.arange(patients.max() + 1))
    except (KeyError, TypeError, ValueError, OverflowError):
        is_counted = False
    if not is_counted:
        raise CipherwardError(f"{path.name} is not of the present sealed set", _HINT)
    return patients
