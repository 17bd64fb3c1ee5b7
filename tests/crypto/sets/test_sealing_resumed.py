"""Sealings that stop: nothing is lost, nothing half-written, and the next run goes on."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import crypto.files
import crypto.sets.writer
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from crypto.sets.resume import clear_leftovers
from crypto.sets.writer import seal_images, sealed_bytes
from tests.support.sealed import IMAGES, LABELS, SHAPE, N, files, seal, source, spoilt


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it. Real ones: test_sealing_kills.py."""


def killed_at(first: int, folder: Path, key: SecretKey) -> None:
    """A sealing that ends when it reads this row."""

    def read(row: int) -> np.ndarray:
        if row >= first:
            raise Killed
        return source(row)

    with pytest.raises(Killed):
        seal(folder, key, read=read)


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "noise"])
def test_a_sealing_stopped_at_any_file_goes_on_and_ends_byte_identical(tmp_path, key, monkeypatch, scheme):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # two a file would take most of the time
    spec = describe(scheme, SHAPE, 8)
    seal(tmp_path / "whole", key, spec=spec)
    expected = files(tmp_path / "whole")
    real = crypto.files.write_atomic
    # A completed sealing writes 12 files: partial.json 1 + 5 times, 5 shards, the manifest.
    for stop in range(12):
        for moment in ("before", "after"):
            folder = tmp_path / f"{stop}-{moment}"
            count = 0

            def failing(path, fill, stop=stop, moment=moment):
                nonlocal count
                count += 1
                if count <= stop:
                    return real(path, fill)
                if count == stop + 1 and moment == "after":
                    real(path, fill)
                raise Killed

            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr("crypto.files.write_atomic", failing)
                seal(folder, key, spec=spec)
            if not (folder / "manifest.json").exists():
                with pytest.raises(CipherwardError, match=r"unfinished|no sealed set"):
                    SealedDataset.open(folder)
                # The scheme's nonce is that of the first try: hand in another one, as `seal` would.
                seal(folder, key, spec=describe(scheme, SHAPE, 8) if stop or moment == "after" else spec)
            else:
                clear_leftovers(folder)
            assert files(folder) == expected


def test_resuming_does_not_redo_finished_shards(tmp_path, key):
    done = []

    killed_at(24, tmp_path / "s", key)
    seal(tmp_path / "s", key, read=lambda row: (done.append(row), source(row))[1])
    assert sorted(done) == list(range(24, N))


def test_resuming_seals_again_what_is_no_longer_what_it_was(tmp_path, key):
    seal(tmp_path / "whole", key)
    for change in (lambda p: p.unlink(), lambda p: p.write_bytes(spoilt(p.read_bytes(), 400, 0))):
        folder = tmp_path / "s"
        killed_at(32, folder, key)
        change(folder / "images-00002.safetensors")
        seal(folder, key)
        assert files(folder) == files(tmp_path / "whole")
        shutil.rmtree(folder)


@pytest.mark.parametrize("many", [1, 16])
@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "noise"])
def test_unreadable_images_are_left_out_and_labels_stay_in_step(tmp_path, key, scheme, many, monkeypatch):
    monkeypatch.setattr("crypto.sets.writer.cores", lambda: many)
    # At borders of shards, a whole shard, and the last; `noise` has a keystream for each row.
    bad = {0, 9, 10, *range(16, 24), 39}

    def read(row):
        return None if row in bad else IMAGES[row]

    dataset, rows = seal(tmp_path / "s", key, read=read, spec=describe(scheme, SHAPE, 8))
    assert sorted(bad) == sorted(set(range(N)) - set(rows.tolist()))
    opened = load(dataset.spec).cipher(key).decrypt(dataset.rows(np.arange(len(dataset))))
    assert np.array_equal(opened, IMAGES[rows]) and np.array_equal(dataset.labels, LABELS[rows])
    dataset.verify(key)


@pytest.mark.parametrize(("many", "writers"), [(2, 1), (16, 3)])
def test_reading_never_runs_far_ahead_of_writing(tmp_path, key, monkeypatch, many, writers):
    # One image a shard, and a slow disk: reading has to wait, or all images would be in memory.
    count, most, written, real = 0, 0, 0, crypto.sets.writer.finish_shard
    images = np.random.default_rng(0).integers(0, 256, (120, *SHAPE), dtype=np.uint8)

    def read(row):
        nonlocal count
        count += 1
        return images[row]

    def slow(*args):
        nonlocal most, written
        time.sleep(0.002)
        most = max(most, count - written)
        done = real(*args)
        written += 1
        return done

    monkeypatch.setattr("os.fsync", lambda handle: None)  # two a file would take most of the time
    monkeypatch.setattr("crypto.sets.writer.cores", lambda: many)
    monkeypatch.setattr("crypto.sets.writer.finish_shard", slow)
    spec = describe("block_pixel_shuffle", SHAPE, 8)
    seal_images(tmp_path / "s", read, np.arange(120) % 2, ["x", "y"], key, spec, "s", shard_bytes=256)
    assert written == 120
    assert writers + 1 <= most <= writers + 1 + 4 * many + 1 + many


def test_the_disk_that_a_set_needs_is_told_before(tmp_path, key, monkeypatch):
    monkeypatch.setattr("crypto.sets.writer.SHARD_BYTES", 8 * 256)
    for scheme in ("block_pixel_shuffle", "orthogonal"):  # uint8, float32
        spec = describe(scheme, SHAPE, 8)
        seal(tmp_path / scheme, key, spec=spec)
        took = sum(map(len, files(tmp_path / scheme).values()))
        assert took <= sealed_bytes(spec, N) <= 3 * took
    monkeypatch.undo()
    large = describe("orthogonal", (224, 224, 3), 16)
    assert 1 <= sealed_bytes(large, 1000) / (1000 * 224 * 224 * 3 * 4) < 1.001


def test_what_a_killed_writer_left_is_cleared_away(tmp_path, key):
    seal(tmp_path / "s", key)
    expected = files(tmp_path / "s")
    for name in (".images-00001.safetensors.77.tmp", ".partial.json.77.tmp", "partial.json"):
        (tmp_path / "s" / name).write_bytes(b"torn")
    (tmp_path / "s" / "notes.txt").write_bytes(b"mine")
    clear_leftovers(tmp_path / "s")
    assert files(tmp_path / "s") == {**expected, "notes.txt": b"mine"}


@pytest.mark.parametrize("where", ["images", "end"])
def test_a_full_disk_says_so_and_a_second_run_finishes(tmp_path, key, monkeypatch, where):
    begun: dict[int, str] = {}

    def opened(path, flags, *mode, real=os.open):
        file = real(path, flags, *mode)
        begun[file] = str(path)
        return file

    def full(file, data, place, real=os.pwrite):
        # The shard's images are written first, its head last; both by halves, and of the second there is no more.
        if "00003" in begun[file] and (place > 0 if where == "images" else place < 100):
            if place % 2 or len(data) < 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(file, data[: len(data) // 4 | 1], place)
        return real(file, data, place)

    monkeypatch.setattr("os.open", opened)
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(CipherwardError, match=r"the disk is full: cannot write .*images-00003") as error:
        seal(tmp_path / "s", key)
    assert "run the same command again" in error.value.hint
    assert not [p for p in (tmp_path / "s").iterdir() if p.suffix == ".tmp" or "00003" in p.name]
    monkeypatch.undo()
    dataset, _ = seal(tmp_path / "s", key)
    dataset.verify(key)


def test_rows_are_kept_before_a_set_counts_as_finished(tmp_path, key):
    kept = {}

    def keep(digest, rows):
        assert not (tmp_path / "s" / "manifest.json").exists()
        kept[digest] = rows

    spec = describe("block_pixel_shuffle", SHAPE, 8)
    dataset, rows = seal_images(tmp_path / "s", source, LABELS, ["x", "y", "z"], key, spec, "s", keep=keep)
    assert np.array_equal(kept[dataset.digest], rows)
    nothing = lambda row: None  # noqa: E731
    with pytest.raises(CipherwardError, match="not one image"):
        seal(tmp_path / "none", key, read=nothing)
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_other_images_or_keys_do_not_continue_a_sealing(tmp_path, key):
    killed_at(8, tmp_path / "s", key)
    for change in ({"name": "other images"}, {"key": SecretKey.generate()}):
        with pytest.raises(CipherwardError, match="unfinished sealing of other images"):
            seal(**{"folder": tmp_path / "s", "key": key} | change)
    seal(tmp_path / "s", key)
    with pytest.raises(CipherwardError, match="already holds a sealed set"):
        seal(tmp_path / "s", key)
