"""MedMNIST files: shapes, modes, sizes, pieces, and every kind of bad file."""

from __future__ import annotations

import io
import math
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pytest

from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from parties.sources import npz
from parties.sources.npz import Npz
from parties.sources.picture import UndecodableImageError
from parties.sources.source import Request, open_source, share_of
from tests.support.command_runs import Party

RNG = np.random.default_rng(3)


def make_arrays(
    colour: bool = False, classes: int = 3, side: tuple[int, int] = (12, 12)
) -> dict[str, AnyArray]:
    arrays: dict[str, AnyArray] = {}
    for split, n in (("train", 9), ("val", 4), ("test", 5)):
        shape = (n, *side, 3) if colour else (n, *side)
        arrays[f"{split}_images"] = RNG.integers(0, 256, shape, np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    return arrays


def write_file(path: Path, **changes: AnyArray | None) -> Path:
    """Write m.npz with the changed arrays; None leaves one out."""
    arrays: dict[str, Any] = {k: v for k, v in (make_arrays() | changes).items() if v is not None}
    np.savez_compressed(path / "m.npz", **arrays)
    return path / "m.npz"


def clear_caches() -> None:
    """Forget open files and pieces of earlier tests."""
    npz.image_stream.cache_clear()
    npz.read_piece.cache_clear()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("colour", [False, True])
def test_images_and_labels_come_out_as_they_went_in(
    tmp_path: Path, save: Callable[..., None], colour: bool
) -> None:
    arrays: dict[str, Any] = make_arrays(colour)
    save(tmp_path / "m.npz", **arrays)
    for split in npz.SPLITS:
        source = Npz(tmp_path / "m.npz", 12, 3 if colour else 1, split)
        images = arrays[f"{split}_images"]
        assert source.classes == ["0", "1", "2"] and not source.public
        assert (source.labels == arrays[f"{split}_labels"][:, 0]).all() and source.labels.dtype == np.int64
        for row in reversed(range(len(source))):
            assert (source.read(row) == images[row].reshape(12, 12, -1)).all()
        assert len(set(source.names)) == len(source) == len(images)


def test_modes_and_sizes_are_brought_to_one(tmp_path: Path) -> None:
    path = write_file(tmp_path, train_images=np.full((9, 20, 10), 77, np.uint8))
    colour = Npz(path, 16, 3, "train").read(2)
    assert colour.shape == (16, 16, 3) and (colour == 77).all()
    (tmp_path / "c").mkdir()
    arrays: dict[str, Any] = make_arrays(colour=True)
    gray = Npz(write_file(tmp_path / "c", **arrays), 12, 1, "val").read(1)
    weights = np.array([299, 587, 114]) / 1000
    assert (
        gray.shape == (12, 12, 1) and np.abs(gray[..., 0] - arrays["val_images"][1] @ weights).max() < 1.01
    )


def test_a_large_array_is_read_in_pieces_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "PIECE_BYTES", 2 * 144)  # two images
    arrays: dict[str, Any] = make_arrays()
    source = Npz(write_file(tmp_path, **arrays), 12, 1, "train")
    opened = []
    open_array = npz.open_array

    def counting_open(path: Path, name: str) -> IO[bytes]:
        opened.append(name)
        return open_array(path, name)

    monkeypatch.setattr(npz, "open_array", counting_open)
    clear_caches()
    read = np.stack([source.read(row) for row in range(9)])
    assert (read[..., 0] == arrays["train_images"]).all()
    assert len(opened) == 2  # once for the checksum, once for all images
    assert npz.read_piece.cache_info().misses == 5
    assert (source.read(0)[..., 0] == arrays["train_images"][0]).all()  # and back to the first


def test_names_of_classes_in_the_file_are_taken(tmp_path: Path) -> None:
    path = write_file(tmp_path, classes=np.array(["a", "b", "c"]))
    assert Npz(path, 12, 1, "val").classes == ["a", "b", "c"]


def test_shares_are_dealt_like_those_of_a_folder(tmp_path: Path) -> None:
    whole = open_source("npz", Request(str(write_file(tmp_path)), 12, 1, 0, "train", (0, 0, 0)))
    shares = [share_of(whole, i, 2, 7, "iid", 0.5) for i in range(2)]
    assert sorted(n for s in shares for n in s.names) == whole.names
    assert (shares[1].read(0) == whole.read(int(shares[1].rows[0]))).all()


BAD: dict[str, tuple[dict[str, AnyArray | None], str, str]] = {
    "no labels": ({"val_labels": None}, "has no array val_labels: it holds", "images are uint8"),
    "no images": ({"train_images": None}, "has no array train_images: it holds", "images are uint8"),
    "float images": (
        {"train_images": np.zeros((9, 12, 12))},
        r"train_images is float64 \(9, 12, 12\)",
        "uint8",
    ),
    "one image": (
        {"train_images": np.zeros((9, 12), np.uint8)},
        r"train_images is uint8 \(9, 12\)",
        "uint8",
    ),
    "four channels": ({"train_images": np.zeros((9, 2, 2, 4), np.uint8)}, r"\(9, 2, 2, 4\)", "uint8"),
    "fortran": (
        {"train_images": np.asfortranarray(make_arrays()["train_images"])},
        "in Fortran order",
        "uint8",
    ),
    "pickled": ({"train_images": np.array([None] * 9)}, "train_images is object", "uint8"),
    "pickled labels": (
        {"train_labels": np.array([None] * 9)},
        "train_labels cannot be read: ValueError",
        "again",
    ),
    "out of step": (
        {"train_labels": np.zeros(8, np.uint8)},
        "9 images in train_images, 8 labels",
        "same order",
    ),
    "several labels": (
        {"test_labels": np.zeros((5, 14), np.uint8)},
        "several labels an image",
        "one class",
    ),
    "float labels": ({"val_labels": np.zeros(4)}, "val_labels is float64", "integers"),
    "negative": ({"val_labels": np.array([0, 1, -1, 0])}, "holds the label -1", "from|integers"),
    "one class": (
        {f"{s}_labels": np.zeros(n, int) for s, n in (("train", 9), ("val", 4), ("test", 5))},
        "one class;",
        "choose",
    ),
    "names": ({"classes": np.array(["a", "b"])}, "the labels go up to 2", "one string for each"),
    "twice": ({"classes": np.array(["a", "b", "a"])}, "2 classes are named 'a'", "its own name"),
    "no text": (
        {"classes": np.frombuffer(b"a\0\0\0b\0\0\0\xff\xff\xff\xff", "<U1")},
        "classes cannot be read",
        "again",
    ),
    "far label": (
        {"val_labels": np.array([0, 1, 1000, 2])},
        "the labels go up to 1000, and no",
        "below 1000",
    ),
    "too large": (
        {"test_labels": np.array([0, 1, 2, 1, 2**63 + 5], np.uint64)},
        "the labels go up to 9223372036854775813",
        "below 1000",
    ),
    "too large for names": (
        {"test_labels": np.array([0, 1, 2, 1, 2**63 + 5], np.uint64), "classes": np.array(["a", "b", "c"])},
        "the labels go up to 9223372036854775813",
        "one string for each",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_file_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    changes, line, hint = BAD[kind]
    with pytest.raises(CipherwardError, match=line) as error:
        Npz(write_file(tmp_path, **changes), 12, 1, "train")
    assert any(part in error.value.hint for part in hint.split("|")) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "../../evil", "a/b", "a\\b", ".b", "a\0b", "a b", "ä.b", "..."])
def test_a_class_name_follows_the_rules_of_a_manifest(tmp_path: Path, name: str) -> None:
    spec = describe("plain", (12, 12, 1), 4).to_json()
    manifest = {"spec": spec, "key_id": "k", "shards": [], "rows": 0, "classes": ["x", name, "z"]}
    try:
        sealed = SealedDataset(tmp_path, manifest).classes
    except ValueError as refusal:
        assert "class name" in str(refusal)
        sealed = None
    path = write_file(tmp_path, classes=np.array(["x", name, "z"]))
    if sealed:
        assert Npz(path, 12, 1, "train").classes == sealed
        return
    with pytest.raises(CipherwardError, match=r"class name .* cannot be a folder's name") as error:
        Npz(path, 12, 1, "train")
    assert "\n" not in str(error.value)


def test_more_classes_than_a_thousand_need_names(tmp_path: Path) -> None:
    labels = np.array([0, 999, 1, 2])
    assert len(Npz(write_file(tmp_path, val_labels=labels), 12, 1, "val").classes) == 1000
    named = np.array([f"c{i}" for i in range(1200)])
    source = Npz(write_file(tmp_path, val_labels=labels + 200, classes=named), 12, 1, "val")
    assert source.classes[source.labels[1]] == "c1199"


# Offsets of the changed field in the two headers of an archived file: local, central (APPNOTE 4.3.7, 4.3.12).
@pytest.mark.parametrize(
    ("places", "value", "line"),
    [((6, 8), 1, "is encrypted"), ((8, 10), 97, "compression method is not supported")],
)
@pytest.mark.parametrize("array", ["train_labels", "train_images"])
def test_an_array_that_cannot_be_unpacked_is_one_clear_line(
    tmp_path: Path, places: tuple[int, int], value: int, line: str, array: str
) -> None:
    path = write_file(tmp_path)
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo(f"{array}.npy").header_offset
    data = bytearray(path.read_bytes())
    central = data.rindex(f"{array}.npy".encode()) - 46
    assert data[central : central + 4] == b"PK\1\2"
    data[local + places[0]] = data[central + places[1]] = value
    path.write_bytes(data)
    with pytest.raises(CipherwardError, match=f"{array} cannot be read: .*{line}") as error:
        Npz(path, 12, 1, "train")
    assert "again" in error.value.hint and "\n" not in str(error.value)


def test_other_files_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match=r"no \.npz file at"):
        Npz(tmp_path / "absent.npz", 12, 1, "train")
    for name, data in (("text.npz", b"hello"), ("one.npz", npy_bytes())):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CipherwardError, match=r"is no \.npz file"):
            Npz(tmp_path / name, 12, 1, "train")
    path = write_file(tmp_path)
    source = Npz(path, 12, 1, "train")
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("train_images.npy").header_offset
    damaged = bytearray(path.read_bytes())
    damaged[at + 200 : at + 260] = os.urandom(60)
    path.write_bytes(damaged)
    clear_caches()
    with pytest.raises(CipherwardError, match="train_images cannot be read"):
        source.read(0)


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 3)))
    return buffer.getvalue()


def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    arrays: dict[str, Any] = make_arrays()
    before = Npz(write_file(tmp_path, **arrays), 12, 1, "train").fingerprint()
    assert Npz(write_file(tmp_path, **arrays), 12, 1, "train").fingerprint() == before
    assert Npz(tmp_path / "m.npz", 16, 1, "train").fingerprint() != before
    arrays["train_images"][4, 5, 6] ^= 1
    changed = Npz(write_file(tmp_path, **arrays), 12, 1, "train")
    assert changed.fingerprint() != before
    assert (changed.read(4)[..., 0] == arrays["train_images"][4]).all()  # nothing of the old file is used


@pytest.mark.slow
def test_pneumoniamnist() -> None:
    folder = os.environ.get("CIPHERWARD_DATA")
    if not folder:
        pytest.skip("CIPHERWARD_DATA is not set")
    parts = [Npz(Path(folder) / "pneumoniamnist.npz", 28, 1, split) for split in npz.SPLITS]
    assert [len(p) for p in parts] == [4708, 524, 624] and parts[0].classes == ["0", "1"]
    with np.load(Path(folder) / "pneumoniamnist.npz", allow_pickle=False) as stored:
        images = stored["test_images"]
    assert all((parts[2].read(i)[..., 0] == images[i]).all() for i in (0, 300, 623))


def test_the_command_seals_a_file_like_a_folder(tmp_path: Path, party: Party) -> None:
    arrays: dict[str, Any] = {}
    for split, n in (("train", 40), ("val", 6), ("test", 6)):
        arrays[f"{split}_images"] = RNG.integers(0, 256, (n, 12, 12), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    np.savez(tmp_path / "m.npz", **arrays)
    assert party("keygen", tmp_path / "h")[0] == 0
    words = ["--images", tmp_path / "m.npz", "--image-size", "12", "--block", "4", "--scheme", "ele"]
    status, out, log = party("seal", tmp_path / "h", *words)
    assert status == 0 and "52 images in 3 sets" in " ".join(out.split()), log
    assert (
        SealedDataset.open(tmp_path / "h" / "sealed" / "train").labels == arrays["train_labels"][:, 0]
    ).all()
    # The second run reads the saved settings.
    status, out, _ = party("seal", tmp_path / "h")
    assert status == 0 and "52 images in 3 sets" in " ".join(out.split())


def test_a_damaged_array_gives_no_image_not_even_those_before_the_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "PIECE_BYTES", 2 * 64 * 64)
    path = tmp_path / "m.npz"
    arrays: dict[str, Any] = make_arrays(side=(64, 64))
    np.savez(path, **arrays)  # stored, not compressed: only the checksum finds a flipped bit
    start = path.read_bytes().index(arrays["train_images"].tobytes())
    data = bytearray(path.read_bytes())
    data[start + 5 * 64 * 64 + 7] ^= 1
    path.write_bytes(data)
    source = Npz(path, 64, 1, "train")
    for row in (0, 5, 8):
        with pytest.raises(CipherwardError, match=r"train_images cannot be read.*CRC") as error:
            source.read(row)
        assert not isinstance(error.value, UndecodableImageError)  # the sealing stops
    assert Npz(path, 64, 1, "val").read(0).shape == (64, 64, 1)


def claim(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """Return a .npy file that claims a shape and holds nothing."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


class Zeros(NamedTuple):
    """A .npy file of zeros uint8 that holds what it says. Its bytes are made when it is written."""

    shape: tuple[int, ...]


def write_members(path: Path, **members: bytes | Zeros) -> Path:
    """Write a sound file whose members of these names are replaced by other bytes."""
    sound = write_file(path)
    with zipfile.ZipFile(sound) as archive:
        contents: dict[str, bytes | Zeros] = {name: archive.read(name) for name in archive.namelist()}
    contents |= {f"{name}.npy": data for name, data in members.items()}
    with zipfile.ZipFile(sound, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in contents.items():
            if isinstance(data, bytes):
                archive.writestr(name, data)
                continue
            with archive.open(name, "w") as member:
                member.write(claim(data.shape))
                for start in range(0, size := math.prod(data.shape), 1 << 20):
                    member.write(bytes(min(1 << 20, size - start)))
    return sound


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({"train_labels": claim((1 << 40,))}, "train_labels cannot be read: .*does not fit 0 bytes"),
        ({"train_labels": claim((1 << 62, 1), "<i8")}, "train_labels cannot be read: .*does not fit"),
        ({"classes": claim((3,), "<U500000000")}, "classes cannot be read: .*does not fit"),
        ({"train_images": claim((9, 1 << 20, 1 << 20))}, "train_images cannot be read: .*does not fit"),
        ({"val_labels": bytes(5)}, "val_labels cannot be read"),
        # It holds what it says: 257 MiB of zeros, which the archive packs into a hundredth.
        ({"train_labels": Zeros((257 << 20,))}, "is larger than 256 MiB"),
        # So does this: one image of 98 million pixels, and its label.
        (
            {"train_images": Zeros((1, 1 << 17, 750)), "train_labels": Zeros((1,))},
            "750×131072 pixels are more than",
        ),
    ],
)
def test_a_small_file_that_claims_much_memory_is_refused(
    tmp_path: Path, members: dict[str, bytes | Zeros], line: str
) -> None:
    path = write_members(tmp_path, **members)
    tracemalloc.start()
    with pytest.raises(CipherwardError, match=line) as error:
        Npz(path, 12, 1, "train")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_single_array_is_not_read_to_be_refused(tmp_path: Path) -> None:
    (tmp_path / "one.npz").write_bytes(claim((1 << 45,)))
    with pytest.raises(CipherwardError, match=r"is no \.npz file"):
        Npz(tmp_path / "one.npz", 12, 1, "train")


@pytest.mark.parametrize("array", ["train_labels", "train_images", "classes"])
def test_pickled_objects_are_never_opened(tmp_path: Path, array: str) -> None:
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {marker}",)

    objects = np.empty(9, object)
    objects[:] = [Attack() for _ in objects]
    buffer = io.BytesIO()
    np.save(buffer, objects, allow_pickle=True)
    path = write_members(tmp_path, **{array: buffer.getvalue()})
    with pytest.raises(CipherwardError, match=array):
        Npz(path, 12, 1, "train")
    assert not marker.exists()
    with np.load(path, allow_pickle=True) as stored:
        _ = stored[array]
    assert marker.exists()  # the attack is one
