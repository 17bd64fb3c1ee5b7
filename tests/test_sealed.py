"""Sealed sets: what is written, what is refused by name, and that nothing is lost or half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import crypto.files
import crypto.sealing
from crypto.errors import CipherwardError
from crypto.files import json_text
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sealed import SealedDataset, manifest_mac
from crypto.sealing import clear_leftovers, seal_images, sealed_bytes

SHAPE = (16, 16, 1)
N = 40
IMAGES = np.random.default_rng(3).integers(0, 256, (N, *SHAPE), dtype=np.uint8)
LABELS = np.arange(N) % 3


def source(row):
    return IMAGES[row]


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


def test_shards_are_what_safetensors_itself_would_write(tmp_path, key):
    for scheme in ("block_pixel_shuffle", "orthogonal"):  # uint8, float32
        dataset, _ = seal(tmp_path / scheme, key, spec=describe(scheme, SHAPE, 8))
        path = tmp_path / scheme / "images-00001.safetensors"
        tensors = load_file(path)
        assert path.read_bytes() == save(tensors)
        rows = slice(8, 16) if scheme == "block_pixel_shuffle" else slice(2, 4)
        assert np.array_equal(tensors["labels"], LABELS[rows])
        assert np.array_equal(tensors["images"], dataset.rows(rows))


def spoilt(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_every_flipped_bit_is_named(tmp_path, key):
    folder = tmp_path / "s"
    spec = describe("noise", SHAPE, 8)
    seal_images(folder, source, LABELS, ["ä", "y", "z"], key, spec, "s", shard_bytes=20 * 256)
    generator = np.random.default_rng(0)
    for name, data in files(folder).items():
        if name == "manifest.json":
            places = [(at, int(generator.integers(8))) for at in range(len(data))]
            places += [(data.index(b"00e4") + 2, 5)]  # "\u00E4" says the same as "\u00e4"
        else:
            header = 8 + int.from_bytes(data[:8], "little")
            parts = [(0, 8), (8, header), (header, header + 8 * 20), (header + 8 * 20, len(data))]
            places = [(int(at), int(generator.integers(8))) for a, b in parts for at in [a, b - 1]]
            places += [(int(generator.integers(a, b)), bit) for a, b in parts for bit in range(8)]
        for at, bit in places:
            (folder / name).write_bytes(spoilt(data, at, bit))
            with pytest.raises(CipherwardError) as error:
                SealedDataset.open(folder).verify(key)
            assert name in error.value.message, (name, at, bit, error.value.message)
        (folder / name).write_bytes(data)
    SealedDataset.open(folder).verify(key)


def test_the_cloud_finds_altered_shards_without_a_key(tmp_path, key):
    folder = tmp_path / "s"
    seal(folder, key)
    for name, data in files(folder).items():
        if name != "manifest.json":
            (folder / name).write_bytes(spoilt(data, len(data) // 2, 3))
            with pytest.raises(CipherwardError, match=f"{name} is altered"):
                SealedDataset.open(folder).check_digests()
            (folder / name).write_bytes(data)


def test_truncated_missing_swapped_doubled_and_foreign_shards(tmp_path, key):
    folder = tmp_path / "s"
    seal(folder, key)
    seal(tmp_path / "foreign", key, read=lambda row: 255 - IMAGES[row])
    whole, foreign = files(folder), files(tmp_path / "foreign")
    shard, other = "images-00001.safetensors", "images-00002.safetensors"

    def refused(said: str, changed: dict[str, bytes | None]) -> None:
        for name, data in changed.items():
            (folder / name).unlink()
            if data is not None:
                (folder / name).write_bytes(data)
        with pytest.raises(CipherwardError, match=said):
            SealedDataset.open(folder).verify(key)
        for name, data in whole.items():
            (folder / name).write_bytes(data)

    def manifest(change) -> bytes:
        value = json.loads(whole["manifest.json"])
        change(value["shards"])
        return json_text(value).encode()

    entry = json.loads(foreign["manifest.json"])["shards"][1]
    refused(f"{shard} is truncated or altered", {shard: whole[shard][:-5]})
    refused(f"{shard} is truncated or altered", {shard: whole[shard][:3]})
    refused(f"{shard} is missing", {shard: None})
    refused(f"{shard} is altered", {shard: whole[other], other: whole[shard]})
    refused(f"{other} is altered", {other: whole[shard]})
    refused(f"{shard} is altered", {shard: foreign[shard]})
    # With the manifest changed to fit, its order of names, its sum of rows or its MAC tells.
    last = "images-00005.safetensors"
    named = "manifest.json names 'images-00002.safetensors' as shard 1"
    refused(named, {"manifest.json": manifest(lambda s: s.insert(1, s.pop(2)))})
    refused(
        "names 'images-00001.safetensors' as shard 2",
        {"manifest.json": manifest(lambda s: s.insert(2, s[1]))},
    )
    refused("do not add up", {"manifest.json": manifest(lambda s: s.pop())})
    (folder / last).write_bytes(whole[shard])
    refused("do not add up", {"manifest.json": manifest(lambda s: s.append({**s[1], "file": last}))})
    (folder / last).unlink()
    names = [shard, other]
    swap = manifest(
        lambda s: s.__setitem__(
            slice(1, 3), [{**s[i], "file": n} for i, n in zip((2, 1), names, strict=True)]
        )
    )
    mac = "manifest.json is altered: its MAC does not hold"
    refused(mac, {"manifest.json": swap, shard: whole[other], other: whole[shard]})
    twice = manifest(lambda s: s.__setitem__(2, {**s[1], "file": other}))
    refused(mac, {"manifest.json": twice, other: whole[shard]})
    fit = manifest(lambda s: s.__setitem__(1, entry))
    refused(mac, {"manifest.json": fit, shard: foreign[shard]})
    outside = manifest(lambda s: s[1].__setitem__("file", f"../s/{shard}"))
    refused("names '../s/images-00001.safetensors' as shard 1", {"manifest.json": outside})
    # Even with the manifest's own MAC made to fit, the shard's tells its place.
    doubled = json.loads(twice)
    doubled["mac"] = manifest_mac(key, doubled)
    refused(
        f"{other} is not this set's: bad MAC",
        {"manifest.json": json_text(doubled).encode(), other: whole[shard]},
    )


def test_labels_and_images_of_other_lengths_are_refused_when_read(tmp_path, key):
    folder = tmp_path / "s"
    seal(folder, key)
    value = json.loads((folder / "manifest.json").read_text())
    value["shards"][0]["rows"], value["shards"][1]["rows"] = 9, 7  # the sum is right
    (folder / "manifest.json").write_text(json_text(value))
    dataset = SealedDataset.open(folder)
    for read in (lambda: dataset.labels, lambda: dataset.rows(slice(0, 3)), lambda: dataset.rows([12])):
        with pytest.raises(CipherwardError, match="is truncated or altered"):
            read()


def test_a_foreign_key_is_told_by_its_id(tmp_path, key):
    dataset, _ = seal(tmp_path / "s", key)
    other = SecretKey.generate()
    with pytest.raises(CipherwardError, match=f"key {other.id} did not seal") as error:
        dataset.verify(other)
    assert key.id in error.value.hint


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it. Real ones: test_sealing_kills.py."""


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

    def stops(row):
        if row >= 24:
            raise Killed
        return source(row)

    with pytest.raises(Killed):
        seal(tmp_path / "s", key, read=stops)
    seal(tmp_path / "s", key, read=lambda row: (done.append(row), source(row))[1])
    assert sorted(done) == list(range(24, N))


def test_resuming_seals_again_what_is_no_longer_what_it_was(tmp_path, key):
    def stops(row):
        if row >= 32:
            raise Killed
        return source(row)

    seal(tmp_path / "whole", key)
    for change in (lambda p: p.unlink(), lambda p: p.write_bytes(spoilt(p.read_bytes(), 400, 0))):
        folder = tmp_path / "s"
        with pytest.raises(Killed):
            seal(folder, key, read=stops)
        change(folder / "images-00002.safetensors")
        seal(folder, key)
        assert files(folder) == files(tmp_path / "whole")
        shutil.rmtree(folder)


@pytest.mark.parametrize("many", [1, 16])
@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "noise"])
def test_unreadable_images_are_left_out_and_labels_stay_in_step(tmp_path, key, scheme, many, monkeypatch):
    monkeypatch.setattr("crypto.sealing.cores", lambda: many)
    # At borders of shards, a whole shard, and the last; `noise` has a keystream for each row.
    bad = {0, 9, 10, *range(16, 24), 39}

    def read(row):
        return None if row in bad else IMAGES[row]

    dataset, rows = seal(tmp_path / "s", key, read=read, spec=describe(scheme, SHAPE, 8))
    assert sorted(bad) == sorted(set(range(N)) - set(rows.tolist()))
    opened = load(dataset.spec).cipher(key).decrypt(dataset.rows(np.arange(len(dataset))))
    assert np.array_equal(opened, IMAGES[rows]) and np.array_equal(dataset.labels, LABELS[rows])
    dataset.verify(key)


def test_opening_reads_no_shard(tmp_path, key, monkeypatch):
    seal(tmp_path / "s", key)
    monkeypatch.setattr("crypto.sealed.map_tensor", lambda *_: pytest.fail("read"))
    dataset = SealedDataset.open(tmp_path / "s")
    assert len(dataset) == N
    with pytest.raises(pytest.fail.Exception):
        dataset.labels  # noqa: B018


@pytest.mark.parametrize(("many", "writers"), [(2, 1), (16, 3)])
def test_reading_never_runs_far_ahead_of_writing(tmp_path, key, monkeypatch, many, writers):
    # One image a shard, and a slow disk: reading has to wait, or all images would be in memory.
    count, most, written, real = 0, 0, 0, crypto.sealing.finish_shard
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
    monkeypatch.setattr("crypto.sealing.cores", lambda: many)
    monkeypatch.setattr("crypto.sealing.finish_shard", slow)
    spec = describe("block_pixel_shuffle", SHAPE, 8)
    seal_images(tmp_path / "s", read, np.arange(120) % 2, ["x", "y"], key, spec, "s", shard_bytes=256)
    assert written == 120
    assert writers + 1 <= most <= writers + 1 + 4 * many + 1 + many


def test_the_disk_that_a_set_needs_is_told_before(tmp_path, key, monkeypatch):
    monkeypatch.setattr("crypto.sealing.SHARD_BYTES", 8 * 256)
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


def test_class_names_that_would_leave_a_folder_are_refused(tmp_path, key):
    seal(tmp_path / "s", key)
    value = json.loads((tmp_path / "s" / "manifest.json").read_text())
    for name in ("../../escaped", "a/b", ".hidden", ""):
        (tmp_path / "s" / "manifest.json").write_text(json.dumps({**value, "classes": [name, "y", "z"]}))
        with pytest.raises(CipherwardError, match="is damaged"):
            SealedDataset.open(tmp_path / "s")


def test_other_images_or_keys_do_not_continue_a_sealing(tmp_path, key):
    def stops(row):
        if row >= 8:
            raise Killed
        return source(row)

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
    with pytest.raises(CipherwardError, match=r"is not a cipherward\.sealed/2 manifest"):
        SealedDataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": "cipherward.sealed/1"}')
    with pytest.raises(CipherwardError, match="sealed by an earlier version") as raised:
        SealedDataset.open(tmp_path)
    assert raised.value.hint == "seal the images again"
