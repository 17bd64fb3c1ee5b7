"""Which training images are of one patient: a file in the hospital's private folder.

    private/patients-train.json   the digest of the sealed set, and for each of its rows the number of a patient

The numbers count from 0 in the order in which patients come; a patient's name or identifier is not in the file. It
is made by `cipherward-party patients`, from what the images say or from a table, and never leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crypto.arrays import Int64Array
from crypto.errors import CipherwardError
from crypto.files import read_json, write_json
from crypto.plural import agreeing, counted
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.sources.folder import Folder
from parties.sources.label_table import FileFinder, read_patients
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
        table: one line an image, read as a label file is. `image` is the path below the hospital's image folder, or
            the file's name if that is unique. Images that are not in the training set may be there, too.

    Raises:
        CipherwardError: if the table cannot be read, is contradictory, or lacks a training image.
    """
    source, rows = _sealed_rows(place)
    names = source.names
    whole = source.source if isinstance(source, Share) else source
    # A file name counts only where no other image has it, in whatever split.
    everything = [item.name for item in whole.catalog.items] if isinstance(whole, Folder) else names
    patient_of = _find_images(table, everything)
    for row in rows:
        if (name := names[row]) not in patient_of:
            missing = sum(name not in patient_of for name in names)
            several = sum(Path(other).name == Path(name).name for other in everything)
            raise CipherwardError(
                f"{table} does not say whose the image {name} is, and {missing} of {len(names)} "
                f"{agreeing(missing, 'is', 'are')} missing",
                f"{several} images have the file name {Path(name).name}: name each by its path below the folder"
                if several > 1
                else f"add a line for every training image, under the columns {', '.join(COLUMNS)}",
            )
    return [patient_of[names[row]] for row in rows]


def _find_images(table: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the patient of each image that a table names.

    Args:
        table: a CSV file, read as a label file is.
        names: of all images: the path of the file, and the frame or slice after a number sign.

    Raises:
        CipherwardError: if the table cannot be read, or says two patients of an image.
    """
    frames: dict[str, list[str]] = {}
    for name in names:
        path, hash_sign, part = name.rpartition("#")
        frames.setdefault(path if hash_sign and part.isdigit() else name, []).append(name)
    file_of, frame_of = FileFinder(list(frames)), FileFinder(list(names))
    stated: dict[str, tuple[int, str]] = {}
    for line, path, patient in read_patients(table):
        frame = frame_of(path) if "#" in path else ""
        # All frames of a file are of one patient.
        for name in [frame] if frame else frames.get(file_of(path), []):
            first, other = stated.setdefault(name, (line, patient))
            if other != patient:
                raise CipherwardError(
                    f"{table}, lines {first} and {line}: the image {name} is of two patients",
                    "name images by their path",
                )
    return {name: patient for name, (_, patient) in stated.items()}


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
            f"{unnamed} of {counted(len(rows), 'training image')} of {place.settings.party} "
            f"{agreeing(unnamed, 'names', 'name')} no patient: a DICOM study, a "
            "series or a volume is not one, and an image without any would count as a patient of its own",
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
