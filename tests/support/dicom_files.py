"""DICOM files of every kind that the tests need, written by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from crypto.arrays import AnyArray

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def dicom_data(pixels: AnyArray, **tags: Any) -> Dataset:
    """Return a DICOM image of pixels [h, w] or [frames, h, w], with more tags or other values. None removes a tag."""
    config.settings.writing_validation_mode = config.IGNORE
    config.settings.reading_validation_mode = config.IGNORE
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(CT_STORAGE)
    ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = UID(CT_STORAGE), ds.file_meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PatientID, ds.PhotometricInterpretation = "CT", "", "MONOCHROME2"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, int(pixels.dtype.kind == "i")
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def dicom_file(path: Path, pixels: AnyArray, **tags: Any) -> Path:
    """Write such an image as a DICOM file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom_data(pixels, **tags).save_as(path, enforce_file_format=True)
    return path


def lossless_jpeg(source: Path, path: Path, predictor: str) -> Path:
    """Compress a DICOM file by lossless JPEG with the predictor `first` or `any`, and return the new file's path."""
    import gdcm

    kinds = gdcm.TransferSyntax
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    kind = kinds.JPEGLosslessProcess14_1 if predictor == "first" else kinds.JPEGLosslessProcess14
    change.SetTransferSyntax(kinds(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def scan(seed: int, size: int = 32, kind: int = 0) -> NDArray[np.int16]:
    """Return a noisy wave in Hounsfield units, int16 [size, size]."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:size, :size]
    wave = 300 * np.sin((x if kind else y) / 3 + rng.uniform(0, 6))
    pixels: NDArray[np.int16] = (wave + rng.normal(0, 40, (size, size))).astype(np.int16)
    return pixels
