"""Sealed sets: what is written, what is refused by name, and that nothing is lost or half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import crypto.files
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sealed import SealedDataset, seal_images

SHAPE = (16, 16, 1)
N = 40
IMAGES = np.random.default_rng(3).integers(0, 256, (N, *SHAPE), dtype=np.uint8)
LABELS = np.arange(N) % 3


def source(a, b):
    return IMAGES[a:b], np.ones(b - a, bool)


def seal(folder: Path, key, read=source, spec=None, name="a source", progress=lambda n: None):
    spec = spec or describe("block_pixel_shuffle", SHAPE, 8)
    # 8 images a shard: five shards.
    return seal_images(
        folder, read, LABELS, ["x", "y", "z"], key, spec, name, progress, shard_bytes=8 * 256
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_round_trip(tmp_path, key):
    dataset, rows = seal(tmp_path / "s", key)
    assert len(dataset) == N and rows.tolist() == list(range(N))
    assert np.array_equal(dataset.labels, LABELS) and dataset.classes == ["x", "y", "z"]
    cipher = load(dataset.spec).cipher(key)
    assert np.array_equal(cipher.decrypt(np.asarray(dataset.images(0, N))), IMAGES)
    # Within a shard, across shards, by rows in any order, empty.
    assert isinstance(dataset.images(1, 7), np.memmap)
    assert np.array_equal(dataset.images(5, 21), dataset.images(0, N)[5:21])
    some = np.array([39, 0, 8, 8, 17])
    assert np.array_equal(dataset.rows(some), dataset.images(0, N)[some])
    assert len(dataset.images(4, 4)) == 0
    dataset.verify(key)
    assert SealedDataset.open(tmp_path / "s").digest == dataset.digest


def test_file_names_and_plain_bytes_stay_out(tmp_path, key):
    seal(tmp_path / "s", key, name="folder /home/ada/patients/mueller.png")
    for name, data in files(tmp_path / "s").items():
        assert b"mueller" not in data, name
        assert IMAGES[0].tobytes()[:32] not in data, name


def test_every_flipped_bit_is_named(tmp_path, key):
    seal(tmp_path / "s", key)
    generator = np.random.default_rng(0)
    for name, data in files(tmp_path / "s").items():
        for at in [0, len(data) - 1, *generator.integers(0, len(data), 6)]:
            spoilt = bytearray(data)
            spoilt[at] ^= 1 << int(generator.integers(8))
            (tmp_path / "s" / name).write_bytes(spoilt)
            with pytest.raises(CipherwardError) as error:
                SealedDataset.open(tmp_path / "s").verify(key)
            told = error.value.message
            assert name in told or (name == "manifest.json" and str(tmp_path / "s") in told), (at, told)
        (tmp_path / "s" / name).write_bytes(data)
    SealedDataset.open(tmp_path / "s").verify(key)


def test_truncated_missing_swapped_and_foreign_shards(tmp_path, key):
    folder = tmp_path / "s"
    seal(folder, key)
    whole = files(folder)
    shard, other = folder / "images-00001.safetensors", folder / "images-00002.safetensors"

    def refused(said: str) -> None:
        with pytest.raises(CipherwardError, match=said):
            SealedDataset.open(folder).verify(key)
        for name, data in whole.items():
            (folder / name).write_bytes(data)

    shard.write_bytes(whole[shard.name][:-5])
    refused("images-00001.safetensors is truncated or altered")
    shard.unlink()
    refused("images-00001.safetensors is missing")
    shard.write_bytes(whole[other.name])
    other.write_bytes(whole[shard.name])
    refused("images-00001.safetensors is altered")
    # Shards of another sealing, with the manifest's digests changed to fit: only the MAC can tell.
    seal(tmp_path / "foreign", key, read=lambda a, b: (255 - IMAGES[a:b], np.ones(b - a, bool)))
    foreign = json.loads((tmp_path / "foreign" / "manifest.json").read_text())
    mine = json.loads(whole["manifest.json"])
    mine["shards"][1] = foreign["shards"][1]
    shutil.copy(tmp_path / "foreign" / shard.name, shard)
    (folder / "manifest.json").write_text(json.dumps(mine))
    refused("the manifest of .* is altered: its MAC does not hold")
    mine = json.loads(whole["manifest.json"])
    mine["shards"][1]["file"] = "../s/images-00001.safetensors"
    (folder / "manifest.json").write_text(json.dumps(mine))
    refused("names a file outside it")


def test_a_foreign_key_is_told_by_its_id(tmp_path, key):
    dataset, _ = seal(tmp_path / "s", key)
    other = SecretKey.generate()
    with pytest.raises(CipherwardError, match=f"key {other.id} did not seal") as error:
        dataset.verify(other)
    assert key.id in error.value.hint


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it."""


@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "noise"])
def test_a_killed_sealing_goes_on_and_ends_byte_identical(tmp_path, key, monkeypatch, scheme):
    # Killed at every file operation in turn: before the temporary file, before each rename, after it.
    spec = describe(scheme, SHAPE, 8)
    whole, _ = seal(tmp_path / "whole", key, spec=spec)
    expected = files(tmp_path / "whole")
    real = crypto.files.write_bytes
    reads: list[int] = []

    def counted(a, b):
        reads.append(a)
        return source(a, b)

    # A completed sealing writes 13 files: partial.json 1 + 5 times, 5 shards, the manifest.
    for stop in range(13):
        for moment in ("before", "after"):
            folder = tmp_path / f"{scheme}-{stop}-{moment}"
            count = 0

            def failing(path, data, stop=stop, moment=moment):
                nonlocal count
                count += 1
                if count == stop + 1 and moment == "before":
                    raise Killed
                real(path, data)
                if count == stop + 1:
                    raise Killed

            def failing_json(path, value, failing=failing):
                failing(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

            monkeypatch.setattr("crypto.sealed.write_bytes", failing)
            monkeypatch.setattr("crypto.sealed.write_json", failing_json)
            with contextlib.suppress(Killed):
                seal(folder, key, read=counted, spec=spec)
            monkeypatch.undo()
            if not (folder / "manifest.json").exists():
                with pytest.raises(CipherwardError, match=r"unfinished|no sealed set"):
                    SealedDataset.open(folder)
                reads.clear()
                # The scheme's nonce is that of the first try: hand in another one, as `seal` would.
                seal(folder, key, read=counted, spec=describe(scheme, SHAPE, 8) if stop else spec)
            assert not (folder / "partial.json").exists() or moment == "after"
            assert {k: v for k, v in files(folder).items() if k != "partial.json"} == expected
    assert whole.digest


def test_resuming_does_not_redo_finished_shards(tmp_path, key):
    done = []

    def stops(a, b):
        if a >= 24:
            raise Killed
        return source(a, b)

    with pytest.raises(Killed):
        seal(tmp_path / "s", key, read=stops)
    seal(tmp_path / "s", key, read=lambda a, b: (done.append(a), source(a, b))[1])
    assert done == [24, 32]


def test_unreadable_images_are_left_out_and_labels_stay_in_step(tmp_path, key):
    bad = {0, 9, 10, 39}

    def read(a, b):
        kept = np.array([i not in bad for i in range(a, b)])
        return IMAGES[a:b][kept], kept

    dataset, rows = seal(tmp_path / "s", key, read=read)
    assert sorted(bad) == sorted(set(range(N)) - set(rows.tolist()))
    opened = load(dataset.spec).cipher(key).decrypt(dataset.rows(np.arange(len(dataset))))
    assert np.array_equal(opened, IMAGES[rows]) and np.array_equal(dataset.labels, LABELS[rows])


def test_a_full_disk_says_so_and_a_second_run_finishes(tmp_path, key, monkeypatch):
    real = Path.write_bytes

    def full(path, data):
        if "00003" in path.name:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
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
    nothing = lambda a, b: (IMAGES[:0], np.zeros(b - a, bool))  # noqa: E731
    with pytest.raises(CipherwardError, match="not one image"):
        seal(tmp_path / "none", key, read=nothing)
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_class_names_that_would_leave_a_folder_are_refused(tmp_path, key):
    seal(tmp_path / "s", key)
    value = json.loads((tmp_path / "s" / "manifest.json").read_text())
    for name in ("../../escaped", "a/b", ".hidden", ""):
        (tmp_path / "s" / "manifest.json").write_text(json.dumps({**value, "classes": [name, "y", "z"]}))
        with pytest.raises(CipherwardError, match="is damaged"):
            SealedDataset.open(tmp_path / "s")


def test_other_images_or_keys_do_not_continue_a_sealing(tmp_path, key):
    def stops(a, b):
        if a:
            raise Killed
        return source(a, b)

    with pytest.raises(Killed):
        seal(tmp_path / "s", key, read=stops)
    for change in ({"name": "other images"}, {"key": SecretKey.generate()}):
        with pytest.raises(CipherwardError, match="unfinished sealing of other images"):
            seal(**{"folder": tmp_path / "s", "key": key} | change)
    seal(tmp_path / "s", key)
    with pytest.raises(CipherwardError, match="already holds a sealed set"):
        seal(tmp_path / "s", key)


def test_folders_that_are_no_sealed_sets(tmp_path):
    with pytest.raises(CipherwardError, match="no sealed set at"):
        SealedDataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CipherwardError, match="cannot read the sealed set's manifest"):
        SealedDataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": "x"}')
    with pytest.raises(CipherwardError, match=r"is not a cipherward\.sealed/1 manifest"):
        SealedDataset.open(tmp_path)
