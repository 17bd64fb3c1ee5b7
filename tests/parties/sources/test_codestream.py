"""The code of a compressed frame against the tags of its file: where both say something else, nothing is guessed."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from crypto.arrays import AnyArray
from parties.sources.picture import UndecodableImageError, read_picture
from parties.sources.reading import Reading
from tests.support.dicom_files import dicom_data, scan

Y, X = np.mgrid[:64, :64]
RGB = np.stack([X * 4, Y * 4, (X + Y) * 2], 2).astype(np.uint8)


def jpeg2000(path: Path, pixels: AnyArray, tags: dict[str, Any], **how: Any) -> Path:
    """Write a DICOM file of pixels in JPEG 2000, with these tags whatever the code says, and return its path."""
    encode: Any = encode_array
    code = encode(np.ascontiguousarray(pixels), photometric_interpretation=1 + (pixels.ndim == 2), **how)
    return compressed(path, bytes(code), JPEG2000Lossless, pixels, tags)


def compressed(path: Path, code: bytes, syntax: UID, pixels: AnyArray, tags: dict[str, Any]) -> Path:
    """Write a DICOM file of a code, with the size of pixels and these tags, and return its path."""
    ds = dicom_data(pixels if pixels.ndim == 2 else pixels[..., 0], **tags)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([code])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    return path


def test_numbers_that_are_signed_in_the_code_alone_are_refused(tmp_path: Path) -> None:
    """Values below zero were taken for large ones. In the reverse case the bits are meant, as many files are."""
    pixels, window = scan(0, 64), Reading("-300,300")
    expected = read_picture(jpeg2000(tmp_path / "s.dcm", pixels, {}), 64, 1, window, 0)
    reverse = jpeg2000(tmp_path / "u.dcm", pixels.view(np.uint16), {"PixelRepresentation": 1})
    assert np.array_equal(read_picture(reverse, 64, 1, window, 0), expected)
    with pytest.raises(UndecodableImageError, match="compressed pixels are signed"):
        read_picture(jpeg2000(tmp_path / "x.dcm", pixels, {"PixelRepresentation": 0}), 64, 1, window, 0)


def test_colours_are_not_transformed_twice(tmp_path: Path) -> None:
    ycc = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    for form, pixels, in_code in (
        ("YBR_RCT", RGB, True),
        ("RGB", RGB, False),
        ("RGB", RGB, True),
        ("YBR_FULL", ycc, False),
    ):
        tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": form}
        path = jpeg2000(tmp_path / "c.dcm", pixels, tags, use_mct=in_code)
        assert np.abs(read_picture(path, 64, 3, Reading(), 0).astype(int) - RGB).max() <= 2, (form, in_code)
    with pytest.raises(UndecodableImageError, match="compressed colours are transformed"):
        read_picture(jpeg2000(tmp_path / "x.dcm", ycc, tags, use_mct=True), 64, 3, Reading(), 0)


def jpeg(pixels: AnyArray, marker: bytes) -> bytes:
    """Return a code of JPEG, with a marker instead of JFIF's."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, subsampling=0)
    code = stream.getvalue()
    return code[:2] + marker + code[code.index(b"\xff\xdb") :]


@pytest.mark.parametrize("marker", [b"", b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\1"], ids=["bare", "adobe"])
def test_colours_of_a_jpeg_are_transformed_once_whatever_marker_it_has(
    tmp_path: Path, marker: bytes
) -> None:
    """At Adobe's marker Pillow undoes the transform, and pydicom undid it once more."""
    for form in ("YBR_FULL_422", "YBR_FULL"):
        tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": form}
        path = compressed(tmp_path / "c.dcm", jpeg(RGB, marker), JPEGBaseline8Bit, RGB, tags)
        assert np.abs(read_picture(path, 64, 3, Reading(), 0).astype(int) - RGB).max() <= 6, form


def test_planes_of_colours_that_only_the_tags_name_are_no_planes(tmp_path: Path) -> None:
    """A compressed frame is decoded pixel by pixel. Cut into three planes, it was noise."""
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 1, "PhotometricInterpretation": "RGB"}
    path = jpeg2000(tmp_path / "2000.dcm", RGB, tags, use_mct=True)
    assert np.array_equal(read_picture(path, 64, 3, Reading(), 0), RGB)
    tags["PhotometricInterpretation"] = "YBR_FULL_422"
    path = compressed(tmp_path / "jpeg.dcm", jpeg(RGB, b""), JPEGBaseline8Bit, RGB, tags)
    assert np.abs(read_picture(path, 64, 3, Reading(), 0).astype(int) - RGB).max() <= 6


def test_a_jpeg_that_ends_too_early_is_refused_though_its_end_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = jpeg(RGB[..., 0], b"")
    whole = compressed(tmp_path / "w.dcm", code, JPEGBaseline8Bit, RGB[..., 0], {})
    assert np.abs(read_picture(whole, 64, 1, Reading(), 0)[..., 0].astype(int) - RGB[..., 0]).max() <= 6
    cut = compressed(tmp_path / "c.dcm", code[:-99] + b"\xff\xd9", JPEGBaseline8Bit, RGB[..., 0], {})
    with pytest.raises(UndecodableImageError, match="cut off, or cannot be decoded"):
        read_picture(cut, 64, 1, Reading(), 0)

    def unknown_sampling(*_: object) -> None:
        raise KeyError(6)  # a chroma sampling that the decoder does not know

    expected = read_picture(whole, 64, 1, Reading(), 0)
    monkeypatch.setattr("simplejpeg.decode_jpeg", unknown_sampling)
    assert np.array_equal(read_picture(whole, 64, 1, Reading(), 0), expected)


def test_a_progressive_jpeg_that_lacks_scans_is_refused(tmp_path: Path) -> None:
    """It was read as a blurred picture, as no decoder warns of it."""
    stream = io.BytesIO()
    Image.fromarray(RGB[..., 0]).save(stream, "JPEG", quality=95, progressive=True)
    code = stream.getvalue()
    whole = compressed(tmp_path / "w.dcm", code, JPEGBaseline8Bit, RGB[..., 0], {})
    assert np.abs(read_picture(whole, 64, 1, Reading(), 0)[..., 0].astype(int) - RGB[..., 0]).max() <= 6
    last = code.rindex(b"\xff\xda")
    end = code.rfind(b"\xff\xc4", code.rindex(b"\xff\xda", 0, last), last)  # its table, if it has one
    cut = code[: end if end > 0 else last] + b"\xff\xd9"
    path = compressed(tmp_path / "c.dcm", cut, JPEGBaseline8Bit, RGB[..., 0], {})
    with pytest.raises(UndecodableImageError, match="cut off, or cannot be decoded"):
        read_picture(path, 64, 1, Reading(), 0)


def test_a_panic_of_a_decoder_is_one_clear_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At a segment that goes on beyond its pixels the decoder of RLE panics, which no handler of errors catches."""
    segment = bytes([129, 7]) * 2  # 256 pixels
    for name, segments in (("whole", (segment, segment)), ("long", (segment + bytes([254, 9]), segment))):
        offsets = (2, 64, 64 + len(segments[0]), *[0] * 13)
        ds = dicom_data(np.zeros((16, 16), np.uint16))
        ds.file_meta.TransferSyntaxUID = RLELossless
        ds.PixelData = encapsulate([struct.pack("<16I", *offsets) + b"".join(segments)])
        ds["PixelData"].is_undefined_length = True
        ds.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    assert read_picture(tmp_path / "whole.dcm", 16, 1, Reading("full"), 0).any()
    with pytest.raises(UndecodableImageError, match="cut off, or cannot be decoded"):
        read_picture(tmp_path / "long.dcm", 16, 1, Reading("full"), 0)
    assert capfd.readouterr().err == ""
