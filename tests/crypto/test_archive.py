"""Archives from others: nothing is unpacked beyond the limit, and all damage is of the named kinds."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from coordinator.exchange.kit import read_kit
from crypto.archive import DAMAGE, read_members
from crypto.errors import CipherwardError
from parties.agent.bundle import parse_bundle
from parties.sources.npz import Npz

TOO_LARGE = CipherwardError("too large", "make it smaller")
METHODS = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def archive_of(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("manifest.json", content)
    return stream.getvalue()


def understated(data: bytes, true: int, stated: int) -> bytes:
    """Return an archive whose headers state another size."""
    true_bytes, stated_bytes = true.to_bytes(4, "little"), stated.to_bytes(4, "little")
    assert data.count(true_bytes) == 2
    return data.replace(true_bytes, stated_bytes)


def read(data: bytes, most_bytes: int = 1000) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return read_members(archive, most_bytes, 2, TOO_LARGE)


def test_members_up_to_the_limit_are_read() -> None:
    assert read(archive_of(b"x" * 1000)) == [("manifest.json", b"x" * 1000)]
    with pytest.raises(CipherwardError, match="too large"):
        read(archive_of(b"x" * 1001))


@pytest.mark.parametrize("method", METHODS[1:])
def test_methods_that_unpack_without_a_limit_are_refused(method: int) -> None:
    with pytest.raises(zipfile.BadZipFile, match="compression method is not"):
        read(archive_of(b"x" * 100, method))


@pytest.mark.parametrize("method", METHODS)
def test_a_member_larger_than_it_says_is_damage(method: int) -> None:
    data = understated(archive_of(bytes(123_457), method), 123_457, 100)
    with pytest.raises(DAMAGE):
        read(data)


def hostile_archives() -> list[bytes]:
    """Return archives that are damaged, each in another way."""
    good = archive_of(bytes(range(256)) * 2)
    flipped = bytearray(good)
    flipped[50] ^= 0xFF
    return [
        bytes(flipped),
        understated(archive_of(bytes(123_457)), 123_457, 100),
        understated(archive_of(bytes(123_457)), 123_457, 200_001),
        archive_of(bytes(1000), zipfile.ZIP_LZMA),
        archive_of(bytes(1000), zipfile.ZIP_BZIP2),
        good[: len(good) // 2],
    ]


@pytest.mark.parametrize("number", range(len(hostile_archives())))
def test_a_damaged_kit_bundle_or_npz_is_one_line(tmp_path: Path, number: int) -> None:
    data, path = hostile_archives()[number], tmp_path / "a.kit"
    path.write_bytes(data)
    for attempt in (lambda: read_kit(path), lambda: parse_bundle(data, "the bundle")):
        with pytest.raises(CipherwardError) as refused:
            attempt()
        assert refused.value.hint and "\n" not in refused.value.message


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_npz_of_such_a_method_is_refused_before_it_is_unpacked(tmp_path: Path, method: int) -> None:
    path = tmp_path / "images.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for split in ("train", "val", "test"):
            for name, array in (("images", np.zeros((4, 28, 28), np.uint8)), ("labels", np.arange(4) % 2)):
                stream = io.BytesIO()
                np.save(stream, array)
                archive.writestr(f"{split}_{name}.npy", stream.getvalue())
    with pytest.raises(CipherwardError, match="compression method is not supported"):
        Npz(path, 28, 1, "train")
