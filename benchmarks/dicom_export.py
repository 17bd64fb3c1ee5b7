"""Make the folder that a hospital would copy from its picture archive: DICOM files, and a table of labels.

Two kinds of files lie in it, and the table names both:

- *made*: real brain-tumour MRI (JPEG slices of CIPHERWARD_DATA) written as MR files of made-up patients, with several
  slices each. Every identifying tag is filled, and private tags too. The transfer syntaxes take turns; every fifth
  patient is one file of several frames; every seventh is MONOCHROME1. Folders and names are those of a DICOM medium
  (PA000001/ST000001/SE000001/IM000001), without endings.
- *real*: the DICOM files of CIPHERWARD_DATA/dicom and the test files that pydicom is installed with, as they are, of
  many devices. They are no brain MRI: their class is `other`. Broken ones are among them.

Which slice is whose is made up too: the data set names no patients. Slices of one patient follow each other in the
order of their file names.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import random
import shutil
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from coordinator.exchange.image_file import open_image
from crypto.arrays import AnyArray, UInt8Array
from parties.sources.dicom import silence

_MR, _ENHANCED_MR = UID("1.2.840.10008.5.1.4.1.1.4"), UID("1.2.840.10008.5.1.4.1.1.4.1")
#: The transfer syntaxes that the made files take in turn.
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
)
_PLUGINS = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls"}
#: Slices of a patient, in turn; which patients are one file of several frames; which are stored with black as white.
_SLICES, _MULTI_FRAME, _INVERTED = (3, 6, 4, 5, 2), 5, 7
#: A gray value of 8 bits is stored as this many steps of 12 bits.
_STEP = 16
_WHITE = 255 * _STEP
#: The class of the real files.
OTHER = "other"


@dataclass
class Export:
    """A folder of DICOM files and its label file.

    Attributes:
        root: The folder.
        labels: The label file, beside it.
        files: Regular files in the folder.
        made: Facts about the made files; `real` those about the real ones.
    """

    root: Path
    labels: Path
    files: int = 0
    made: dict[str, Any] = field(default_factory=dict)
    real: dict[str, Any] = field(default_factory=dict)


def _read_gray(path: Path) -> UInt8Array:
    with open_image(path) as picture:
        return np.asarray(picture.convert("L"))


def make_export(
    folder: Path, slices: Path, real: Sequence[Path], images: int, seed: int = 0, limit: int | None = None
) -> Export:
    """Make the folder and its table.

    Args:
        folder: An empty folder.
        slices: Folder of pictures: a sub-folder a class, or train, val and test above them.
        real: Folders of real DICOM files.
        images: Slices a class, at most.
        seed: Of what is made up.
        limit: Real files a folder, at most; None for all.
    """
    config.settings.writing_validation_mode = config.IGNORE
    silence()
    export = Export(folder / "DICOM", folder / "labels.csv")
    rows = [*_write_made(export, slices, images, random.Random(seed)), *_copy_real(export, real, limit)]
    (export.root / "README.TXT").write_text("Exported by the archive.\n")
    (export.root / ".DS_Store").write_bytes(bytes(64))
    with export.labels.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    export.files = sum(path.is_file() for path in export.root.rglob("*"))
    return export


def pydicom_files() -> Path:
    """Return the folder of the test files that pydicom is installed with."""
    spec = importlib.util.find_spec("pydicom")
    return Path(str(spec and spec.origin)).parent / "data" / "test_files"


def _write_made(export: Export, slices: Path, images: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Write the made files, and yield path and class of each."""
    number, files, frames, multi = 0, 0, 0, 0
    syntaxes: dict[str, int] = {}
    for name in sorted({path.parent.name for path in slices.rglob("*.jpg")}):
        pictures = iter(sorted(slices.rglob(f"{name}/*.jpg"))[:images])
        while of_patient := list(islice(pictures, _SLICES[number % len(_SLICES)])):
            number += 1
            stack = np.stack([_read_gray(path) for path in of_patient])
            syntax = SYNTAXES[number % len(SYNTAXES)]
            tags = _made_up_tags(number, rng)
            many = number % _MULTI_FRAME == 0
            parts = [stack] if many else list(stack)
            for i, pixels in enumerate(parts, 1):
                path = export.root / f"PA{number:06d}" / "ST000001" / "SE000001" / f"IM{i:06d}"
                data = _data_set(pixels, tags, i, inverted=number % _INVERTED == 0)
                _save(data, path, syntax)
                syntaxes[syntax.name] = syntaxes.get(syntax.name, 0) + 1
                yield str(path.relative_to(export.root)), name
            files, frames, multi = files + len(parts), frames + len(stack), multi + many
    export.made = {
        "files": files,
        "images": frames,
        "patients": number,
        "multi_frame_files": multi,
        "transfer_syntaxes": syntaxes,
    }


def _made_up_tags(number: int, rng: random.Random) -> dict[str, Any]:
    """Return identifying tags of a made-up patient and study. Every value occurs nowhere else."""

    def word() -> str:
        return "".join(rng.choices(string.ascii_uppercase, k=10)).capitalize()

    def day(first: int, years: int) -> str:
        date = datetime.date(first, 1, 1) + datetime.timedelta(days=rng.randrange(365 * years))
        return date.strftime("%Y%m%d")

    root = f"2.25.{rng.getrandbits(100)}"
    studied = day(2004, 20)
    return {
        "PatientName": f"{word()}^{word()}",
        "PatientID": f"MRN{rng.randrange(10**9):09d}",
        "OtherPatientIDs": f"HIS{rng.randrange(10**9):09d}",
        "PatientBirthDate": day(1931, 70),
        "PatientAddress": f"{word()} Street {number}",
        "PatientTelephoneNumbers": f"+49 30 {rng.randrange(10**8):08d}",
        "PatientComments": f"{word()} {word()}",
        "AccessionNumber": f"ACC{rng.randrange(10**8):08d}",
        "StudyID": f"S{rng.randrange(10**8):08d}",
        "StudyDate": studied,
        "SeriesDate": studied,
        "StudyTime": f"{rng.randrange(8, 20):02d}{rng.randrange(3600):04d}.{rng.randrange(10**6):06d}",
        "InstitutionName": f"{word()} Hospital",
        "ReferringPhysicianName": f"{word()}^{word()}",
        "OperatorsName": f"{word()}^{word()}",
        "StationName": word(),
        "DeviceSerialNumber": f"SN{rng.randrange(10**9):09d}",
        "StudyDescription": f"MR brain {word()}",
        "StudyInstanceUID": f"{root}.1",
        "SeriesInstanceUID": f"{root}.2",
        "FrameOfReferenceUID": f"{root}.3",
    }


def _data_set(pixels: AnyArray, tags: dict[str, Any], number: int, *, inverted: bool) -> Dataset:
    """Return an MR image of gray values uint8 [h, w] or [frames, h, w], stored in 12 of 16 bits with a window."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.SOPClassUID = _ENHANCED_MR if pixels.ndim == 3 else _MR
    data.SOPInstanceUID = UID(f"{tags['SeriesInstanceUID']}.{number}")
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Modality, data.Manufacturer = "MR", "None"
    for name, value in tags.items():
        setattr(data, name, value)
    block = data.private_block(0x0029, "MADE UP EXPORT", create=True)
    block.add_new(0x10, "LO", f"private {tags['PatientID']}")
    data.InstanceNumber, data.SamplesPerPixel, data.PixelRepresentation = number, 1, 0
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.WindowCenter, data.WindowWidth = (_WHITE + 1) / 2, _WHITE + 1
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    stored = pixels.astype("<u2") * _STEP
    data.PixelData = (_WHITE - stored if inverted else stored).astype("<u2").tobytes()
    return data


def _save(data: Dataset, path: Path, syntax: UID) -> None:
    """Write a data set in a transfer syntax."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax in _PLUGINS:
        data.compress(syntax, encoding_plugin=_PLUGINS[syntax], generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        data.PixelData = encapsulate([_jpeg_2000(frame, data) for frame in _frames(data)])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    elif syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = "OW"
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(
        path,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        enforce_file_format=True,
    )


def _frames(data: Dataset) -> Iterator[bytes]:
    """Yield the stored pixels of each frame."""
    size = data.Rows * data.Columns * 2
    for start in range(0, len(data.PixelData), size):
        yield data.PixelData[start : start + size]


def _jpeg_2000(frame: bytes, data: Dataset) -> bytes:
    """Return a frame as a JPEG 2000 codestream without loss."""
    from openjpeg.utils import encode_pixel_data

    return bytes(
        encode_pixel_data(
            frame,
            rows=data.Rows,
            columns=data.Columns,
            samples_per_pixel=1,
            pixel_representation=0,
            bits_stored=data.BitsStored,
            photometric_interpretation=data.PhotometricInterpretation,
        )
    )


def _copy_real(export: Export, folders: Sequence[Path], limit: int | None) -> Iterator[tuple[str, str]]:
    """Copy the real files, each once, and yield path and class of those that say how many rows their image has."""
    copied: set[str] = set()
    named = 0
    for folder in folders:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__" not in str(path)]
        for path in paths[:limit]:
            if path.name in copied and path.suffix == ".dcm":  # the one folder holds files of the other
                continue
            copied.add(path.name)
            target = export.root / "OTHER" / f"{len(copied):04d}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            export.real["files"] = export.real.get("files", 0) + 1
            if _says_it_is_an_image(target):
                named += 1
                yield str(target.relative_to(export.root)), OTHER
    export.real["named"] = named


def _says_it_is_an_image(path: Path) -> bool:
    """Return whether a DICOM file can be opened and says how many rows its image has."""
    try:
        return "Rows" in dcmread(path, stop_before_pixels=True)
    except Exception:  # whatever pydicom raises at broken files: an archive would not list them
        return False
