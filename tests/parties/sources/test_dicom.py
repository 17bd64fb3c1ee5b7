"""DICOM: what the pixels become under the rules of the standard, what is refused, and that no tag leaks."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.filewriter
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from crypto.arrays import UInt8Array
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sources import dicom
from parties.sources.catalog import Selection
from parties.sources.labels import read_labels
from parties.sources.layout import read_layout
from parties.sources.picture import UndecodableImageError, read_picture
from parties.sources.reading import Reading
from parties.sources.walk import look
from tests.support.command_runs import Party, run_here
from tests.support.dicom_files import dicom_data, dicom_file, lossless_jpeg, scan
from tests.support.paths import ROOT

RAMP = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)


def show(path: Path, **how: Any) -> UInt8Array:
    """Return a DICOM file's first frame at its own size, uint8 [h, w]."""
    return read_picture(path, 16, 1, Reading(**how), 0)[..., 0]


def test_window_of_the_file_or_stated_or_asked_for(tmp_path: Path) -> None:
    bare = dicom_file(tmp_path / "bare.dcm", RAMP)
    with pytest.raises(UndecodableImageError, match="--window auto, full or LOW,HIGH"):
        show(bare)
    expected = np.rint((RAMP.astype(float) - -100).clip(0, 200) * 255 / 200)
    assert np.abs(show(bare, window="-100,100") - expected).max() <= 1
    assert set(show(bare, window="full").ravel().tolist()) == {127, 128}  # 256 of 65,536 values
    own = dicom_file(tmp_path / "own.dcm", RAMP, WindowCenter=0.5, WindowWidth=201)
    assert np.abs(show(own).astype(int) - expected).max() <= 1  # LINEAR: from c - 0.5 - (w - 1) / 2
    assert np.array_equal(show(own, window="-100,100"), show(bare, window="-100,100"))
    several = dicom_file(tmp_path / "several.dcm", RAMP, WindowCenter=[0.5, 40], WindowWidth=[201, 400])
    assert np.array_equal(show(several), show(own))
    sigmoid = dicom_file(tmp_path / "s.dcm", RAMP, WindowCenter=0, WindowWidth=50, VOILUTFunction="SIGMOID")
    assert np.abs(show(sigmoid) - 255 / (1 + np.exp(-4 * RAMP / 50.0))).max() <= 1


def test_rescale_monochrome1_and_padding(tmp_path: Path) -> None:
    stored = (RAMP + 1000).astype(np.int16)
    ct = dicom_file(tmp_path / "ct.dcm", stored, RescaleSlope=2, RescaleIntercept=-2000)
    plain = dicom_file(tmp_path / "plain.dcm", (2 * RAMP).astype(np.int16))
    assert np.array_equal(show(ct, window="-200,200"), show(plain, window="-200,200"))
    inverse = dicom_file(tmp_path / "i.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(
        show(inverse, window="-99,99"), 255 - show(dicom_file(tmp_path / "n.dcm", RAMP), window="-99,99")
    )
    padded = RAMP.copy()
    padded[0] = -2000
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        path = dicom_file(
            tmp_path / f"{kind}.dcm", padded, PixelPaddingValue=-2000, PhotometricInterpretation=kind
        )
        picture = show(path, window="auto")
        assert (picture[0] == 0).all()  # black in both, and outside of the percentiles
        assert picture[1:].max() > 250 and np.ptp(picture[1:]) > 250
    unsigned = padded.view(np.uint16)
    ds = dicom_data(unsigned, RescaleIntercept=-32768)
    ds.add_new(0x00280120, "SS", -2000)  # in the other type than the pixels
    ds.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    assert not show(tmp_path / "other.dcm", window="-32768,-32767")[0].any()


def test_voi_and_modality_luts(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.add_new(0x00283006, "US", list(range(255, -1, -1)))
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    voi = dicom_file(tmp_path / "voi.dcm", gray, VOILUTSequence=Sequence([item]))
    assert np.array_equal(show(voi), 255 - gray)
    assert np.array_equal(show(dicom_file(tmp_path / "g.dcm", gray)), gray)  # 8 bits need no window
    item.ModalityLUTType = "US"
    modality = dicom_file(
        tmp_path / "m.dcm", gray, ModalityLUTSequence=Sequence([item]), WindowCenter=128, WindowWidth=256
    )
    assert np.abs(show(modality).astype(int) - (255 - gray)).max() <= 1


def test_frames_have_their_own_values(tmp_path: Path) -> None:
    frames = np.stack([RAMP, RAMP + 50, RAMP * 2]).astype(np.int16)
    groups = []
    for slope in (1, 2, 4):
        group, values, window = Dataset(), Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = 0, 400 * slope
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = (
            Sequence([values]),
            Sequence([window]),
        )
        groups.append(group)
    path = dicom_file(tmp_path / "mf.dcm", frames, PerFrameFunctionalGroupsSequence=Sequence(groups))
    assert look(tmp_path, "mf.dcm", Reading()).count == 3
    for i, frame in enumerate(frames):
        expected = (frame.astype(float) + 200.5).clip(0, 400) * 255 / 400
        assert np.abs(read_picture(path, 16, 1, Reading(), i)[..., 0] - expected).max() <= 2
    with pytest.raises(UndecodableImageError, match="frame 3 of 3"):
        read_picture(path, 16, 1, Reading(), 3)
    fewer = dicom_file(tmp_path / "f.dcm", frames, PerFrameFunctionalGroupsSequence=Sequence(groups[:2]))
    with pytest.raises(UndecodableImageError, match="of 2 of its 3 frames"):  # the third had another slope
        read_picture(fewer, 16, 1, Reading("0,9"), 2)
    # Under the name of a picture, frames would be lost without a word.
    path.rename(tmp_path / "mf.png")
    with pytest.raises(UndecodableImageError, match="3 pictures where one is expected"):
        read_picture(tmp_path / "mf.png", 16, 1, Reading())


def test_colour_and_palette(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    tags = {
        "PhotometricInterpretation": "RGB",
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "Rows": 16,
        "Columns": 16,
    }
    one = dicom_file(tmp_path / "rgb.dcm", rgb, NumberOfFrames=None, **tags)
    assert np.array_equal(read_picture(one, 16, 3), rgb)
    planar = tags | {"PlanarConfiguration": 1, "PixelData": rgb.transpose(2, 0, 1).tobytes()}
    assert np.array_equal(
        read_picture(dicom_file(tmp_path / "p.dcm", rgb, NumberOfFrames=None, **planar), 16, 3), rgb
    )
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette: dict[str, Any] = {}
    for i, colour in enumerate(("Red", "Green", "Blue")):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        values = (np.arange(256, dtype=np.uint16) * (i + 1) % 256) << 8
        palette[f"{colour}PaletteColorLookupTableData"] = values.tobytes()
    path = dicom_file(tmp_path / "pal.dcm", index, PhotometricInterpretation="PALETTE COLOR", **palette)
    expected = np.stack([index.astype(int) * (i + 1) % 256 for i in range(3)], 2)
    assert np.array_equal(read_picture(path, 16, 3), expected)


def test_transfer_syntaxes_give_the_same_pixels(tmp_path: Path) -> None:
    pixels = scan(1, 16)
    expected = show(dicom_file(tmp_path / "plain.dcm", pixels), window="-300,300")
    for uid in (RLELossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian):
        ds = dicom_data(pixels)
        if uid == DeflatedExplicitVRLittleEndian:
            ds.file_meta.TransferSyntaxUID = uid
        else:
            ds.compress(uid, encoding_plugin={RLELossless: "pydicom"}.get(uid, ""))
        ds.save_as(tmp_path / "c.dcm", enforce_file_format=True)
        assert np.array_equal(show(tmp_path / "c.dcm", window="-300,300"), expected), uid
    for name, same in (
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
    ):
        one, other = (
            read_picture(Path(str(get_testdata_file(n))), 64, 1, Reading(), 0) for n in (name, same)
        )
        assert np.array_equal(one, other), name


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        ("RescaleSlope", "NaN", "rescale slope"),
        ("RescaleSlope", "0", "rescale slope"),
        ("RescaleIntercept", "inf", "rescale slope"),
        ("WindowCenter", "NaN", "window is no number"),
        ("WindowWidth", "inf", "window is no number"),
    ],
)
def test_numbers_that_would_make_every_pixel_black_are_refused(
    tmp_path: Path, tag: str, value: str, reason: str
) -> None:
    tags = {"RescaleSlope": "1.0", "RescaleIntercept": "0.0", "WindowCenter": "10.0", "WindowWidth": "99.0"}
    path = dicom_file(tmp_path / "x.dcm", RAMP, **tags)
    assert np.ptp(show(path)) > 0
    mark = tags[tag].encode() + b" " * (len(tags[tag]) % 2)
    at = path.read_bytes().index(mark, path.read_bytes().index(b"DICM"))
    data = bytearray(path.read_bytes())
    data[at : at + len(mark)] = value.encode().ljust(len(mark))
    path.write_bytes(data)
    with pytest.raises(UndecodableImageError, match=reason):
        show(path)


def test_a_data_set_in_the_other_form_than_the_file_names_is_read(tmp_path: Path) -> None:
    pixels = scan(1, 16)
    expected = show(dicom_file(tmp_path / "plain.dcm", pixels), window="-300,300")
    syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # implicit, explicit
    for named, other in (syntaxes, syntaxes[::-1]):
        ds = dicom_data(pixels)
        ds.file_meta.TransferSyntaxUID = UID(named)
        header = DicomBytesIO()
        pydicom.filewriter.write_file_meta_info(header, ds.file_meta)
        body = DicomBytesIO()
        body.is_little_endian, body.is_implicit_VR = True, other == syntaxes[0]
        pydicom.filewriter.write_dataset(body, ds)
        (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM" + header.getvalue() + body.getvalue())
        assert np.array_equal(show(tmp_path / "x.dcm", window="-300,300"), expected), named
    colour = Path(str(get_testdata_file("SC_rgb_jpeg.dcm")))  # JPEG whose pixels' element names no type
    assert np.array_equal(read_picture(colour, 256, 3), pydicom.dcmread(colour).pixel_array)


@pytest.mark.parametrize("predictor", ["first", "any"])
@pytest.mark.parametrize(
    ("bits", "kind"), [(8, "uint8"), (12, "uint16"), (12, "int16"), (16, "uint16"), (16, "int16")]
)
def test_lossless_jpeg_gives_the_stored_pixels(
    bits: int, kind: str, predictor: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    y, x = np.mgrid[:16, :16]
    lowest, step = (-(2 ** (bits - 1)) if kind == "int16" else 0), 2 ** (bits - 5)
    pixels = (lowest + x * step + y * step // 2).astype(kind)
    plain = dicom_file(tmp_path / "plain.dcm", pixels, BitsStored=bits, HighBit=bits - 1)
    window = f"{lowest},{lowest + 2**bits}"
    for frames in (1, 2):
        source = plain
        if frames == 2:  # a code for each frame, which all have to be found
            both = np.stack([pixels, pixels[::-1]])
            source = dicom_file(tmp_path / "two.dcm", both, BitsStored=bits, HighBit=bits - 1)
        path = lossless_jpeg(source, tmp_path / f"{frames}.dcm", predictor)
        for frame in range(frames):
            one, other = (read_picture(f, 16, 1, Reading(window=window), frame) for f in (path, source))
            assert np.array_equal(one, other) and np.ptp(one) > 100, (frames, frame)
    assert capfd.readouterr() == ("", "")  # GDCM writes to the terminal by itself


def test_jpeg_of_12_bits_and_in_colour(capfd: pytest.CaptureFixture[str]) -> None:
    path = Path(str(get_testdata_file("JPGExtended.dcm")))  # 1024×256, without a window
    values = read_picture(path, 1024, 1, Reading(window="0,255"), 0)[:, 2::4, 0]
    # pydicom's own tests know two of the stored values: 244 and 95. The rows of 256 pixels are stretched to 1024.
    assert abs(int(values[420, 140]) - 244) <= 8 and abs(int(values[230, 120]) - 95) <= 8
    assert capfd.readouterr() == ("", "")
    colour = Path(str(get_testdata_file("SC_rgb_jpeg_gdcm.dcm")))
    plain = Path(str(get_testdata_file("SC_rgb_rle.dcm")))
    one, other = (read_picture(path, 100, 3, Reading(), 0) for path in (colour, plain))
    assert np.array_equal(one, other)


def test_lossless_jpeg_that_is_cut_off_or_another_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    plain = dicom_file(tmp_path / "plain.dcm", pixels, BitsStored=12, HighBit=11)
    ds = pydicom.dcmread(lossless_jpeg(plain, tmp_path / "whole.dcm", "first"))
    code = next(generate_frames(ds.PixelData, number_of_frames=1))
    other = bytearray(code)
    at = other.find(b"\xff\xc3")
    other[at + 5 : at + 7] = (128).to_bytes(2, "big")  # another height than the tags'
    for name, wrong in (
        ("cut", code[: len(code) // 2]),
        ("cut, with an end", code[: len(code) // 2] + b"\xff\xd9"),
        ("other", bytes(other)),
        ("empty", b"\xff\xd8\xff\xd9"),
        ("noise", code[:100] + bytes(range(256)) * 4 + b"\xff\xd9"),
    ):
        ds.PixelData = encapsulate([wrong])
        ds["PixelData"].is_undefined_length = True
        ds.save_as(tmp_path / "bad.dcm", enforce_file_format=True)
        with pytest.raises(UndecodableImageError):
            print(name, read_picture(tmp_path / "bad.dcm", 64, 1, Reading(window="full"), 0).std())
    assert capfd.readouterr() == ("", "")


def test_every_listed_transfer_syntax_has_its_decoder_and_is_documented() -> None:
    from pydicom.pixels.decoders.base import get_decoder

    from parties.sources import frame_decoders

    page = (ROOT / "docs" / "images.md").read_text()
    for uid, (name, plugin) in dicom.TRANSFER_SYNTAXES.items():
        assert name in page, name
        if plugin == frame_decoders.NAME:
            frame_decoders.register(uid)
        if plugin:
            assert plugin in get_decoder(uid).available_plugins, uid


def test_what_is_no_image_is_refused_with_its_reason(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("burned", {"BurnedInAnnotation": "YES"}, "--allow-burned-in"),
        ("true", {"BurnedInAnnotation": "TRUE"}, "--allow-burned-in"),
        ("unknown", {"BurnedInAnnotation": "UNKNOWN"}, "--allow-burned-in"),
        ("report", {"PixelData": None, "Rows": None}, "no pixels"),
        ("seg", {"Modality": "SEG"}, "segmentation"),
        ("mask", {"SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.66.4")}, "segmentation"),
        (
            "map",
            {"SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.30"), "Modality": "MR"},
            "a map, not an image",
        ),
        ("form", {"PhotometricInterpretation": "CMYK"}, "colours are in a form"),
        ("cut", {"PixelData": b"12"}, "cut off|fewer bytes"),
        ("sign", {"PixelRepresentation": None}, "its data set lacks PixelRepresentation"),
        ("bits", {"BitsStored": None, "SamplesPerPixel": None}, "lacks SamplesPerPixel and BitsStored"),
        ("colour", {"PhotometricInterpretation": None}, "lacks PhotometricInterpretation"),
        ("rows", {"Rows": None}, "its data set lacks Rows"),
        ("columns", {"Columns": 0}, "its data set lacks Columns"),
        ("planes", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "lacks PlanarConfiguration"),
    ]
    for name, tags, message in cases:
        with pytest.raises(UndecodableImageError, match=message):
            show(dicom_file(tmp_path / f"{name}.dcm", RAMP, **tags), window="auto")
    assert show(tmp_path / "burned.dcm", window="auto", allow_burned_in=True).shape == (16, 16)
    ds = dicom_data(RAMP)
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")
    ds.PixelData = encapsulate([b"\xff\xd8"])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(tmp_path / "video.dcm", enforce_file_format=True)
    with pytest.raises(UndecodableImageError, match="not decoded: MPEG2"):
        show(tmp_path / "video.dcm")
    whole = dicom_file(tmp_path / "x.dcm", RAMP, WindowCenter=0, WindowWidth=200).read_bytes()
    (tmp_path / "bare.dcm").write_bytes(whole[132:])
    with pytest.raises(UndecodableImageError, match="no DICM"):
        look(tmp_path, "bare.dcm", Reading())
    for name, start in (
        ("IM3", 128),
        ("IM4", 132),
    ):  # with the header's tags, and not what stands before them
        (tmp_path / name).write_bytes(whole[start:])
        with pytest.raises(UndecodableImageError, match="a data set without file header"):
            look(tmp_path, name, Reading())
    for name, implicit in (("IM1", True), ("IM2", False)):  # as old archives write and name them
        ds = Dataset()
        ds.SOPClassUID, ds.Modality, ds.PixelData = UID("1.2"), "CT", bytes(10)
        ds["PixelData"].VR = "OW"
        pydicom.dcmwrite(tmp_path / name, ds, implicit_vr=implicit, little_endian=True)
        with pytest.raises(UndecodableImageError, match="a data set without file header"):
            look(tmp_path, name, Reading())
    pydicom.dcmwrite(tmp_path / "IM5", ds, implicit_vr=False, little_endian=False)
    with pytest.raises(UndecodableImageError, match="a data set without file header"):
        look(tmp_path, "IM5", Reading())


def test_images_that_often_show_names_are_told_by_modality_and_by_class(tmp_path: Path) -> None:
    """A dose sheet among the images of a CT is a secondary capture of the modality CT."""
    ct, capture, ultrasound = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "7.2", "6.1"))
    cases = [
        ({"Modality": "CT", "SOPClassUID": ct}, False),
        ({"Modality": "US", "SOPClassUID": ct}, True),
        ({"Modality": "CT", "SOPClassUID": capture}, True),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, True),
        ({"Modality": "", "SOPClassUID": ultrasound}, True),
        ({"Modality": "CT", "SOPClassUID": capture, "BurnedInAnnotation": "NO"}, False),
        ({"Modality": "CT", "SOPClassUID": capture, "BurnedInAnnotation": "no "}, False),
    ]
    for i, (tags, expected) in enumerate(cases):
        dicom_file(tmp_path / f"{i}.dcm", RAMP, **tags)
        assert look(tmp_path, f"{i}.dcm", Reading()).may_show_names is expected, tags


def test_images_in_which_a_patient_can_be_recognised_are_told(tmp_path: Path) -> None:
    values = {"a": (None, "NO", ""), "b": ("YES", "Yes ", "NO")}
    for kind, cells in values.items():
        for i, value in enumerate(cells):
            tags = {} if value is None else {"RecognizableVisualFeatures": value}
            dicom_file(tmp_path / "images" / kind / f"{i}.dcm", RAMP, **tags)
    (tmp_path / "l.csv").write_text("path,label\na/0.dcm,a\nb/0.dcm,b\n")
    for catalog, count in (
        (read_layout(tmp_path / "images", Selection()), "2 DICOM files say"),
        (read_labels(tmp_path / "images", Selection(labels=str(tmp_path / "l.csv"))), "1 DICOM file says"),
    ):
        ((text, hint),) = catalog.doubts
        assert text.startswith(f"{count} that the patient can be recognised in the picture") and hint


def test_bombs_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    small = np.zeros((4, 4), np.uint8)
    bombs = [
        dicom_file(tmp_path / "a.dcm", small, Rows=65535, Columns=65535, NumberOfFrames=65535),
        dicom_file(tmp_path / "b.dcm", small, NumberOfFrames=2**31 - 1),
        dicom_file(tmp_path / "c.dcm", small, Rows=9000, Columns=9000),
    ]
    # A JPEG 2000 code that names 2^31 pixels a side, in a file that names 16.
    ds = dicom_data(RAMP)
    code = (
        b"\xff\x4f\xff\x51"
        + struct.pack(">HHIIIIIIII", 41, 0, 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0)
        + bytes(50)
    )
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(code)) + code
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90")
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(tmp_path / "d.dcm", enforce_file_format=True)
    bombs.append(tmp_path / "d.dcm")
    dicom.silence()
    show(dicom_file(tmp_path / "warm.dcm", np.zeros((16, 16), np.uint8)))
    for bomb in bombs:
        tracemalloc.start()
        with pytest.raises(UndecodableImageError):
            show(bomb, window="auto")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22, bomb
        tracemalloc.stop()


def dicom_meta_only(ds: Dataset) -> bytes:
    """Return a file's preamble and file meta information."""
    write: Any = pydicom.filewriter.write_file_meta_info
    buffer = io.BytesIO()
    write(buffer, ds.file_meta, enforce_standard=True)
    return bytes(128) + b"DICM" + buffer.getvalue()


def test_a_palette_that_unfolds_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    """Six bytes name 65,535 numbers: a file of 4 KB took 270 MB and 5 s. A palette of 256 numbers is read."""
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)

    def palette(name: str, *segments: tuple[int, ...]) -> Path:
        data = b"".join(struct.pack(f"<{len(segment)}H", *segment) for segment in segments)
        tags: dict[str, Any] = {}
        for colour in ("Red", "Green", "Blue"):
            tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            tags[f"Segmented{colour}PaletteColorLookupTableData"] = data
        return dicom_file(tmp_path / name, index, PhotometricInterpretation="PALETTE COLOR", **tags)

    whole = read_picture(palette("a.dcm", (0, 1, 0), (1, 255, 0xFF00)), 16, 3)
    assert np.array_equal(whole, np.repeat(index[..., None], 3, 2))
    linear = (1, 65535, 65535)
    repeated = (2, 65535, 0, 0)
    tracemalloc.start()
    bombs: dict[str, list[tuple[int, ...]]] = {"b.dcm": [linear] * 40, "c.dcm": [repeated] * 40}
    for name, bomb in bombs.items():
        with pytest.raises(UndecodableImageError, match="its palette is larger than one can be"):
            read_picture(palette(name, (0, 1, 0), *bomb), 16, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = dicom_data(RAMP)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflater = zlib.compressobj(9, wbits=-15)
    monkeypatch.setattr(dicom, "MAX_INFLATED", 1 << 20)
    (tmp_path / "e.dcm").write_bytes(
        dicom_meta_only(ds) + deflater.compress(bytes(1 << 24)) + deflater.flush()
    )
    with pytest.raises(UndecodableImageError, match="larger than 1 MiB"):
        show(tmp_path / "e.dcm")


# ---- nothing of a tag leaks ----------------------------------------------------------------------------------------

#: Attributes of the basic profile (PS3.15 table E.1-1) that must be among the planted ones, as a check of the list.
PROFILE = (
    "AccessionNumber", "AcquisitionDate", "AdmissionID", "AdmittingDiagnosesDescription",
    "AffectedSOPInstanceUID", "Allergies", "BranchOfService", "CassetteID", "CountryOfResidence",
    "CurrentPatientLocation", "DetectorID", "DeviceSerialNumber", "DeviceUID", "EthnicGroup",
    "FillerOrderNumberImagingServiceRequest", "ImageComments", "InstitutionAddress", "InstitutionName",
    "InsurancePlanIdentification", "IssuerOfPatientID", "MedicalAlerts", "MedicalRecordLocator",
    "MilitaryRank", "NameOfPhysiciansReadingStudy", "Occupation", "OperatorsName", "OtherPatientIDs",
    "OtherPatientNames", "PatientAddress", "PatientAge", "PatientBirthDate", "PatientBirthName",
    "PatientComments", "PatientID", "PatientMotherBirthName", "PatientName",
    "PatientReligiousPreference", "PatientSex", "PatientSize", "PatientTelephoneNumbers",
    "PatientWeight", "PerformedProcedureStepDescription", "PerformingPhysicianName", "PersonAddress",
    "PhysiciansOfRecord", "ProtocolName", "ReferringPhysicianName", "RequestingPhysician",
    "ResponsiblePerson", "SeriesDescription", "SeriesInstanceUID", "SmokingStatus", "SOPInstanceUID",
    "StationName", "StudyDate", "StudyDescription", "StudyID", "StudyInstanceUID", "StudyTime",
    "TextComments", "VisitComments",
)  # fmt: skip
#: Tags whose value decides how the pixels are read; every other tag of the dictionary is planted.
_OF_PIXELS = {
    0x00080016,
    0x00080018,
    0x00080060,
    0x00280301,
    *(tag for tag in DicomDictionary if tag >> 16 == 0x28),
}


#: Every marker. Two letters alone occur in ciphertext, and digits in digests.
MARKER = re.compile(
    rb"ZQ(\d{5}P|PRIVATE|INNER|PREAMBLE|FORM|VALUE|CREATOR)|1\.2\.7391\.|(?<![0-9a-f])7391\d{4}(?![0-9a-f])"
)


def plant(ds: Dataset, patient: int) -> None:
    """Write a marker into every text tag of DICOM's dictionary, private tags and a sequence."""
    for number, (tag, (vr, _, _, _, keyword)) in enumerate(sorted(DicomDictionary.items())):
        if tag in _OF_PIXELS or tag >> 16 < 8 or tag >> 16 >= 0x5000 or not keyword:
            continue
        if vr in ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"):
            text = f"ZQ{number:05d}P{patient}"
        elif vr == "UI":
            text = f"1.2.7391.{number}.{patient}"
        elif vr in ("DA", "TM", "DT", "IS", "DS"):
            text = f"7391{number:04d}"
        else:
            continue
        ds.add_new(tag, vr, text)
    block = ds.private_block(0x0029, "ZQCREATOR", create=True)
    block.add_new(1, "LO", f"ZQPRIVATE{patient}")
    inner = Dataset()
    inner.PatientName = f"ZQINNER{patient}"
    ds.OtherPatientIDsSequence = Sequence([inner])
    ds.preamble = b"ZQPREAMBLE" + bytes(118)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Return class folders of DICOM files with planted tags: good ones, and one of each way to fail."""
    root = tmp_path / "images"
    for kind, name in enumerate(("level", "upright")):
        for patient in range(8):
            ds = dicom_data(scan(patient, kind=kind), WindowCenter=0, WindowWidth=600)
            plant(ds, 10 * kind + patient)
            (root / name).mkdir(parents=True, exist_ok=True)
            ds.save_as(root / name / f"{patient}", enforce_file_format=True)  # no ending
    bad: dict[str, dict[str, Any]] = {
        "burned": {"BurnedInAnnotation": "YES"},
        "form": {"PhotometricInterpretation": "ZQFORM"},
        "cut": {"PixelData": b"1"},
    }
    for file, tags in bad.items():
        ds = dicom_data(scan(1), WindowCenter=0, WindowWidth=600, **tags)
        plant(ds, 99)
        ds.save_as(root / "level" / f"{file}.dcm", enforce_file_format=True)
    broken = (root / "level" / "0").read_bytes()
    (root / "level" / "short.dcm").write_bytes(broken[: len(broken) // 2])
    syntax = dicom_data(scan(1))
    syntax.file_meta.TransferSyntaxUID = UID("1.2.7391.1.2")
    plant(syntax, 98)
    syntax.save_as(
        root / "level" / "syntax.dcm", implicit_vr=False, little_endian=True, enforce_file_format=True
    )
    values = dicom_data(scan(1), WindowCenter="12345.5", WindowWidth="23456.5", RescaleSlope="34567.5")
    plant(values, 97)
    values.save_as(root / "level" / "values.dcm", enforce_file_format=True)
    content = (root / "level" / "values.dcm").read_bytes()
    for number in (b"12345.5", b"23456.5", b"34567.5"):
        content = content.replace(number, b"ZQVALUE")
    (root / "level" / "values.dcm").write_bytes(content)
    return root


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, as it writes the planted files
@pytest.mark.long
def test_nothing_of_a_tag_is_written_or_printed(
    planted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    keywords = {keyword for tag, (*_, keyword) in DicomDictionary.items() if tag not in _OF_PIXELS}
    assert set(PROFILE) - {"SOPInstanceUID"} <= keywords
    assert len(MARKER.findall((planted / "level" / "0").read_bytes())) > 2000
    place = tmp_path / "h"
    place.mkdir()
    write_key(place / "secret.key", SecretKey.generate())
    lines: list[list[object]] = [
        ["check", planted],
        ["check", planted, "--json"],
        ["seal", place, "--images", planted, "--image-size", 32, "--block", 8],
        ["inspect", place / "sealed" / "train"],
        ["inspect", place / "sealed" / "train", "--json"],
    ]
    capfd.readouterr()
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        done = [run_here("cipherward-party", *words) for words in lines]
    assert [(run.returncode, run.stderr) for run in done if run.returncode] == []
    assert "16 images in 3 sets" in done[2].stdout, done[2].stdout + done[2].stderr
    # Libraries in C write past Python's streams. Logged lines and warnings would be printed outside of pytest.
    others = [*capfd.readouterr(), caplog.text, *(str(warning.message) for warning in warned)]
    printed = "\n".join([*(run.stdout + run.stderr for run in done), *others]).encode()
    assert b"Traceback" not in printed, printed
    written = [path for path in place.rglob("*") if path.is_file()]
    assert len(written) > 8
    for where, content in [("printed", printed), *((str(p), p.read_bytes()) for p in written)]:
        for text in (content, content.replace(b"\0", b"")):  # as UTF-16 too
            assert (match := MARKER.search(text)) is None, (where, match)


def test_patients_of_the_tags_stay_in_one_split_and_their_digest_is_keyed(
    tmp_path: Path, party: Party
) -> None:
    root = tmp_path / "images"
    for kind, name in enumerate("ab"):
        for i in range(24):
            tags = {"PatientID": f"P{kind}{i % 6}", "WindowCenter": 0, "WindowWidth": 600}
            dicom_file(root / name / f"{i:02d}.dcm", scan(i, kind=kind), **tags)
    from parties.sources.folder import Folder

    of_split = [{item.group for item in Folder(root, 32, 1, 0, s).items} for s in ("train", "val", "test")]
    assert not of_split[0] & of_split[1] and not of_split[0] & of_split[2] and sum(map(len, of_split)) == 12
    group = next(iter(of_split[0]))
    command = (
        "from pathlib import Path; from parties.sources.folder import Folder; "
        f"print(Folder(Path({str(root)!r}), 32, 1, 0, 'train').items[0].group)"
    )
    other = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert other.strip() != Folder(root, 32, 1, 0, "train").items[0].group and "P0" not in group
    # Splits that the folders make, with a patient in two of them, are refused.
    pre = tmp_path / "split"
    for split, i in (("train", 0), ("train", 1), ("test", 0)):
        for kind, name in enumerate("ab"):
            dicom_file(
                pre / split / name / f"{i}.dcm",
                scan(i, kind=kind),
                PatientID=f"P{i}",
                WindowCenter=0,
                WindowWidth=9,
            )
    status, out, _ = party("check", pre)
    assert status == 1 and "1 patient has images in two splits" in " ".join(out.split())


def test_a_study_stands_for_a_patient_in_splits_and_is_not_called_one(tmp_path: Path) -> None:
    """De-identified files often have no PatientID: a patient with three studies would be three patients."""
    from parties.sources.folder import Folder

    root = tmp_path / "images"
    for kind, name in enumerate("ab"):
        for i in range(12):
            tags = {"PatientID": "" if kind else f"P{i % 6}", "StudyInstanceUID": f"1.2.{kind}.{i % 6}"}
            dicom_file(
                root / name / f"{i:02d}.dcm", scan(i, kind=kind), **tags, WindowCenter=0, WindowWidth=600
            )
    items = [item for s in ("train", "val", "test") for item in Folder(root, 32, 1, 0, s).items]
    assert len({item.group for item in items}) == 12 and all(item.group for item in items)
    assert {item.names_patient for item in items if item.label == 0} == {True}
    assert {item.names_patient for item in items if item.label == 1} == {False}


def test_a_table_names_a_file_s_patient_by_its_path(tmp_path: Path, party: Party) -> None:
    root, rows = tmp_path / "images", ["image,patient"]
    for kind, name in enumerate("ab"):
        for i in range(12):
            dicom_file(root / name / f"{i:02d}.dcm", scan(i, kind=kind), WindowCenter=0, WindowWidth=600)
            rows.append(f"{name}/{i:02d}.dcm,{name}{i // 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    party("keygen", tmp_path / "h")
    status, _, err = party("seal", tmp_path / "h", "--images", root, "--image-size", 32, "--block", 8)
    assert status == 0, err
    status, out, err = party("patients", tmp_path / "h", tmp_path / "table.csv")
    assert status == 0 and "training images of" in " ".join((out + err).split()), err


@pytest.mark.parametrize("rest", [b"", b"hello world" * 20, bytes(range(256)) * 4])
def test_a_file_that_is_dicom_by_its_preamble_alone_is_said_to_be_none(tmp_path: Path, rest: bytes) -> None:
    """Its transfer syntax was said to be unknown or private."""
    for name in ("x.dcm", "x", "x.png"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + rest)
        with pytest.raises(UndecodableImageError, match="not a DICOM file, or a damaged one"):
            look(tmp_path, name, Reading())
