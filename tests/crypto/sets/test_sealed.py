"""Sealed sets: what is written and read, and that every defect is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from crypto.errors import CipherwardError
from crypto.files import json_text
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset, manifest_mac
from crypto.sets.writer import seal_images
from tests.support.sealed import COUNT, IMAGES, LABELS, SHAPE, contents, flip_bit, read_image, seal


def test_round_trip(tmp_path: Path, key: SecretKey) -> None:
    dataset, rows = seal(tmp_path / "s", key)
    assert len(dataset) == COUNT and rows.tolist() == list(range(COUNT))
    assert np.array_equal(dataset.labels, LABELS) and dataset.classes == ["x", "y", "z"]
    cipher = load(dataset.spec).cipher(key)
    assert np.array_equal(cipher.decrypt(np.asarray(dataset.images(0, COUNT))), IMAGES)
    # Within a shard, across shards, by rows in any order, empty.
    assert isinstance(dataset.images(1, 7), np.memmap)
    assert np.array_equal(dataset.images(5, 21), dataset.images(0, COUNT)[5:21])
    rows = np.array([39, 0, 8, 8, 17])
    assert np.array_equal(dataset.rows(rows), dataset.images(0, COUNT)[rows])
    assert len(dataset.images(4, 4)) == 0
    dataset.verify(key)
    assert SealedDataset.open(tmp_path / "s").digest == dataset.digest


def test_file_names_and_plain_bytes_stay_out(tmp_path: Path, key: SecretKey) -> None:
    seal(tmp_path / "s", key, name="folder /home/ada/patients/mueller.png")
    for name, data in contents(tmp_path / "s").items():
        assert b"mueller" not in data, name
        assert IMAGES[0].tobytes()[:32] not in data, name


def test_shards_are_what_safetensors_itself_would_write(tmp_path: Path, key: SecretKey) -> None:
    for scheme in ("block_pixel_shuffle", "orthogonal"):  # uint8, float32
        dataset, _ = seal(tmp_path / scheme, key, spec=describe(scheme, SHAPE, 8))
        path = tmp_path / scheme / "images-00001.safetensors"
        tensors = load_file(path)
        assert path.read_bytes() == save(tensors)
        rows = slice(8, 16) if scheme == "block_pixel_shuffle" else slice(2, 4)
        assert np.array_equal(tensors["labels"], LABELS[rows])
        assert np.array_equal(tensors["images"], dataset.rows(rows))


def test_every_flipped_bit_is_named(tmp_path: Path, key: SecretKey) -> None:
    folder = tmp_path / "s"
    spec = describe("noise", SHAPE, 8)
    seal_images(folder, read_image, LABELS, ["ä", "y", "z"], key, spec, "s", shard_bytes=20 * 256)
    generator = np.random.default_rng(0)
    for name, data in contents(folder).items():
        if name == "manifest.json":
            places = [(at, int(generator.integers(8))) for at in range(len(data))]
            places += [(data.index(b"00e4") + 2, 5)]  # "\u00E4" says the same as "\u00e4"
        else:
            header = 8 + int.from_bytes(data[:8], "little")
            parts = [(0, 8), (8, header), (header, header + 8 * 20), (header + 8 * 20, len(data))]
            places = [(int(at), int(generator.integers(8))) for a, b in parts for at in [a, b - 1]]
            places += [(int(generator.integers(a, b)), bit) for a, b in parts for bit in range(8)]
        for at, bit in places:
            (folder / name).write_bytes(flip_bit(data, at, bit))
            with pytest.raises(CipherwardError) as error:
                SealedDataset.open(folder).verify(key)
            assert name in error.value.message, (name, at, bit, error.value.message)
        (folder / name).write_bytes(data)
    SealedDataset.open(folder).verify(key)


def test_the_cloud_finds_altered_shards_without_a_key(tmp_path: Path, key: SecretKey) -> None:
    folder = tmp_path / "s"
    seal(folder, key)
    for name, data in contents(folder).items():
        if name != "manifest.json":
            (folder / name).write_bytes(flip_bit(data, len(data) // 2, 3))
            with pytest.raises(CipherwardError, match=f"{name} is altered"):
                SealedDataset.open(folder).check_digests()
            (folder / name).write_bytes(data)


def test_truncated_missing_swapped_doubled_and_foreign_shards(tmp_path: Path, key: SecretKey) -> None:
    folder = tmp_path / "s"
    seal(folder, key)
    seal(tmp_path / "foreign", key, read=lambda row: 255 - IMAGES[row])
    intact, foreign = contents(folder), contents(tmp_path / "foreign")
    shard, other = "images-00001.safetensors", "images-00002.safetensors"

    def check_refused(message: str, changed: Mapping[str, bytes | None]) -> None:
        for name, data in changed.items():
            (folder / name).unlink()
            if data is not None:
                (folder / name).write_bytes(data)
        with pytest.raises(CipherwardError, match=message):
            SealedDataset.open(folder).verify(key)
        for name, data in intact.items():
            (folder / name).write_bytes(data)

    def manifest(change: Callable[[list[Any]], object]) -> bytes:
        value = json.loads(intact["manifest.json"])
        change(value["shards"])
        return json_text(value).encode()

    entry = json.loads(foreign["manifest.json"])["shards"][1]
    check_refused(f"{shard} is truncated or altered", {shard: intact[shard][:-5]})
    check_refused(f"{shard} is truncated or altered", {shard: intact[shard][:3]})
    check_refused(f"{shard} is missing", {shard: None})
    check_refused(f"{shard} is altered", {shard: intact[other], other: intact[shard]})
    check_refused(f"{other} is altered", {other: intact[shard]})
    check_refused(f"{shard} is altered", {shard: foreign[shard]})
    # With the manifest changed to fit, its order of names, its sum of rows or its MAC tells.
    last = "images-00005.safetensors"
    named = "manifest.json names 'images-00002.safetensors' as shard 1"
    check_refused(named, {"manifest.json": manifest(lambda s: s.insert(1, s.pop(2)))})
    check_refused(
        "names 'images-00001.safetensors' as shard 2",
        {"manifest.json": manifest(lambda s: s.insert(2, s[1]))},
    )
    check_refused("do not add up", {"manifest.json": manifest(lambda s: s.pop())})
    (folder / last).write_bytes(intact[shard])
    check_refused("do not add up", {"manifest.json": manifest(lambda s: s.append({**s[1], "file": last}))})
    (folder / last).unlink()
    names = [shard, other]
    swap = manifest(
        lambda s: s.__setitem__(
            slice(1, 3), [{**s[i], "file": n} for i, n in zip((2, 1), names, strict=True)]
        )
    )
    mac = "manifest.json is altered: its MAC does not hold"
    check_refused(mac, {"manifest.json": swap, shard: intact[other], other: intact[shard]})
    twice = manifest(lambda s: s.__setitem__(2, {**s[1], "file": other}))
    check_refused(mac, {"manifest.json": twice, other: intact[shard]})
    fit = manifest(lambda s: s.__setitem__(1, entry))
    check_refused(mac, {"manifest.json": fit, shard: foreign[shard]})
    outside = manifest(lambda s: s[1].__setitem__("file", f"../s/{shard}"))
    check_refused("names '../s/images-00001.safetensors' as shard 1", {"manifest.json": outside})
    # Even with the manifest's own MAC made to fit, the shard's tells its place.
    doubled = json.loads(twice)
    doubled["mac"] = manifest_mac(key, "s", doubled)
    check_refused(
        f"{other} is not this set's: bad MAC",
        {"manifest.json": json_text(doubled).encode(), other: intact[shard]},
    )


def test_files_that_do_not_belong_to_the_set_are_named(tmp_path: Path, key: SecretKey) -> None:
    sealed, _ = seal(tmp_path / "s", key)
    for name in ("plain.jpg", "images-00007.safetensors", ".plain.jpg", ".DS_Store", "..jpg"):
        (tmp_path / "s" / name).touch()
        with pytest.raises(CipherwardError, match=f"{name} is no part of this sealed set"):
            sealed.verify(key)
        (tmp_path / "s" / name).unlink()
    for name in ("originals", ".originals"):
        (tmp_path / "s" / name).mkdir()
        (tmp_path / "s" / name / "plain.jpg").touch()
        with pytest.raises(CipherwardError, match=f"{name} is no part of this sealed set"):
            sealed.verify(key)
        (tmp_path / "s" / name / "plain.jpg").unlink()
        (tmp_path / "s" / name).rmdir()
    (tmp_path / "s" / ".link").symlink_to(tmp_path / "absent")
    with pytest.raises(CipherwardError, match=r"\.link is no part of this sealed set"):
        sealed.verify(key)
    (tmp_path / "s" / ".link").unlink()
    sealed.verify(key)


def test_another_set_of_the_same_key_is_found(tmp_path: Path, key: SecretKey) -> None:
    seal(tmp_path / "train", key)
    seal(tmp_path / "val", key, read=lambda row: 255 - IMAGES[row])
    for source, target in (("val", "train"), ("train", "val")):
        shutil.copytree(tmp_path / target, tmp_path / "backup")
        shutil.rmtree(tmp_path / target)
        shutil.copytree(tmp_path / source, tmp_path / target)
        swapped = SealedDataset.open(tmp_path / target)
        swapped.check_digests()  # without the key, it is a sound set
        with pytest.raises(
            CipherwardError, match=f"holds the set '{source}', which was put in the place of"
        ):
            swapped.verify(key)
        shutil.rmtree(tmp_path / target)
        (tmp_path / "backup").rename(tmp_path / target)
        SealedDataset.open(tmp_path / target).verify(key)
    # Alone under another name, it is refused too; what it is called does not matter, a link to it is the set.
    (tmp_path / "far").mkdir()
    shutil.copytree(tmp_path / "val", tmp_path / "far" / "train")
    with pytest.raises(CipherwardError, match="its MAC does not hold") as error:
        SealedDataset.open(tmp_path / "far" / "train").verify(key)
    assert "sealed under" in error.value.hint
    (tmp_path / "link").symlink_to(tmp_path / "val")
    SealedDataset.open(tmp_path / "link").verify(key)
    # The name stands nowhere in the set.
    assert all(b"train" not in data for data in contents(tmp_path / "train").values())


def test_labels_and_images_of_other_lengths_are_refused_when_read(tmp_path: Path, key: SecretKey) -> None:
    folder = tmp_path / "s"
    seal(folder, key)
    value = json.loads((folder / "manifest.json").read_text())
    value["shards"][0]["rows"], value["shards"][1]["rows"] = 9, 7  # the sum is right
    (folder / "manifest.json").write_text(json_text(value))
    dataset = SealedDataset.open(folder)
    reads: tuple[Callable[[], object], ...] = (
        lambda: dataset.labels,
        lambda: dataset.rows(slice(0, 3)),
        lambda: dataset.rows(np.array([12])),
    )
    for read in reads:
        with pytest.raises(CipherwardError, match="is truncated or altered"):
            read()


def test_a_foreign_key_is_named_by_its_id(tmp_path: Path, key: SecretKey) -> None:
    dataset, _ = seal(tmp_path / "s", key)
    other = SecretKey.generate()
    with pytest.raises(CipherwardError, match=f"key {other.id} did not seal") as error:
        dataset.verify(other)
    assert key.id in error.value.hint


def test_opening_reads_no_shard(tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(tmp_path / "s", key)
    monkeypatch.setattr("crypto.sets.dataset.map_tensor", lambda *_: pytest.fail("read"))
    dataset = SealedDataset.open(tmp_path / "s")
    assert len(dataset) == COUNT
    with pytest.raises(pytest.fail.Exception):
        dataset.labels  # noqa: B018


def test_class_names_that_would_leave_a_folder_are_refused(tmp_path: Path, key: SecretKey) -> None:
    seal(tmp_path / "s", key)
    value = json.loads((tmp_path / "s" / "manifest.json").read_text())
    for name in ("../../escaped", "a/b", ".hidden", ""):
        (tmp_path / "s" / "manifest.json").write_text(json.dumps({**value, "classes": [name, "y", "z"]}))
        with pytest.raises(CipherwardError, match="is damaged"):
            SealedDataset.open(tmp_path / "s")


def test_folders_that_are_no_sealed_sets(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="no sealed set at"):
        SealedDataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CipherwardError, match="cannot read the sealed set's manifest"):
        SealedDataset.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": "x"}')
    with pytest.raises(CipherwardError, match=r"is not a cipherward\.sealed/3 manifest"):
        SealedDataset.open(tmp_path)
    for earlier in ("cipherward.sealed/1", "cipherward.sealed/2"):
        (tmp_path / "manifest.json").write_text(json.dumps({"schema": earlier}))
        with pytest.raises(
            CipherwardError, match=f"sealed by an earlier version .* as {earlier}"
        ) as raised:
            SealedDataset.open(tmp_path)
        assert raised.value.hint == "seal the images again"


def test_an_open_set_holds_few_descriptors_and_a_closed_one_none(tmp_path: Path, key: SecretKey) -> None:
    """Each mapped shard holds a descriptor: a pool of many shards, or many sets, would use up a process's 1,024."""
    images = np.arange(200 * 64, dtype=np.uint16).astype(np.uint8).reshape(200, 8, 8, 1)
    spec = describe("etc", (8, 8, 1), 4)
    labels = np.zeros(200, np.int64)
    sealed, _ = seal_images(
        tmp_path / "s", images.__getitem__, labels, ["a"], key, spec, "a source", shard_bytes=1
    )
    assert len(sealed.manifest["shards"]) == 200

    def descriptors() -> int:
        links = (fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())
        return sum(link.is_relative_to(tmp_path) for link in links)

    everything = sealed.rows(np.arange(200))
    assert sealed.labels.tolist() == [0] * 200
    assert 0 < descriptors() <= 64
    view = sealed.images(0, 1)  # in a map that is let go of meanwhile
    again = np.concatenate([sealed.images(i, i + 1) for i in range(200)])
    assert np.array_equal(again, everything) and np.array_equal(view, everything[:1])
    del sealed, view
    assert descriptors() == 0
