"""Image files told by content: other formats, bombs and pipes reach no decoder, in any place that opens images."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.adversary.run.public_images import read_public
from coordinator.exchange import image_file
from coordinator.exchange.image_file import (
    MAX_PIXELS,
    UnreadableFormatError,
    format_of,
    open_image,
    open_image_bytes,
)
from crypto.errors import CipherwardError
from parties.sources.picture import UndecodableImageError, read_picture
from tests.support.paths import ROOT

#: The formats that a hospital's images may have.
KNOWN = f"{', '.join(image_file.HOSPITAL_FORMATS[:-1])} or {image_file.HOSPITAL_FORMATS[-1]}"
#: Starts Ghostscript in Pillow's decoder for EPS.
EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n"
    b"(/tmp/owned) (w) file closefile showpage\n%%EOF\n"
)
#: One channel of 20 × 20 pixels, as Photoshop writes it.
PSD = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, 20, 20, 8, 1) + struct.pack(">IIIH", 0, 0, 0, 0) + bytes(400)
#: What each open place of the product reads: a file, to be refused as an image.
READERS: list[Callable[[Path], object]] = [
    lambda path: read_picture(path, 20, 1),
    lambda path: read_public(path.parent, (20, 20, 1)),
]


def other_formats(folder: Path) -> dict[str, bytes]:
    """Return files that Pillow decodes by default, of formats that are not allowed."""
    picture = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20))
    contents = {"EPS": EPS, "PSD": PSD}
    for name in ("GIF", "ICO", "PPM", "TGA", "SGI", "PCX", "IM", "DDS"):
        picture.convert("RGB" if name in ("ICO", "DDS") else "L").save(folder / "x", format=name)
        contents[name] = (folder / "x").read_bytes()
    (folder / "x").unlink()
    return contents


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names every decoder of Pillow that sees a file, and every process that starts."""
    Image.init()
    seen: list[str] = []

    def spy(name: str, factory: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            seen.append(name)
            return factory(*arguments)

        return watched

    for name, (factory, accept) in Image.OPEN.items():
        monkeypatch.setitem(Image.OPEN, name, (spy(name, factory), accept))
    for module, start in ((subprocess, "Popen"), (os, "system")):
        monkeypatch.setattr(module, start, lambda *_, **__: seen.append("a process"))
    return seen


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_no_decoder_of_another_format_sees_a_file(tmp_path: Path, decoders: list[str], suffix: str) -> None:
    contents = other_formats(tmp_path)
    decoders.clear()
    for name, content in contents.items():
        path = tmp_path / name / f"scan{suffix}"
        path.parent.mkdir()
        path.write_bytes(content)
        for read in READERS:
            with pytest.raises(CipherwardError) as error:
                read(path)
            assert not decoders, name
        with pytest.raises(UndecodableImageError) as error:
            read_picture(path, 20, 1)
        assert error.value.reason == f"its content is not {KNOWN}"
        # The attack is one: Pillow on its own gives the file to that decoder.
        try:
            with Image.open(path) as picture:
                picture.load()
        except Exception:
            assert name == "EPS"  # its interpreter is replaced here
        assert name in decoders, name
        decoders.clear()


def test_content_decides_not_the_name(tmp_path: Path, decoders: list[str]) -> None:
    gray = np.full((20, 20), 90, np.uint8)
    for kind, name in (("JPEG", "a.png"), ("PNG", "b.jpg"), ("BMP", "c.png")):
        Image.fromarray(gray).save(tmp_path / name, format=kind)
    for kind, name in (("TIFF", "d.png"), ("WEBP", "e.jpg")):
        (tmp_path / "hospital").mkdir(exist_ok=True)
        Image.fromarray(gray).save(tmp_path / "hospital" / name, format=kind, lossless=True)
    for name in ("a.png", "b.jpg", "c.png", "hospital/d.png", "hospital/e.jpg"):
        assert (read_picture(tmp_path / name, 20, 1)[..., 0] == gray).all()
        assert (read_picture(tmp_path / name, 10, 1) == 90).all()
    shutil.rmtree(tmp_path / "hospital")
    assert len(read_public(tmp_path, (20, 20, 1))) == 3  # public images may be BMP
    assert set(decoders) == {"PNG", "JPEG", "BMP", "TIFF", "WEBP"}


def png_of(width: int, height: int) -> bytes:
    """Return a PNG file of black pixels, whose rows are not there."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


# Below Pillow's own limit, between its warning and its error, and above both.
@pytest.mark.parametrize("side", [9460, 12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_unfolds(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(side, side))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UndecodableImageError, match="pixels"):
        read_picture(tmp_path / "bomb.png", 20, 1)
    with pytest.raises(CipherwardError, match="no public image"):
        read_public(tmp_path, (20, 20, 1))
    assert MAX_PIXELS <= Image.MAX_IMAGE_PIXELS  # type: ignore[operator]  # it is set by default


def test_a_pipe_does_not_wait_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UndecodableImageError, match="not a regular file"):
        read_picture(tmp_path / "pipe.png", 20, 1)
    with pytest.raises(CipherwardError, match="no public image"):
        read_public(tmp_path, (20, 20, 1))


def test_left_out_public_files_are_counted(tmp_path: Path) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(EPS)
    (tmp_path / "c.bmp").write_bytes(b"BM" + bytes(30))
    lines: list[str] = []
    assert len(read_public(tmp_path, (20, 20, 1), lines.append)) == 1
    assert len(lines) == 1 and "2 files left out" in lines[0]


def test_format_of_knows_allowed_formats_only() -> None:
    assert format_of(b"BM and more", image_file.PUBLIC_FORMATS) == "BMP"
    for start in (b"", b"B", b"\xff\xd8", b"\x89PNG\r\n", b"B", b"II*"):
        with pytest.raises(UnreadableFormatError):
            format_of(start, image_file.HOSPITAL_FORMATS)


def test_images_are_opened_in_one_place_only() -> None:
    """Check the product's code: Pillow's `open` stands in the module that restricts it, and nowhere else."""
    call = re.compile(r"Image\.open\(|from PIL\.Image import .*\bopen\b|imread\(")
    users = [
        str(path.relative_to(ROOT))
        for room in ("crypto", "coordinator", "parties", "cipherward")
        for path in sorted((ROOT / room).rglob("*.py"))
        if call.search(path.read_text())
    ]
    assert users == ["coordinator/exchange/image_file.py"]
    assert open_image.__module__ == "coordinator.exchange.image_file"


def test_bytes_are_opened_as_files_are() -> None:
    picture = Image.new("L", (4, 4), 7)
    for kind, allowed in (("PNG", True), ("JPEG", True), ("GIF", False)):
        file = io.BytesIO()
        picture.save(file, kind)
        if allowed:
            with open_image_bytes(file.getvalue()) as opened:
                assert opened.format == kind and opened.size == (4, 4)
        else:
            with pytest.raises(UnreadableFormatError), open_image_bytes(file.getvalue()):
                pass


def test_nothing_else_hands_a_file_to_pillow() -> None:
    users = [
        str(path.relative_to(ROOT))
        for package in ("crypto", "coordinator", "parties", "cipherward", "benchmarks")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "Image.open(" in path.read_text()
    ]
    assert users == ["coordinator/exchange/image_file.py"]
