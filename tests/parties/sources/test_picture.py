"""Image files: every mode, orientation and kind as Pillow reads it, damaged files, and files that cannot be read."""

from __future__ import annotations

import collections
import errno
import itertools
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps, PngImagePlugin

from crypto.arrays import UInt8Array
from crypto.errors import CipherwardError
from parties.sources.picture import UndecodableImageError, read_picture
from parties.sources.reading import Reading
from tests.support.files import picture


def read_by_the_manual(path: Path, size: int, channels: int) -> UInt8Array:
    """Return the image turned upright, converted and resized by Pillow's own steps, without any shortcut."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    resized = upright.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, channels)


def save_in_every_way(folder: Path, width: int) -> list[Path]:
    """Save one smooth picture in every mode of JPEG and PNG, kind of JPEG, and way to give an orientation."""
    y, x = np.mgrid[:37, :width]
    pixels = np.stack([4 * x, 6 * y, 3 * x + 2 * y], 2).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    for mode in ("L", "RGB", "CMYK"):
        for name, how in (("", {}), ("progressive", {"progressive": True}), ("full", {"subsampling": 0})):
            rgb.convert(mode).save(folder / f"{mode}-{name}.jpg", quality=90, **how)
    rgb.save(folder / "untransformed.jpg", keep_rgb=True)
    rgb.save(
        folder / "two.jpg", format="MPO", save_all=True, append_images=[rgb.convert("L").convert("RGB")]
    )
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        rgb.convert(mode).save(folder / f"{mode}.png")
    half = rgb.convert("RGBA")
    half.putalpha(Image.fromarray(pixels[..., 0]))
    half.save(folder / "half.png")
    rgb.convert("P").save(folder / "clear.png", transparency=3)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{turn}"/></x:xmpmeta>'
        rgb.save(folder / f"exif-{turn}.jpg", exif=exif)
        rgb.save(folder / f"exif-{turn}.png", exif=exif)
        rgb.save(folder / f"xmp-{turn}.jpg", xmp=xmp.encode())
        text, raw = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp)
        rgb.save(folder / f"xmp-{turn}.png", pnginfo=text)
        code = exif.tobytes()
        raw.add_text("Raw profile type exif", f"\nexif\n{len(code):8}\n{code.hex()}\n")
        rgb.save(folder / f"raw-{turn}.png", pnginfo=raw)
        late = (
            folder / f"raw-{turn}.png"
        ).read_bytes()  # the same after the pixels, where Pillow finds it, too
        place, end = late.index(b"tEXt") - 4, late.index(b"IDAT") - 4
        last = late.index(b"IEND") - 4
        (folder / f"late-{turn}.png").write_bytes(
            late[:place] + late[end:last] + late[place:end] + late[last:]
        )
    return sorted(folder.iterdir())


@pytest.mark.parametrize("width", [53, 37])
@pytest.mark.parametrize("size", [37, 16])
def test_every_kind_of_file_is_read_as_in_pillow_s_manual(tmp_path: Path, size: int, width: int) -> None:
    files = save_in_every_way(tmp_path, width)
    turned = 0
    for path in files:
        for channels in (1, 3):
            expected = read_by_the_manual(path, size, channels)
            if path.stem == "half":
                with pytest.raises(UndecodableImageError, match="--background"):
                    read_picture(path, size, channels)
            else:
                assert np.array_equal(read_picture(path, size, channels), expected), path.name
        with Image.open(path) as image:
            plain = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        turned += not np.array_equal(expected, np.asarray(plain))
    assert turned == 7 * 6  # seven orientations said in six ways


@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_plain_jpeg_files_have_pillow_s_pixels(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, expected_pixels = np.random.default_rng(size), {}
    for mode, ways in (("L", (None,)), ("RGB", ("4:4:4", "4:2:2", "4:2:0", "4:1:1"))):
        for way, quality, progressive in itertools.product(ways, (1, 30, 75, 95, 100), (False, True)):
            shape = (size, size) if mode == "L" else (size, size, 3)
            path = tmp_path / f"{mode}-{way}-{quality}-{progressive}.jpg".replace(":", "")
            settings: dict[str, Any] = {
                "quality": quality,
                "progressive": progressive,
                "restart_marker_rows": quality % 2,
            }
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(
                path, **settings, **({"subsampling": way} if way else {})
            )
            for channels in (1, 3):
                expected_pixels[path, channels] = read_by_the_manual(path, size, channels)
    monkeypatch.setattr(Image, "open", None)  # Pillow must read none of them
    for (path, channels), expected in expected_pixels.items():
        assert np.array_equal(read_picture(path, size, channels), expected), (path.name, channels)


def warning_of(path: Path) -> str:
    """Return what the JPEG library says of a file's codes, which Pillow does not pass on; empty if nothing."""
    try:
        simplejpeg.decode_jpeg(path.read_bytes())
    except ValueError as error:
        return str(error)
    return ""


def test_damaged_jpeg_files_are_refused_or_read_as_pillow_does(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(1), tmp_path / "a.jpg"
    smooth = np.linspace(0, 255, 24 * 24 * 3).reshape(24, 24, 3).astype(np.uint8)
    Image.fromarray(smooth).save(path)
    whole = path.read_bytes()
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(2, len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            expected = read_by_the_manual(path, 24, 3)
        except Exception:
            with pytest.raises(CipherwardError):
                read_picture(path, 24, 3)
            outcomes["refused"] += 1
        else:
            warning = warning_of(path)
            is_damaged = "premature end" in warning or "bad Huffman code" in warning
            try:
                shown = read_picture(path, 24, 3)
            except UndecodableImageError:
                assert is_damaged or "extraneous bytes" in warning
                outcomes["refused, where Pillow fills with gray"] += 1
            else:
                assert not is_damaged and np.array_equal(shown, expected)
                outcomes["read"] += 1
    assert outcomes["refused"] > 20 and outcomes["read"] > 100, outcomes
    assert outcomes["refused, where Pillow fills with gray"] > 10, outcomes


def test_files_cut_anywhere_are_refused_or_read_as_pillow_does(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for name in ("a.jpg", "a.png"):
        rgb.save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for length in (0, 2, 30, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            try:
                expected = read_by_the_manual(tmp_path / name, 24, 3)
            except Exception:
                with pytest.raises(
                    UndecodableImageError, match=f"cannot decode {tmp_path / name}"
                ) as error:
                    read_picture(tmp_path / name, 24, 3)
                # The reason is plain words first, the decoder's own after them.
                assert error.value.reason.startswith(
                    ("it is ", "its header ", "the file is ", "its content ")
                )
            else:
                assert np.array_equal(read_picture(tmp_path / name, 24, 3), expected)


def test_a_read_error_is_not_a_malformed_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CipherwardError, match=r"cannot read .*absent.jpg: No such file") as error:
        read_picture(tmp_path / "absent.jpg", 16, 1)
    assert not isinstance(error.value, UndecodableImageError) and "continues" in error.value.hint
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(UndecodableImageError):
        read_picture(tmp_path / "b.png", 16, 1)
    for raised, message in (
        (OSError(errno.EIO, "Input/output error"), "Input/output"),
        (MemoryError(), "memory"),
    ):

        def fails(*_: object, raised: Exception = raised, **__: object) -> None:
            raise raised

        monkeypatch.setattr(Image, "open", fails)
        with pytest.raises(CipherwardError, match=message) as error:
            read_picture(tmp_path / "a.png", 16, 1)
        assert not isinstance(error.value, UndecodableImageError)


def test_a_large_file_that_is_not_a_jpeg_is_not_read_into_memory(tmp_path: Path) -> None:
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(1 << 28)
    tracemalloc.start()
    with pytest.raises(UndecodableImageError):
        read_picture(tmp_path / "large.png", 16, 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_pillow_reads_a_jpeg_that_the_fast_decoder_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.jpg")
    expected = read_by_the_manual(tmp_path / "a.jpg", 20, 1)

    def unknown_sampling(_: bytes) -> None:
        raise KeyError(6)  # a chroma sampling that the decoder does not know

    monkeypatch.setattr("simplejpeg.decode_jpeg_header", unknown_sampling)
    assert np.array_equal(read_picture(tmp_path / "a.jpg", 20, 1), expected)


def png(depth: int, kind: int, rows: bytes, **chunks: bytes) -> bytes:
    """Return a PNG file of 8×8 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, kind, 0, 0, 0))
    others = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + head + others + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_files_of_sixteen_bits_are_refused(tmp_path: Path, kind: int, channels: int) -> None:
    for depth, message in ((8, None), (16, "more than 8 bits")):
        rows = b"".join(b"\0" + bytes(range(8 * channels * depth // 8)) for _ in range(8))
        (tmp_path / "p.png").write_bytes(png(depth, kind, rows))
        if message:
            with pytest.raises(UndecodableImageError, match=message):
                read_picture(tmp_path / "p.png", 8, 3)
        else:
            assert read_picture(tmp_path / "p.png", 8, 3, Reading(background=0)).shape == (8, 8, 3)


def test_bmp_files_of_sixteen_bits_a_pixel_have_few_bits_a_channel(tmp_path: Path) -> None:
    """Those of five, six and five bits were said to have more than eight a channel."""
    words = np.arange(64, dtype="<u2").reshape(8, 8) * 1023
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHIIiiII", 40, 8, -8, 1, 16, 3, 128, 0, 0, 0, 0)  # -8: from the top
    (tmp_path / "x.bmp").write_bytes(
        b"BM" + struct.pack("<IHHI", 194, 0, 0, 66) + head + masks + words.tobytes()
    )
    red, green, blue = words >> 11, words >> 5 & 63, words & 31
    expected = np.stack([red * 255 // 31, green * 255 // 63, blue * 255 // 31], 2)
    assert np.abs(read_picture(tmp_path / "x.bmp", 8, 3).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("compression", ["group4", "tiff_adobe_deflate"])
def test_damage_that_libtiff_tells_the_terminal_is_a_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str
) -> None:
    """Damaged fax codes were read, and the terminal got lines that name no file."""
    shape = Image.fromarray((np.indices((40, 40)).sum(0) % 7 > 2).astype(np.uint8) * 255).convert("1")
    shape.save(tmp_path / "x.tif", compression=compression)
    whole = (tmp_path / "x.tif").read_bytes()
    expected = np.asarray(shape.convert("L"))
    assert np.array_equal(read_picture(tmp_path / "x.tif", 40, 1)[..., 0], expected)
    start = 17  # in its first strip, which Pillow writes behind the eight bytes of the header
    (tmp_path / "x.tif").write_bytes(whole[:start] + b"UUU" + whole[start + 3 :])
    with pytest.raises(UndecodableImageError, match="damaged"):
        read_picture(tmp_path / "x.tif", 40, 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_gray_value_of_a_png_file_is_one_of_its_own_bits(
    tmp_path: Path, depth: int
) -> None:
    """Pillow spreads few gray values over 256, and compares them with one that it does not spread."""
    values = (np.arange(64) % 2**depth).astype(np.uint8).reshape(8, 8)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(8, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    (tmp_path / "p.png").write_bytes(png(depth, 0, rows, tRNS=struct.pack(">H", 1)))
    with pytest.raises(UndecodableImageError, match="--background"):
        read_picture(tmp_path / "p.png", 8, 1)
    shown = read_picture(tmp_path / "p.png", 8, 1, Reading(background=100))[..., 0]
    assert np.array_equal(shown, np.where(values == 1, 100, values.astype(int) * 255 // (2**depth - 1)))
