"""JPEG, PNG and TIFF files that hold fewer pixels than their headers name, or others, are refused by name."""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crypto.arrays import UInt8Array
from parties.checking.glance import look
from parties.sources.catalog import Item
from parties.sources.picture import UndecodableImageError, read_picture
from parties.sources.reading import Reading
from parties.sources.whole_pictures import require_whole_jpeg
from tests.support.small_pictures import pictures

SIDE = 64
READING = Reading(window="full", background=0)
#: First row and column of each pass of an interlaced PNG file, and the steps.
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def gray(seed: int = 0) -> UInt8Array:
    """Return a smooth picture, uint8 [SIDE, SIDE]."""
    return np.asarray(pictures(1, SIDE, seed)[0, ..., 0])


def colours() -> UInt8Array:
    """Return a smooth picture in colour, uint8 [SIDE, SIDE, 3]."""
    return np.asarray(pictures(1, SIDE, channels=3)[0])


def refused(folder: Path, name: str, content: bytes, channels: int = 1) -> str:
    """Return why a file of this content is refused."""
    (folder / name).write_bytes(content)
    with pytest.raises(UndecodableImageError) as error:
        read_picture(folder / name, SIDE, channels, READING)
    assert str(folder / name) in error.value.message and error.value.hint
    return error.value.reason


def read(folder: Path, name: str, content: bytes, channels: int = 1) -> UInt8Array:
    """Return a file of this content as it is read, uint8 [SIDE, SIDE, channels]."""
    (folder / name).write_bytes(content)
    return read_picture(folder / name, SIDE, channels, READING)


def saved(pixels: UInt8Array, kind: str, **settings: Any) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    return file.getvalue()


def png(bits: int, kind: int, rows: bytes, is_interlaced: bool = False, palette: int = 0) -> bytes:
    """Return a PNG file of SIDE×SIDE pixels with a palette of this many colours, or none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, bits, kind, 0, 0, is_interlaced))
    colours = chunk(b"PLTE", bytes(i % 256 for i in range(3 * palette))) if palette else b""
    codes = zlib.compress(rows)
    halves = chunk(b"IDAT", codes[:9]) + chunk(b"IDAT", codes[9:])
    return b"\x89PNG\r\n\x1a\n" + head + colours + halves + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "kind", "channels"),
    [(8, 0, 1), (8, 2, 3), (16, 0, 1), (1, 0, 1), (4, 0, 1), (1, 3, 1), (4, 3, 1), (8, 4, 2), (8, 6, 4)],
)
def test_a_png_file_of_other_rows_than_it_names_is_refused(
    tmp_path: Path, bits: int, kind: int, channels: int
) -> None:
    """Rows that were missing, behind a valid end, were read as black."""
    rng, length = np.random.default_rng(0), SIDE * channels * bits // 8
    rows = [b"\0" + rng.integers(0, 256, length, np.uint8).tobytes() for _ in range(SIDE)]
    palette = 1 << bits if kind == 3 else 0
    for count in (SIDE - 1, SIDE // 2, 1):
        reason = refused(tmp_path, "a.png", png(bits, kind, b"".join(rows[:count]), palette=palette), 3)
        assert reason.startswith("it is cut off"), count
    reason = refused(tmp_path, "a.png", png(bits, kind, b"".join([*rows, rows[0]]), palette=palette), 3)
    assert "more pixels" in reason
    assert read(tmp_path, "a.png", png(bits, kind, b"".join(rows), palette=palette), 3).std() > 1


def test_an_interlaced_png_file_that_lacks_passes_is_refused(tmp_path: Path) -> None:
    picture = gray()
    passes = [
        b"".join(b"\0" + row.tobytes() for row in picture[y::down, x::across])
        for y, x, down, across in PASSES
    ]
    assert np.array_equal(read(tmp_path, "a.png", png(8, 0, b"".join(passes), True))[..., 0], picture)
    for count in range(1, 7):
        assert refused(tmp_path, "a.png", png(8, 0, b"".join(passes[:count]), True)).startswith(
            "it is cut off"
        )
    assert refused(tmp_path, "a.png", png(8, 0, b"".join(passes)[: -SIDE - 1], True)).startswith(
        "it is cut"
    )


@pytest.mark.parametrize("palette", [0, 100])
def test_a_colour_that_a_palette_does_not_have_is_refused(tmp_path: Path, palette: int) -> None:
    """It was read as black."""
    rows = b"".join(b"\0" + bytes([99, 100] * (SIDE // 2)) for _ in range(SIDE))
    assert "palette" in refused(tmp_path, "a.png", png(8, 3, rows, palette=palette))
    assert read(tmp_path, "a.png", png(8, 3, rows, palette=101)).any()


@pytest.mark.parametrize("size", [SIDE, SIDE + 16], ids=["fast", "Pillow"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", ["baseline", "progressive", "restarts"])
def test_a_jpeg_file_that_was_cut_and_closed_is_refused(
    tmp_path: Path, way: str, channels: int, size: int
) -> None:
    """What was missing was gray."""
    settings = {"progressive": way == "progressive", "restart_marker_blocks": 3 * (way == "restarts")}
    pixels = pictures(1, size, channels=channels)[0]
    whole = saved(pixels if channels == 3 else pixels[..., 0], "jpeg", quality=90, **settings)
    assert read(tmp_path, "a.jpg", whole, channels).std() > 10
    for share in (0.6, 0.8, 0.95):
        cut = whole[: int(len(whole) * share)] + b"\xff\xd9"
        assert re.search("too early|cut off", refused(tmp_path, "a.jpg", cut, channels)), share
    item = Item("a.jpg", 0, "", "", -1)
    assert isinstance(why := look(tmp_path, item, READING), str) and re.search("too early|cut off", why)
    at = whole.index(b"\xff\xc2" if way == "progressive" else b"\xff\xc0") + 5
    for rows in (size + 16, size - 16):
        other = whole[:at] + struct.pack(">H", rows) + whole[at + 2 :]
        assert re.search("early|more pixels", refused(tmp_path, "a.jpg", other, channels)), rows


@pytest.mark.parametrize("size", [SIDE, SIDE + 16], ids=["fast", "Pillow"])
def test_a_progressive_jpeg_file_that_lacks_scans_is_refused(tmp_path: Path, size: int) -> None:
    """It was read as a blurred picture: no decoder warns of it."""
    whole = saved(pictures(1, size, channels=3)[0], "jpeg", progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", whole)]
    assert len(scans) == 10 and read(tmp_path, "a.jpg", whole, 3).std() > 10
    for before, start in itertools.pairwise(scans):
        tables = whole.rfind(b"\xff\xc4", before, start)
        cut = whole[: tables if tables > 0 else start] + b"\xff\xd9"
        assert refused(tmp_path, "a.jpg", cut, 3).startswith("it is cut off")


def test_bytes_that_programs_leave_in_a_jpeg_file_are_no_damage(tmp_path: Path) -> None:
    """Cameras leave some before the end marker, and others do behind a comment."""
    whole = saved(colours(), "jpeg")
    expected = read(tmp_path, "a.jpg", whole, 3)
    for content in (
        whole[:-2] + b"\0\0\0" + whole[-2:],
        whole[:20] + b"\0\0" + whole[20:],
        whole + bytes(1000),
    ):
        assert np.array_equal(read(tmp_path, "a.jpg", content, 3), expected)
    at = whole.index(b"\xff\xda") + 200  # the foreign bytes before the tables hide no damage behind them
    damaged = whole[:20] + b"\0\0" + whole[20:at] + b"\xff\xd9"
    assert "end too early" in refused(tmp_path, "a.jpg", damaged, 3)


def test_every_mode_of_jpeg_is_whole() -> None:
    for mode in ("L", "RGB", "CMYK"):
        for settings in ({}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"quality": 1}):
            file = io.BytesIO()
            Image.fromarray(colours()).convert(mode).save(file, "jpeg", **settings)
            require_whole_jpeg(file.getvalue())


def changed(content: bytes, tag: int, change: Callable[[list[int]], list[int]]) -> bytes:
    """Return a TIFF file with the numbers of a tag changed; fewer numbers than before are written as fewer."""
    out = bytearray(content)
    start = struct.unpack_from("<I", content, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], 12):
        number, kind, count, value = struct.unpack_from("<HHII", content, entry)
        if number == tag:
            form = {3: "H", 4: "I"}[kind]
            at = entry + 8 if struct.calcsize(form) * count <= 4 else value
            numbers = change(list(struct.unpack_from(f"<{count}{form}", content, at)))
            struct.pack_into("<I", out, entry + 4, len(numbers))
            if struct.calcsize(form) * len(numbers) <= 4 < struct.calcsize(form) * count:
                at = entry + 8
            struct.pack_into(f"<{len(numbers)}{form}", out, at, *numbers)
    return bytes(out)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"])
def test_a_tiff_file_that_lacks_a_strip_is_refused(tmp_path: Path, compression: str) -> None:
    """Other bytes of the file, or black, stood for it."""
    whole = saved(gray(), "tiff", compression=compression, tiffinfo={278: 16})  # rows a strip
    with Image.open(io.BytesIO(whole)) as opened:
        assert len(opened.tag_v2[273]) == 4  # type: ignore[attr-defined]
    assert np.abs(read(tmp_path, "a.tif", whole)[..., 0].astype(int) - gray()).max() < 12

    def without(numbers: list[int]) -> list[int]:
        return [*numbers[:1], 0, *numbers[2:]]

    refused(tmp_path, "a.tif", changed(changed(whole, 273, without), 279, without))
    refused(tmp_path, "a.tif", changed(changed(whole, 273, lambda n: n[:-1]), 279, lambda n: n[:-1]))
    refused(tmp_path, "a.tif", changed(whole, 257, lambda n: [SIDE + 32]))
    assert "more pixels" in refused(tmp_path, "a.tif", changed(whole, 257, lambda n: [SIDE - 32]))


@pytest.mark.parametrize("compression", ["packbits", "tiff_adobe_deflate", "jpeg"])
def test_damaged_codes_of_a_tiff_file_are_refused(tmp_path: Path, compression: str) -> None:
    """The library unfolds them up to the size of a strip, and looks at no checksum and no end."""
    whole = saved(gray(), "tiff", compression=compression)
    with Image.open(io.BytesIO(whole)) as opened:
        start, length = opened.tag_v2[273][-1], opened.tag_v2[279][-1]  # type: ignore[attr-defined]
    assert read(tmp_path, "a.tif", whole).std() > 10
    for filler in (b"\0", b"\xff"):
        half = length // 2
        damaged = whole[: start + half] + filler * (length - half) + whole[start + length :]
        assert "damaged" in refused(tmp_path, "a.tif", damaged)
