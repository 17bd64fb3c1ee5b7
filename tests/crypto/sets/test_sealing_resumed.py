"""Interrupted sealings: nothing is lost or half-written, and the next run continues."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crypto.files
import crypto.sets.shard
from crypto.arrays import Rows, UInt8Array
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from crypto.sets.resume import clear_leftovers
from crypto.sets.writer import seal_images, sealed_bytes
from tests.support.sealed import COUNT, IMAGES, LABELS, SHAPE, contents, flip_bit, read_image, seal


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it. Real ones: test_sealing_kills.py."""


def killed_at(first: int, folder: Path, key: SecretKey) -> None:
    """Run a sealing that ends when it reads this row."""

    def read(row: int) -> UInt8Array:
        if row >= first:
            raise Killed
        return read_image(row)

    with pytest.raises(Killed):
        seal(folder, key, read=read)


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "noise"])
def test_a_sealing_stopped_at_any_file_goes_on_and_ends_byte_identical(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # two a file would take most of the time
    spec = describe(scheme, SHAPE, 8)
    seal(tmp_path / "whole" / "s", key, spec=spec)
    expected = contents(tmp_path / "whole" / "s")
    real = crypto.files.write_atomic
    # A completed sealing writes 12 files: partial.json 1 + 5 times, 5 shards, the manifest.
    for stop in range(12):
        for moment in ("before", "after"):
            folder = tmp_path / f"{stop}-{moment}" / "s"
            count = 0

            def fail_at(
                path: Path, fill: Callable[[Path], None], stop: int = stop, moment: str = moment
            ) -> None:
                nonlocal count
                count += 1
                if count <= stop or (count == stop + 1 and moment == "after"):
                    real(path, fill)
                if count > stop:
                    raise Killed

            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr("crypto.files.write_atomic", fail_at)
                seal(folder, key, spec=spec)
            if not (folder / "manifest.json").exists():
                with pytest.raises(CipherwardError, match=r"unfinished|no sealed set"):
                    SealedDataset.open(folder)
                # The nonce is that of the first try: pass another one, as `seal` would.
                seal(folder, key, spec=describe(scheme, SHAPE, 8) if stop or moment == "after" else spec)
            else:
                clear_leftovers(folder)
            assert contents(folder) == expected


def test_resuming_does_not_redo_finished_shards(tmp_path: Path, key: SecretKey) -> None:
    rows: list[int] = []

    def read(row: int) -> UInt8Array:
        rows.append(row)
        return read_image(row)

    killed_at(24, tmp_path / "s", key)
    seal(tmp_path / "s", key, read=read)
    assert sorted(rows) == list(range(24, COUNT))


def test_resuming_seals_missing_and_altered_shards_again(tmp_path: Path, key: SecretKey) -> None:
    seal(tmp_path / "whole" / "s", key)
    changes: tuple[Callable[[Path], object], ...] = (
        lambda p: p.unlink(),
        lambda p: p.write_bytes(flip_bit(p.read_bytes(), 400, 0)),
    )
    for change in changes:
        folder = tmp_path / "s"
        killed_at(32, folder, key)
        change(folder / "images-00002.safetensors")
        seal(folder, key)
        assert contents(folder) == contents(tmp_path / "whole" / "s")
        shutil.rmtree(folder)


@pytest.mark.parametrize("many", [1, 16])
@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "noise"])
def test_unreadable_images_are_left_out_and_labels_stay_in_step(
    tmp_path: Path, key: SecretKey, scheme: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crypto.sets.shard_sealer.cores", lambda: many)
    # At borders of shards, a whole shard, and the last; `noise` has a keystream for each row.
    bad = {0, 9, 10, *range(16, 24), 39}

    def read(row: int) -> UInt8Array | None:
        return None if row in bad else read_image(row)

    dataset, rows = seal(tmp_path / "s", key, read=read, spec=describe(scheme, SHAPE, 8))
    assert sorted(bad) == sorted(set(range(COUNT)) - set(rows.tolist()))
    opened = load(dataset.spec).cipher(key).decrypt(dataset.rows(np.arange(len(dataset))))
    assert np.array_equal(opened, IMAGES[rows]) and np.array_equal(dataset.labels, LABELS[rows])
    dataset.verify(key)


@pytest.mark.parametrize(("many", "writers"), [(2, 1), (16, 3)])
def test_reading_never_runs_far_ahead_of_writing(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch, many: int, writers: int
) -> None:
    # One image a shard, and a slow disk: reading has to wait, or all images would be in memory.
    count, most, written, real = 0, 0, 0, crypto.sets.shard.finish_shard
    images = np.random.default_rng(0).integers(0, 256, (120, *SHAPE), dtype=np.uint8)

    def read(row: int) -> UInt8Array:
        nonlocal count
        count += 1
        image: UInt8Array = images[row]
        return image

    def slow(*args: Any) -> tuple[int, str]:
        nonlocal most, written
        time.sleep(0.002)
        most = max(most, count - written)
        result = real(*args)
        written += 1
        return result

    monkeypatch.setattr("os.fsync", lambda handle: None)  # two a file would take most of the time
    monkeypatch.setattr("crypto.sets.shard_sealer.cores", lambda: many)
    monkeypatch.setattr("crypto.sets.shard_sealer.finish_shard", slow)
    spec = describe("block_pixel_shuffle", SHAPE, 8)
    seal_images(tmp_path / "s", read, np.arange(120) % 2, ["x", "y"], key, spec, "s", shard_bytes=256)
    assert written == 120
    assert writers + 1 <= most <= writers + 1 + 4 * many + 1 + many


def test_the_disk_that_a_set_needs_is_known_before(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crypto.sets.writer.SHARD_BYTES", 8 * 256)
    for scheme in ("block_pixel_shuffle", "orthogonal"):  # uint8, float32
        spec = describe(scheme, SHAPE, 8)
        seal(tmp_path / scheme, key, spec=spec)
        size = sum(map(len, contents(tmp_path / scheme).values()))
        assert size <= sealed_bytes(spec, COUNT) <= 3 * size
    monkeypatch.undo()
    large = describe("orthogonal", (224, 224, 3), 16)
    assert 1 <= sealed_bytes(large, 1000) / (1000 * 224 * 224 * 3 * 4) < 1.001


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path, key: SecretKey) -> None:
    seal(tmp_path / "s", key)
    expected = contents(tmp_path / "s")
    for name in (".images-00001.safetensors.77.tmp", ".partial.json.77.tmp", "partial.json"):
        (tmp_path / "s" / name).write_bytes(b"torn")
    (tmp_path / "s" / "notes.txt").write_bytes(b"mine")
    clear_leftovers(tmp_path / "s")
    assert contents(tmp_path / "s") == {**expected, "notes.txt": b"mine"}


@pytest.mark.parametrize("where", ["images", "end"])
def test_a_full_disk_says_so_and_a_second_run_finishes(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    names: dict[int, str] = {}
    real_open, real_pwrite = os.open, os.pwrite

    def noting_open(path: Path, flags: int, *mode: int) -> int:
        file = real_open(path, flags, *mode)
        names[file] = str(path)
        return file

    def full_pwrite(file: int, data: memoryview, offset: int) -> int:
        # The shard's images are written first, its head last; both by halves, and of the second there is no more.
        if "00003" in names[file] and (offset > 0 if where == "images" else offset < 100):
            if offset % 2 or len(data) < 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real_pwrite(file, data[: len(data) // 4 | 1], offset)
        return real_pwrite(file, data, offset)

    monkeypatch.setattr("os.open", noting_open)
    monkeypatch.setattr("os.pwrite", full_pwrite)
    with pytest.raises(CipherwardError, match=r"the disk is full: cannot write .*images-00003") as error:
        seal(tmp_path / "s", key)
    assert "run the same command again" in error.value.hint
    assert not [p for p in (tmp_path / "s").iterdir() if p.suffix == ".tmp" or "00003" in p.name]
    monkeypatch.undo()
    dataset, _ = seal(tmp_path / "s", key)
    dataset.verify(key)


def test_rows_are_handed_over_before_a_set_counts_as_finished(tmp_path: Path, key: SecretKey) -> None:
    rows_by_digest: dict[str, Rows] = {}

    def note(digest: str, rows: Rows) -> None:
        assert not (tmp_path / "s" / "manifest.json").exists()
        rows_by_digest[digest] = rows

    spec = describe("block_pixel_shuffle", SHAPE, 8)
    dataset, rows = seal_images(
        tmp_path / "s", read_image, LABELS, ["x", "y", "z"], key, spec, "s", before_finish=note
    )
    assert np.array_equal(rows_by_digest[dataset.digest], rows)

    def read_nothing(row: int) -> None:
        return None

    with pytest.raises(CipherwardError, match="not one image"):
        seal(tmp_path / "none", key, read=read_nothing)
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_other_images_or_keys_do_not_continue_a_sealing(tmp_path: Path, key: SecretKey) -> None:
    killed_at(8, tmp_path / "s", key)
    for other_key, name in ((key, "other images"), (SecretKey.generate(), "a source")):
        with pytest.raises(CipherwardError, match="unfinished sealing of other images"):
            seal(tmp_path / "s", other_key, name=name)
    seal(tmp_path / "s", key)
    with pytest.raises(CipherwardError, match="already holds a sealed set"):
        seal(tmp_path / "s", key)
