"""DICOM files that hold more pixels than they name: nothing of them is left out in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from parties.sources.picture import UndecodableImageError
from parties.sources.reading import Reading
from parties.sources.walk import look
from tests.support.dicom_files import dicom_data, dicom_file

RAMP = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
FRAMES = np.stack([RAMP, RAMP[::-1], RAMP.T])
MORE = "more frames or larger ones than it names"


@pytest.mark.parametrize(
    "tags",
    [{"NumberOfFrames": None}, {"NumberOfFrames": 1}, {"NumberOfFrames": 2}, {"Columns": 15}, {"Rows": 15}],
    ids=str,
)
def test_native_pixels_beyond_the_named_ones_are_refused(tmp_path: Path, tags: dict[str, int]) -> None:
    """The frames behind the first were left out, and with a wrong number of columns the picture was noise."""
    dicom_file(tmp_path / "x.dcm", FRAMES, **tags)
    with pytest.raises(UndecodableImageError, match=MORE):
        look(tmp_path, "x.dcm", Reading())


def test_a_column_too_many_is_told_from_bytes_that_fill_up(tmp_path: Path) -> None:
    wide = np.ones((16, 17), np.int16)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        ds = dicom_data(wide, Columns=16)
        ds["PixelData"].VR, ds.file_meta.TransferSyntaxUID = "OW", syntax
        ds.save_as(tmp_path / f"{syntax.name}.dcm", enforce_file_format=True)
        with pytest.raises(UndecodableImageError, match=MORE):
            look(tmp_path, f"{syntax.name}.dcm", Reading())
    dicom_file(tmp_path / "x.dcm", FRAMES, PixelData=dicom_data(FRAMES).PixelData + bytes(32))
    assert look(tmp_path, "x.dcm", Reading()).count == 3


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless], ids=["JPEG-LS", "RLE"])
@pytest.mark.parametrize("has_table", [True, False])
def test_encapsulated_frames_beyond_the_named_ones_are_refused(
    tmp_path: Path, syntax: str, has_table: bool
) -> None:
    ds = dicom_data(FRAMES)
    ds.compress(syntax, generate_instance_uid=False)
    codes = list(generate_frames(ds.PixelData, number_of_frames=3))
    for named in (1, 2, 3):
        for fragments in (1, 3) if syntax == JPEGLSLossless else (1,):
            ds.PixelData = encapsulate(codes, fragments_per_frame=fragments, has_bot=has_table)
            ds.NumberOfFrames = named
            name = f"{named} {fragments}.dcm"
            ds.save_as(tmp_path / name, enforce_file_format=True)
            if named == 3:
                assert look(tmp_path, name, Reading()).count == 3
                continue
            with pytest.raises(UndecodableImageError, match=MORE):
                look(tmp_path, name, Reading())
