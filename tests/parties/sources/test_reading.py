"""Windows, shapes and backgrounds that are stated; and volumes, slice by slice."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from crypto.arrays import AnyArray, UInt8Array
from crypto.errors import CipherwardError
from parties.sources.picture import UndecodableImageError, read_picture
from parties.sources.reading import Reading
from parties.sources.walk import look

DEEP = np.linspace(0, 4000, 400).reshape(20, 20).astype(np.uint16)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_deep_images_need_a_stated_window(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    Image.fromarray(DEEP).save(path)
    with pytest.raises(UndecodableImageError, match=r"more than 8 bits.*--window auto, full or LOW,HIGH"):
        read_picture(path, 20, 1)

    def shown(window: str) -> UInt8Array:
        return read_picture(path, 20, 1, Reading(window))[..., 0]

    assert np.abs(shown("1000,3000") - (DEEP.astype(float) - 1000).clip(0, 2000) * 255 / 2000).max() <= 0.51
    assert np.abs(shown("full") - DEEP * 255.0 / 65535).max() <= 0.51
    assert shown("auto").min() == 0 and shown("auto").max() == 255
    for bad in ("3,1", "a", "1", "1,nan", "1,2,3"):
        with pytest.raises(CipherwardError, match="no such window"):
            Reading(bad)


def test_a_float_image_has_no_full_range(tmp_path: Path) -> None:
    Image.fromarray(DEEP.astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UndecodableImageError, match="no range"):
        read_picture(tmp_path / "x.tif", 20, 1, Reading("full"))
    assert read_picture(tmp_path / "x.tif", 20, 1, Reading("0,4000")).max() == 255


def test_fits(tmp_path: Path) -> None:
    wide = np.full((10, 40), 200, np.uint8)
    wide[:, :15], wide[:, 25:] = 50, 50
    Image.fromarray(wide).save(tmp_path / "w.png")
    crop, pad, stretch = (
        read_picture(tmp_path / "w.png", 20, 1, Reading(fit=fit))[..., 0]
        for fit in ("crop", "pad", "stretch")
    )
    assert (crop == 200).all()
    assert (pad[:7] == 0).all() and (pad[-7:] == 0).all() and set(pad[10]) >= {50, 200}
    assert (read_picture(tmp_path / "w.png", 20, 3, Reading(fit="pad", background=9))[0] == 9).all()
    assert stretch[0, 0] == 50 and stretch[0, 10] == 200


def test_transparency_needs_a_background(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 100, np.uint8)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "t.png")
    with pytest.raises(UndecodableImageError, match="--background"):
        read_picture(tmp_path / "t.png", 8, 1)
    for ground in (0, 255):
        picture = read_picture(tmp_path / "t.png", 8, 3, Reading(background=ground))
        assert (picture[:4] == ground).all() and np.abs(
            picture[4:].astype(int) - 100 * 100 / 255 - ground * 155 / 255
        ).max() <= 1
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "o.png")
    assert (read_picture(tmp_path / "o.png", 8, 1) == 100).all()  # a channel that hides nothing


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 8), 80 * i) for i in range(3)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UndecodableImageError, match="3 pictures in one file"):
        read_picture(tmp_path / "p.tif", 8, 1)
    for ending in ("webp", "png"):
        moving = [page.convert("RGB") for page in pages]
        moving[0].save(tmp_path / f"p.{ending}", save_all=True, append_images=moving[1:])
        with pytest.raises(UndecodableImageError, match="3 pictures in one file"):
            read_picture(tmp_path / f"p.{ending}", 8, 1)


def tiff(path: Path, data: AnyArray, bits: int, sample: int, is_white_zero: bool = False) -> Path:
    """Write a gray TIFF file, uncompressed, as TIFF 6.0 has it: Pillow writes few of its forms."""
    side, start = len(data), 8 + 2 + 12 * 10 + 4
    content = data.tobytes()
    if bits == 12:
        pairs = data.reshape(-1, 2).astype(int)
        content = b"".join((int(a) << 12 | int(b)).to_bytes(3, "big") for a, b in pairs)
    tags: tuple[tuple[int, int], ...]
    tags = ((256, side), (257, side), (258, bits), (259, 1), (262, 0 if is_white_zero else 1), (273, start))
    tags += ((277, 1), (278, side), (279, len(content)), (339, sample))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + content)
    return path


@pytest.mark.parametrize(
    ("bits", "sample", "kind", "is_white_zero"),
    [
        *((8, 2, "i1", False), (12, 1, "u2", False), (16, 1, "<u2", False), (16, 1, "<u2", True)),
        *((16, 2, "<i2", False), (32, 1, "<u4", False)),
    ],
)
def test_numbers_of_a_tiff_file_are_what_its_tags_say(
    tmp_path: Path, bits: int, sample: int, kind: str, is_white_zero: bool
) -> None:
    low, share = (-(2 ** (bits - 1)) if sample == 2 else 0), np.linspace(0, 1, 400).reshape(20, 20)
    values = (low + share * (2**bits - 1)).astype(kind)
    path = tiff(tmp_path / "x.tif", values, bits, sample, is_white_zero)
    with pytest.raises(UndecodableImageError, match="state a window"):
        read_picture(path, 20, 1)
    expected = 255 * (1 - share if is_white_zero else share)
    high = low + 2**bits - 1
    for window in (f"{low},{high}", *(("full",) if bits <= 16 else ())):
        assert np.abs(read_picture(path, 20, 1, Reading(window))[..., 0] - expected).max() <= 1.1


@pytest.mark.parametrize("window", ["auto", "-1,1"])
def test_an_image_without_a_number_is_not_black(tmp_path: Path, window: str) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "x.tif")
    volume(tmp_path / "v.nii", np.full((8, 8, 5), np.inf, np.float32), np.eye(4))
    for name in ("x.tif", "v.nii"):
        with pytest.raises(UndecodableImageError, match="none of its values is a number"):
            read_picture(tmp_path / name, 8, 1, Reading(window), -1 if name == "x.tif" else 0)
    outside = np.zeros((8, 8, 5), np.float32)
    outside[..., 0] = np.nan
    volume(tmp_path / "o.nii", outside, np.eye(4))
    assert not read_picture(tmp_path / "o.nii", 8, 1, Reading(window), 0).any()


def test_a_tiff_file_of_an_unknown_form_is_not_called_damaged(tmp_path: Path) -> None:
    half = tiff(tmp_path / "half.tif", np.zeros((20, 20), np.float16), 16, 3)
    with pytest.raises(UndecodableImageError, match="damaged, or it is of a kind that is not decoded"):
        read_picture(half, 20, 1, Reading("0,1"))


def planar_tiff(path: Path, data: AnyArray, *tags: tuple[int, int]) -> Path:
    """Write a TIFF file of several channels [c, h, w], each in a plane of its own, with further tags."""
    channels, height, width = data.shape
    size, bits = data[0].nbytes, data.itemsize * 8
    at = 8 + 2 + 12 * (10 + len(tags)) + 4
    lists = (at, at + 2 * channels, at + 6 * channels)  # bits, offsets and lengths of the planes
    start = at + 10 * channels
    values = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, lists[0] if channels > 2 else bits << 16 | bits),
        (259, 3, 1, 1),
    ]
    values += [(262, 3, 1, 2 if channels > 2 else 1), (273, 4, channels, lists[1]), (277, 3, 1, channels)]
    values += [(278, 3, 1, height), (279, 4, channels, lists[2]), (284, 3, 1, 2)]
    values += [(tag, 3, 1, value) for tag, value in tags]
    entries = b"".join(struct.pack("<HHII", *entry) for entry in sorted(values))
    numbers = struct.pack(f"<{channels}H", *[bits] * channels)
    numbers += struct.pack(f"<{channels}I", *(start + i * size for i in range(channels)))
    numbers += struct.pack(f"<{channels}I", *[size] * channels)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(values))
    path.write_bytes(head + entries + bytes(4) + numbers + data.tobytes())
    return path


@pytest.mark.parametrize("window", ["", "full"])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_colour_in_planes_is_refused_as_it_is_pixel_by_pixel(
    tmp_path: Path, channels: int, window: str
) -> None:
    eight = np.random.default_rng(0).integers(0, 256, (channels, 20, 20)).astype(np.uint8)
    alpha = ((338, 2),) if channels == 4 else ()
    if channels == 4:
        eight[3] = 255
    shown = read_picture(planar_tiff(tmp_path / "8.tif", eight, *alpha), 20, 3)
    assert np.array_equal(shown, np.moveaxis(eight[:3], 0, 2))
    deep = planar_tiff(tmp_path / "16.tif", eight.astype(np.uint16) * 257, *alpha)
    with pytest.raises(UndecodableImageError, match="more than 8 bits a channel, with colour"):
        read_picture(deep, 20, 3, Reading(window))


def test_a_tiff_volume_is_refused(tmp_path: Path) -> None:
    eight = np.zeros((3, 20, 20), np.uint8)
    assert not read_picture(planar_tiff(tmp_path / "one.tif", eight, (32997, 1)), 20, 3).any()
    with pytest.raises(UndecodableImageError, match="a volume of several planes in one file"):
        read_picture(planar_tiff(tmp_path / "two.tif", eight, (32997, 2)), 20, 3)


def test_gray_and_transparency_in_planes_of_a_tiff_file_are_refused(tmp_path: Path) -> None:
    path = planar_tiff(tmp_path / "x.tif", np.full((2, 20, 20), 255, np.uint8), (338, 2))
    with pytest.raises(UndecodableImageError, match="gray and transparency in planes of their own"):
        read_picture(path, 20, 1, Reading(background=0))


def chunky_tiff(path: Path, data: UInt8Array, form: int, **tags: Sequence[int]) -> Path:
    """Write a TIFF file of channels pixel by pixel [h, w, c], of a photometric form, with further tags, t338=[0]."""
    height, width, channels = data.shape
    lists = {256: [width], 257: [height], 258: [8] * channels, 259: [1], 262: [form], 273: [0]}
    lists |= {277: [channels], 278: [height], 279: [data.nbytes]}
    lists |= {int(name[1:]): list(numbers) for name, numbers in tags.items()}
    at, entries, rest = 8 + 2 + 12 * len(lists) + 4, b"", b""
    lists[273] = [at + sum(2 * len(numbers) for numbers in lists.values() if len(numbers) > 2)]
    for tag, numbers in sorted(lists.items()):
        values = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(values) > 4:
            values, rest = struct.pack("<I", at + len(rest)), rest + values
        entries += struct.pack("<HHI4s", tag, 3, len(numbers), values)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(lists))
    path.write_bytes(head + entries + bytes(4) + rest + data.tobytes())
    return path


def test_channels_and_pictures_that_would_be_left_out_of_a_tiff_file_are_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 20, 5)).astype(np.uint8)
    for channels, form, extra, is_read in (
        (3, 2, [], True),
        (4, 2, [0], True),
        (5, 2, [0, 0], False),
        (1, 1, [], True),
        (2, 1, [0], False),
    ):
        path = chunky_tiff(
            tmp_path / "c.tif", values[..., :channels], form, **({"t338": extra} if extra else {})
        )
        if is_read:
            shown = read_picture(path, 20, 3)
            assert np.array_equal(shown, np.broadcast_to(values[..., : 1 if form == 1 else 3], shown.shape))
            continue
        with pytest.raises(UndecodableImageError, match="channels beside gray or colour"):
            read_picture(path, 20, 3)
    for count in (1, 3):  # ImageJ lists the first of a large stack alone
        text = f"ImageJ=1.54f\nimages={count}\nslices={count}\nloop=false\n"
        Image.fromarray(values[..., 0]).save(tmp_path / f"{count}.tif", tiffinfo={270: text})
    assert read_picture(tmp_path / "1.tif", 20, 1).any()
    with pytest.raises(UndecodableImageError, match="a volume of several planes"):
        read_picture(tmp_path / "3.tif", 20, 1)


def test_a_palette_of_8_bits_in_a_tiff_file_is_refused(tmp_path: Path) -> None:
    """Its colours have 16 bits: those of 8 became black."""
    index = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    colours = [*range(256), *range(255, -1, -1), *[7] * 256]
    deep = chunky_tiff(tmp_path / "16.tif", index, 3, t320=[257 * colour for colour in colours])
    expected = np.stack([index[..., 0], 255 - index[..., 0], np.full((16, 16), 7)], 2)
    assert np.array_equal(read_picture(deep, 16, 3), expected)
    with pytest.raises(UndecodableImageError, match="its palette holds colours of 8 bits"):
        read_picture(chunky_tiff(tmp_path / "8.tif", index, 3, t320=colours), 16, 3)


def test_a_transparent_value_of_a_deep_picture_needs_a_background(tmp_path: Path) -> None:
    deep = DEEP.copy()
    deep[:5] = 65535
    Image.fromarray(deep).save(tmp_path / "x.png", transparency=65535)
    with pytest.raises(UndecodableImageError, match="--background"):
        read_picture(tmp_path / "x.png", 20, 1, Reading("auto"))
    shown = read_picture(tmp_path / "x.png", 20, 1, Reading("auto", background=7))[..., 0]
    rest = np.linspace(0, 255, 300).reshape(15, 20)
    assert (shown[:5] == 7).all() and np.abs(
        shown[5:] - rest
    ).max() <= 3  # what is hidden sets no percentile
    Image.fromarray(DEEP).save(tmp_path / "opaque.png", transparency=65535)
    assert read_picture(tmp_path / "opaque.png", 20, 1, Reading("full")).any()


def volume(path: Path, data: AnyArray, affine: AnyArray) -> Path:
    """Write a NIfTI volume."""
    nibabel.save(nibabel.Nifti1Image(data, affine), path)  # type: ignore[no-untyped-call]
    return path


def test_volumes_are_brought_to_one_orientation(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(-100, 100, (8, 8, 5)).astype(np.int16)
    ras = volume(tmp_path / "ras.nii.gz", data, np.eye(4))
    lps = volume(tmp_path / "lps.nii", data[::-1, ::-1], np.diag([-1.0, -1.0, 1.0, 1.0]))
    turned = volume(tmp_path / "t.nii", data.transpose(2, 0, 1), np.eye(4)[[1, 2, 0, 3]])
    assert look(tmp_path, "ras.nii.gz", Reading()).count == 5
    for k in range(5):
        one = read_picture(ras, 8, 1, Reading("-100,100"), k)
        expected = np.rint((data[:, ::-1, k].T.astype(float) + 100) * 255 / 200)
        assert np.abs(one[..., 0] - expected).max() <= 1
        for other in (lps, turned):
            assert np.array_equal(read_picture(other, 8, 1, Reading("-100,100"), k), one)
    with pytest.raises(UndecodableImageError, match="--window"):
        read_picture(ras, 8, 1, Reading(), 0)


def test_voxels_that_are_not_cubes_keep_their_shape(tmp_path: Path) -> None:
    data = np.full((8, 8, 5), 200, np.uint8)
    turned = np.eye(4)[[1, 2, 0, 3]] @ np.diag([1.0, 2.0, 1.0, 1.0])  # its second axis is the width
    tall = volume(tmp_path / "tall.nii", data, np.diag([-1.0, 2.0, 1.0, 1.0]))
    wide = volume(tmp_path / "wide.nii", data.transpose(2, 0, 1), turned)
    for path, is_tall in ((tall, True), (wide, False)):
        shown = read_picture(path, 8, 1, Reading(fit="pad"), 0)[..., 0]
        shown = shown if is_tall else shown.T
        assert not shown[:, :2].any() and not shown[:, 6:].any() and (shown[:, 2:6] == 200).all()
        assert (read_picture(path, 8, 1, Reading(), 0) == 200).all()


def test_signed_bytes_have_a_range_and_a_single_slice_is_told_apart(tmp_path: Path) -> None:
    data = np.arange(-128, 128, dtype=np.int16).reshape(16, 16, 1).astype(np.int8)
    path = volume(tmp_path / "v.nii", data, np.eye(4))
    shown = read_picture(path, 16, 1, Reading("full"), 0)[..., 0]
    assert np.array_equal(shown, (data[:, ::-1, 0].T.astype(int) + 128))
    for kind, message in (
        (np.float32, "floating-point values have no range"),
        (np.int32, "32 bits a channel"),
    ):
        volume(tmp_path / "w.nii", data.astype(kind), np.eye(4))
        with pytest.raises(UndecodableImageError, match=message):
            read_picture(tmp_path / "w.nii", 16, 1, Reading("full"), 0)
    volume(tmp_path / "two.nii", data[..., 0], np.eye(4))
    with pytest.raises(UndecodableImageError, match="2 dimensions; a volume has 3: save a single slice"):
        read_picture(tmp_path / "two.nii", 16, 1, Reading("full"), 0)


def test_unusable_volumes_are_refused(tmp_path: Path) -> None:
    whole = volume(tmp_path / "v.nii", np.zeros((8, 8, 5), np.int16), np.eye(4)).read_bytes()
    bomb = bytearray(whole)
    bomb[42:48] = (32767).to_bytes(2, "little") * 3
    four = volume(tmp_path / "four.nii", np.zeros((4, 4, 4, 3), np.int16), np.eye(4)).read_bytes()
    cases = {
        "cut": (whole[:-10], "cut off"),
        "bomb": (bytes(bomb), "more than"),
        "four": (four, "4 dimensions"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / f"{name}.nii").write_bytes(content)
        (tmp_path / f"{name}.nii.gz").write_bytes(gzip.compress(content))
        for ending in (".nii", ".nii.gz"):
            with pytest.raises(UndecodableImageError, match=message):
                read_picture(tmp_path / f"{name}{ending}", 8, 1, Reading("0,1"), 0)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(b"text" * 1000))
    with pytest.raises(UndecodableImageError, match="holds no NIfTI"):
        look(tmp_path, "x.nii.gz", Reading())


def test_volumes_of_the_second_version_and_in_several_members_are_read(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (8, 8, 5)).astype(np.int16)
    expected = read_picture(volume(tmp_path / "one.nii", data, np.eye(4)), 8, 1, Reading("0,255"), 4)
    for name in ("two.nii", "two.nii.gz"):
        nibabel.save(nibabel.Nifti2Image(data, np.eye(4)), tmp_path / name)  # type: ignore[no-untyped-call]
        assert look(tmp_path, name, Reading()).count == 5
        assert np.array_equal(read_picture(tmp_path / name, 8, 1, Reading("0,255"), 4), expected)
    content = (tmp_path / "one.nii").read_bytes()
    parts = (content[:400], b"", content[400:700], content[700:])
    (tmp_path / "parts.nii.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    assert np.array_equal(read_picture(tmp_path / "parts.nii.gz", 8, 1, Reading("0,255"), 4), expected)
    (tmp_path / "fewer.nii.gz").write_bytes(b"".join(map(gzip.compress, parts[:3])))
    with pytest.raises(UndecodableImageError, match="cut off"):
        read_picture(tmp_path / "fewer.nii.gz", 8, 1, Reading("0,255"), 4)


def test_a_compressed_volume_with_a_damaged_byte_is_refused(tmp_path: Path) -> None:
    """The checksum is behind the voxels, and reading stopped before it: one picture in eight was another one."""
    data = np.random.default_rng(0).integers(-1000, 1000, (32, 32, 5)).astype(np.int16)
    whole = gzip.compress(volume(tmp_path / "v.nii", data, np.eye(4)).read_bytes())
    how = Reading("-1000,1000")
    for i in range(30):
        content = bytearray(whole)
        content[400 + (len(whole) - 408) * i // 30] ^= 1 << i % 8
        (tmp_path / f"{i}.nii.gz").write_bytes(content)
        with pytest.raises(UndecodableImageError):
            read_picture(tmp_path / f"{i}.nii.gz", 32, 1, how, 0)
    (tmp_path / "cut.nii.gz").write_bytes(whole[:-6])
    with pytest.raises(UndecodableImageError, match="cut off"):
        read_picture(tmp_path / "cut.nii.gz", 32, 1, how, 0)
    (tmp_path / "more.nii.gz").write_bytes(whole + b"what follows is no member")
    assert read_picture(tmp_path / "more.nii.gz", 32, 1, how, 0).any()


def test_a_volume_that_holds_more_voxels_than_it_names_is_refused(tmp_path: Path) -> None:
    """A series whose header names three dimensions, or a header with fewer slices."""
    data = np.random.default_rng(0).integers(0, 256, (8, 64, 40)).astype(np.int16)
    content = bytearray(volume(tmp_path / "v.nii", data, np.eye(4)).read_bytes())
    for name, slices, is_refused in (("whole", 40, False), ("fewer", 35, True), ("filled", 40, False)):
        struct.pack_into("<h", content, 46, slices)
        filled = bytes(content) + bytes(512 * (name == "filled"))
        for path, stored in ((f"{name}.nii", filled), (f"{name}.nii.gz", gzip.compress(filled))):
            (tmp_path / path).write_bytes(stored)
            if is_refused:
                with pytest.raises(UndecodableImageError, match="more voxels than its header names"):
                    read_picture(tmp_path / path, 8, 1, Reading("0,255"), 0)
            else:
                assert read_picture(tmp_path / path, 8, 1, Reading("0,255"), 39).any()


@pytest.mark.parametrize(
    ("at", "form", "value", "message"),
    [
        (42, "<h", -8, r"damaged \(dimensions\)"),
        (70, "<h", 2, r"damaged \(datatype and bitpix\)"),
        (108, "<f", float("nan"), r"damaged \(vox_offset\)"),
        (108, "<f", float("inf"), r"damaged \(vox_offset\)"),
    ],
)
def test_a_damaged_header_of_a_volume_is_named(
    tmp_path: Path, at: int, form: str, value: float, message: str
) -> None:
    path = volume(tmp_path / "v.nii", np.zeros((8, 8, 5), np.int16), np.eye(4))
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, value)
    path.write_bytes(content)
    with pytest.raises(UndecodableImageError, match=message):
        read_picture(path, 8, 1, Reading("0,1"), 0)


def test_rare_forms_are_read_alike_in_gray_and_in_colour(tmp_path: Path) -> None:
    gray = Image.fromarray((np.arange(400) // 2).astype(np.uint8).reshape(20, 20))
    gray.save(tmp_path / "big.tif", big_tiff=True)
    assert (tmp_path / "big.tif").read_bytes()[:4] in (b"II+\0", b"MM\0+")
    assert np.array_equal(read_picture(tmp_path / "big.tif", 20, 1)[..., 0], np.asarray(gray))
    neutral = Image.new("L", gray.size, 128)
    Image.merge("LAB", [gray, neutral, neutral]).save(tmp_path / "lab.tif")
    one, three = (read_picture(tmp_path / "lab.tif", 20, channels).astype(int) for channels in (1, 3))
    assert np.ptp(one) > 100 and np.abs(three - one).max() <= 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
    for side in (12_000, 60_000):
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        data = start[:-4] + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 0) + b"IDAT"
        (tmp_path / "x.png").write_bytes(data + struct.pack(">I", zlib.crc32(b"IDAT")))
        with pytest.raises(UndecodableImageError, match="more than 89,478,485"):
            read_picture(tmp_path / "x.png", 20, 1)
