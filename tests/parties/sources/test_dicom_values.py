"""DICOM values that became black or noise without a word: numbers that are none, palettes, tables, high bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from crypto.arrays import AnyArray, UInt8Array
from parties.sources.picture import UndecodableImageError, read_picture
from parties.sources.reading import Reading
from parties.sources.walk import look
from tests.support.dicom_files import dicom_data, dicom_file

GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = ("Red", "Green", "Blue")


def show(path: Path, channels: int = 1, **how: Any) -> UInt8Array:
    """Return a DICOM file's first frame at its own size, uint8 [h, w] or [h, w, 3]."""
    return read_picture(path, 16, channels, Reading(**how), 0).squeeze()


def float_file(path: Path, values: AnyArray, **tags: Any) -> Path:
    """Write an image of floating-point pixels, which has no tags of stored bits."""
    data = dicom_data(values, BitsStored=None, HighBit=None, PixelRepresentation=None, PixelData=None)
    name = "FloatPixelData" if values.dtype == np.float32 else "DoubleFloatPixelData"
    setattr(data, name, values.tobytes())
    for tag, value in tags.items():
        setattr(data, tag, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_floats_around_which_nothing_was_scanned_are_not_black(
    tmp_path: Path, kind: Any, photometric: str
) -> None:
    values = (np.linspace(-1, 1, 256).reshape(16, 16)).astype(kind)
    values[:2] = np.nan
    values[2, 0], values[2, 1] = np.inf, -np.inf
    path = float_file(tmp_path / "x.dcm", values, PhotometricInterpretation=photometric)
    shown = show(path, window="auto")
    rest = np.linspace(0, 255, 224).reshape(14, 16)
    rest = 255 - rest if photometric == "MONOCHROME1" else rest
    assert not shown[:2].any() and np.abs(shown[3:] - rest[1:]).max() <= 5
    assert not show(path, window="-1,1")[:2].any()
    with pytest.raises(UndecodableImageError, match="no range to show"):
        show(path, window="full")


@pytest.mark.parametrize("window", ["auto", "full", "0,1", ""])
def test_floats_without_a_number_are_refused(tmp_path: Path, window: str) -> None:
    values = np.full((16, 16), np.nan, np.float32)
    path = float_file(tmp_path / "x.dcm", values, WindowCenter=0, WindowWidth=2)
    with pytest.raises(UndecodableImageError, match="none of its values is a number"):
        show(path, window=window)


def test_padding_of_floats_is_black_and_sets_no_window(tmp_path: Path) -> None:
    values = (np.linspace(0, 1, 256).reshape(16, 16)).astype(np.float32)
    values[:8] = -1e6
    shown = show(float_file(tmp_path / "x.dcm", values, FloatPixelPaddingValue=-1e6), window="auto")
    assert not shown[:8].any() and np.abs(shown[8:] - np.linspace(0, 255, 128).reshape(8, 16)).max() <= 5


def palette(bits: int, values: AnyArray, syntax: str, kind: str, **more: Any) -> dict[str, Any]:
    """Return the tags of a palette with these red values, green ones in reverse, and no blue."""
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", **more}
    for colour, part in zip(COLOURS, (values, values[::-1], values * 0), strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [len(values), 0, bits]
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        tags[f"{colour}PaletteColorLookupTableData"] = part.astype(order + kind).tobytes()
    return tags


def save(path: Path, pixels: AnyArray, syntax: str, **tags: Any) -> Path:
    """Write a DICOM file in a transfer syntax."""
    data = dicom_data(pixels, **tags)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    if syntax == ExplicitVRBigEndian and pixels.itemsize > 1:
        data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    data.save_as(
        path,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("bits", "kind", "factor"), [(8, "u1", 1), (8, "u2", 1), (16, "u2", 256), (16, "u2", 257)]
)
def test_a_palette_has_the_bits_that_it_names(
    tmp_path: Path, syntax: str, bits: int, kind: str, factor: int
) -> None:
    tags = palette(bits, np.arange(256) * factor, syntax, kind)
    shown = show(save(tmp_path / "x.dcm", GRAY, syntax, **tags), 3)
    assert np.array_equal(shown, np.stack([GRAY, 255 - GRAY, GRAY * 0], 2))


@pytest.mark.parametrize(("bits", "values"), [(16, np.arange(256)), (8, np.arange(256) * 256)])
def test_a_palette_of_other_bits_than_it_names_is_refused(
    tmp_path: Path, bits: int, values: AnyArray
) -> None:
    tags = palette(bits, values, ExplicitVRLittleEndian, "u2")
    with pytest.raises(UndecodableImageError, match=f"its palette names {bits} bits a colour and holds"):
        show(dicom_file(tmp_path / "x.dcm", GRAY, **tags), 3)


def test_a_palette_of_8_bits_may_have_more_than_256_colours(tmp_path: Path) -> None:
    values = np.arange(1024) // 4
    tags = palette(8, values, ExplicitVRLittleEndian, "u1")
    pixels = GRAY.astype(np.uint16) * 4
    shown = show(dicom_file(tmp_path / "x.dcm", pixels, **tags), 3)
    assert np.array_equal(shown[..., 0], GRAY)


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (12, 12), (16, 11)])
def test_pixels_in_other_bits_than_the_lowest_are_refused(tmp_path: Path, stored: int, high: int) -> None:
    pixels = GRAY.astype(np.uint16) << 8
    path = dicom_file(tmp_path / "x.dcm", pixels, BitsStored=stored, HighBit=high)
    with pytest.raises(UndecodableImageError, match="HighBit"):
        show(path, window="full")


def table(first: int, entries: AnyArray, bits: int, kind: str) -> Dataset:
    """Return a lookup table, whose first value is stored as US or SS."""
    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_table_of_values_below_zero_is_one_without_explicit_types_too(
    tmp_path: Path, syntax: str
) -> None:
    item = table(-1024, np.arange(4096), 12, "SS")
    pixels = GRAY.astype(np.uint16) * 16
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 1, "RescaleIntercept": -1024}
    path = save(tmp_path / "x.dcm", pixels, syntax, VOILUTSequence=Sequence([item]), **tags)
    assert np.abs(show(path).astype(int) - GRAY).max() <= 1


def test_a_first_value_beyond_half_of_the_range_stays_where_no_value_is_negative(tmp_path: Path) -> None:
    item = table(40000, np.arange(16), 8, "US")
    pixels = np.where(GRAY > 127, 40000 + GRAY.astype(int) % 16, 0).astype(np.uint16)
    shown = show(dicom_file(tmp_path / "x.dcm", pixels, VOILUTSequence=Sequence([item])))
    assert np.array_equal(shown, np.where(GRAY > 127, GRAY % 16, 0))


def test_a_table_of_8_bits_may_have_more_than_256_entries(tmp_path: Path) -> None:
    item = table(0, np.arange(4096) // 16, 8, "US")
    path = dicom_file(
        tmp_path / "x.dcm",
        GRAY.astype(np.uint16) * 16,
        BitsStored=12,
        HighBit=11,
        VOILUTSequence=Sequence([item]),
    )
    assert np.array_equal(show(path), GRAY)


def test_a_table_that_is_shorter_than_it_says_is_refused(tmp_path: Path) -> None:
    item = table(0, np.arange(256), 8, "US")
    item.LUTDescriptor = [4096, 0, 8]
    path = dicom_file(tmp_path / "x.dcm", GRAY, VOILUTSequence=Sequence([item]))
    with pytest.raises(UndecodableImageError, match="shorter than it says"):
        show(path)


def box() -> UInt8Array:
    """Return a white square of 8 pixels on gray."""
    pixels = np.full((16, 16), 100, np.uint8)
    pixels[4:12, 4:12] = 255
    return pixels


@pytest.mark.parametrize(
    "tag", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "shared", "frame"]
)
def test_pixels_that_are_not_square_keep_their_shape(tmp_path: Path, tag: str) -> None:
    tags: dict[str, Any] = {tag: ["2", "1"]} if tag not in ("shared", "frame") else {}
    if not tags:
        group, measures = Dataset(), Dataset()
        measures.PixelSpacing = ["0.8", "0.4"]
        group.PixelMeasuresSequence = Sequence([measures])
        where = "Shared" if tag == "shared" else "PerFrame"
        tags[f"{where}FunctionalGroupsSequence"] = Sequence([group])
    path = dicom_file(tmp_path / "x.dcm", box(), **tags)
    assert np.array_equal(show(path), box())  # stretched
    pad, crop = show(path, fit="pad"), show(path, fit="crop")
    assert not pad[:, :4].any() and not pad[:, 12:].any()  # twice as high as wide
    assert (pad[:, 4:12] >= 100).all() and (pad[5:11, 7:9] == 255).all() and (pad[:, 4] == 100).all()
    # The middle 16 by 8 pixels: the box is as high as the picture, and half as wide.
    assert (crop[2:14, 5:11] == 255).all() and (crop[:, :3] == 100).all()


@pytest.mark.parametrize("value", [["0", "1"], ["-2", "1"], ["1"], ["nan", "1"], ["1", "1"], ["inf", "1"]])
def test_sizes_of_pixels_that_say_nothing_are_square(tmp_path: Path, value: list[str]) -> None:
    path = dicom_file(tmp_path / "x.dcm", box(), PixelSpacing=value)
    assert np.array_equal(show(path, fit="pad"), box())


def test_bits_above_the_stored_ones_hold_overlays_or_a_sign(tmp_path: Path) -> None:
    """Numbers of more bits than the file says lost these: the brightest pixels became dark."""
    values = np.arange(256).reshape(16, 16) * 16  # up to 4,080
    expected = np.rint(values * 255 / 4095)
    overlay = values.astype(np.uint16)
    overlay[3:6] |= 0x9000
    how, stored = Reading("full"), {"BitsStored": 12, "HighBit": 11}

    def shown(pixels: AnyArray, position: int = -1, **tags: Any) -> UInt8Array:
        ds = dicom_data(pixels, **stored, **tags)
        if position >= 0:
            ds.add_new(0x60020102, "US", position)
        ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
        return read_picture(tmp_path / "x.dcm", 16, 1, how, 0)[..., 0]

    assert np.array_equal(shown(overlay, position=12), expected)
    signed = values - 2048
    assert np.array_equal(shown(signed.astype(np.int16)), expected)
    assert np.array_equal(shown((signed & 0xFFF).astype(np.uint16), PixelRepresentation=1), expected)
    padded = signed.astype(np.int16)
    padded[0] = -32768
    black = shown(padded, PixelPaddingValue=-32768)
    assert not black[0].any() and np.array_equal(black[1:], expected[1:])
    for pixels, position in (
        (overlay, -1),
        (overlay, 0),  # an overlay that stands elsewhere
        ((values * 2).astype(np.uint16), -1),
        ((signed * 2).astype(np.int16), -1),
        (padded, -1),
    ):
        with pytest.raises(UndecodableImageError, match="more bits than it says"):
            shown(pixels, position)


@pytest.mark.parametrize(("form", "samples"), [("MONOCHROME2", 3), ("RGB", 1), ("PALETTE COLOR", 3)])
def test_channels_that_do_not_fit_the_form_of_colours_are_refused(
    tmp_path: Path, form: str, samples: int
) -> None:
    pixels = np.zeros((16, 16 * samples), np.uint8)
    tags = {"Columns": 16, "SamplesPerPixel": samples, "PlanarConfiguration": 0}
    path = dicom_file(tmp_path / "x.dcm", pixels, PhotometricInterpretation=form, **tags)
    with pytest.raises(UndecodableImageError, match="other channels than its form of colours has"):
        read_picture(path, 16, 1, Reading(), 0)


def colours(path: Path, pixels: AnyArray, **tags: Any) -> Path:
    """Write colours [16, 16, 3] as a DICOM file, and return its path."""
    form = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    return dicom_file(path, pixels[..., 0], **{**form, "PixelData": pixels.tobytes(), **tags})


def test_colours_are_shown_with_the_bits_that_they_have(tmp_path: Path) -> None:
    """Colours of six bits were dark, and bright colours of more bits than BitsStored says became dark ones."""
    eight = np.arange(768, dtype=np.uint16).reshape(16, 16, 3) % 256
    for bits in (4, 6, 8, 12, 16):
        pixels = (eight * 257 >> 16 - bits).astype(np.uint8 if bits <= 8 else np.uint16)
        path = colours(tmp_path / "c.dcm", pixels, BitsStored=bits, HighBit=bits - 1)
        shown = read_picture(path, 16, 3, Reading(), 0).astype(int)
        assert np.abs(shown - eight).max() <= 256 >> bits, bits
    path = colours(tmp_path / "x.dcm", eight << 8, BitsStored=12, HighBit=11)
    with pytest.raises(UndecodableImageError, match="more bits than it says"):
        read_picture(path, 16, 3, Reading(), 0)


@pytest.mark.parametrize("form", ["YBR_ICT", "YBR_RCT"])
def test_a_form_of_colours_that_no_decoder_undoes_is_refused(tmp_path: Path, form: str) -> None:
    """Such colours were shown as if they were red, green and blue."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    path = colours(tmp_path / "x.dcm", pixels, PhotometricInterpretation=form)
    with pytest.raises(UndecodableImageError, match="in a form of JPEG 2000"):
        read_picture(path, 16, 3, Reading(), 0)


def test_tags_that_contradict_each_other_about_black_and_white_are_refused(tmp_path: Path) -> None:
    """Some programs obey one of them and some the other: half of them see the negative."""
    for photometric, agreeing, contrary in (
        ("MONOCHROME1", "INVERSE", "IDENTITY"),
        ("MONOCHROME2", "IDENTITY", "INVERSE"),
    ):
        expected = 255 - GRAY if photometric == "MONOCHROME1" else GRAY
        for shape in ({}, {"PresentationLUTShape": agreeing}, {"PresentationLUTShape": ""}):
            path = dicom_file(tmp_path / "x.dcm", GRAY, PhotometricInterpretation=photometric, **shape)
            assert np.array_equal(show(path), expected)
        tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": contrary}
        path = dicom_file(tmp_path / "x.dcm", GRAY, **tags)
        with pytest.raises(UndecodableImageError, match="PhotometricInterpretation, PresentationLUTShape"):
            show(path)
        with pytest.raises(UndecodableImageError, match="PresentationLUTShape"):
            look(tmp_path, "x.dcm", Reading())


@pytest.mark.parametrize(
    ("tag", "value", "fault"),
    [
        ("WindowCenter", "40,5", "comma"),
        ("WindowWidth", "400,0", "comma"),
        ("RescaleSlope", "1,5", "comma"),
        ("RescaleIntercept", "-1024,0", "comma"),
        ("PixelSpacing", "0,5\\0,5", "comma"),
        ("NumberOfFrames", "1,0", "comma"),
        ("WindowCenter", "many", "text"),
    ],
)
def test_a_number_in_another_spelling_is_named_by_its_tag(
    tmp_path: Path, tag: str, value: str, fault: str
) -> None:
    """The data set was said to be damaged, and PixelSpacing with commas was left out."""
    path, mark = tmp_path / "x.dcm", "-1234567"
    dicom_file(
        path, GRAY, **{"WindowCenter": 9, "WindowWidth": 9, tag: [mark] * 2 if "\\" in value else mark}
    )
    written = b"\\".join([mark.encode()] * (2 if "\\" in value else 1))
    written += b" " * (len(written) % 2)
    content = path.read_bytes()
    assert content.count(written) == 1
    path.write_bytes(content.replace(written, value.encode().ljust(len(written))))
    with pytest.raises(UndecodableImageError, match=f"its tag {tag} is no number: .*{fault}") as error:
        show(path, fit="pad")
    assert value not in error.value.reason  # no value of a tag is in a message
    if tag == "PixelSpacing":
        assert show(path).shape == (16, 16)  # stretched: nothing asks for it
