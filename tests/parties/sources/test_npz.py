"""MedMNIST files: shapes, modes, sizes, pieces, and each kind of bad file."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from crypto.spec import SchemeSpec
from parties.sources import npz
from parties.sources.npz import Npz
from parties.sources.picture import Undecodable
from parties.sources.source import Request, open_source, share_of

RNG = np.random.default_rng(3)


def arrays(
    colour: bool = False, classes: int = 3, side: tuple[int, int] = (12, 12)
) -> dict[str, np.ndarray]:
    made = {}
    for split, n in (("train", 9), ("val", 4), ("test", 5)):
        shape = (n, *side, 3) if colour else (n, *side)
        made[f"{split}_images"] = RNG.integers(0, 256, shape, np.uint8)
        made[f"{split}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    return made


def written(path: Path, **changes: np.ndarray | None) -> Path:
    held = {k: v for k, v in (arrays() | changes).items() if v is not None}
    np.savez_compressed(path / "m.npz", **held)
    return path / "m.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("colour", [False, True])
def test_images_and_labels_come_out_as_they_went_in(tmp_path, save, colour):
    held = arrays(colour)
    save(tmp_path / "m.npz", **held)
    for split in npz.SPLITS:
        source = Npz(tmp_path / "m.npz", 12, 3 if colour else 1, split)
        images = held[f"{split}_images"]
        assert source.classes == ["0", "1", "2"] and not source.public
        assert (source.labels == held[f"{split}_labels"][:, 0]).all() and source.labels.dtype == np.int64
        for row in reversed(range(len(source))):
            assert (source.read(row) == images[row].reshape(12, 12, -1)).all()
        assert len(set(source.names)) == len(source) == len(images)


def test_modes_and_sizes_are_brought_to_one(tmp_path):
    path = written(tmp_path, train_images=np.full((9, 20, 10), 77, np.uint8))
    colour = Npz(path, 16, 3, "train").read(2)
    assert colour.shape == (16, 16, 3) and (colour == 77).all()
    (tmp_path / "c").mkdir()
    held = arrays(colour=True)
    gray = Npz(written(tmp_path / "c", **held), 12, 1, "val").read(1)
    weights = np.array([299, 587, 114]) / 1000
    assert gray.shape == (12, 12, 1) and np.abs(gray[..., 0] - held["val_images"][1] @ weights).max() < 1.01


def test_a_large_array_is_read_in_pieces_forwards(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_PIECE", 2 * 144)  # two images
    held = arrays()
    source = Npz(written(tmp_path, **held), 12, 1, "train")
    opened = []
    real = npz._open
    monkeypatch.setattr(npz, "_open", lambda *a: opened.append(a) or real(*a))
    npz._stream.cache_clear(), npz._piece.cache_clear()
    read = np.stack([source.read(row) for row in range(9)])
    assert (read[..., 0] == held["train_images"]).all()
    assert len(opened) == 2  # for its sum, and for all images
    assert npz._piece.cache_info().misses == 5
    assert (source.read(0)[..., 0] == held["train_images"][0]).all()  # and back to the first


def test_names_of_classes_in_the_file_are_taken(tmp_path):
    path = written(tmp_path, classes=np.array(["a", "b", "c"]))
    assert Npz(path, 12, 1, "val").classes == ["a", "b", "c"]


def test_shares_are_dealt_as_a_folder_s(tmp_path):
    whole = open_source("npz", Request(str(written(tmp_path)), 12, 1, 0, "train", (0, 0, 0)))
    shares = [share_of(whole, i, 2, 7, "iid", 0.5) for i in range(2)]
    assert sorted(n for s in shares for n in s.names) == whole.names
    assert (shares[1].read(0) == whole.read(int(shares[1].rows[0]))).all()


BAD = {
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
    "fortran": ({"train_images": np.asfortranarray(arrays()["train_images"])}, "in Fortran order", "uint8"),
    "pickled": ({"train_images": np.array([None] * 9)}, "train_images is object", "uint8"),
    "pickled labels": (
        {"train_labels": np.array([None] * 9)},
        "train_labels cannot be read: ValueError",
        "anew",
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
    "negative": ({"val_labels": np.array([0, 1, -1, 0])}, "or below 0", "from|integers"),
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
        "anew",
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
def test_each_bad_file_is_one_clear_line(tmp_path, kind):
    changes, line, hint = BAD[kind]
    with pytest.raises(CipherwardError, match=line) as error:
        Npz(written(tmp_path, **changes), 12, 1, "train")
    assert any(part in error.value.hint for part in hint.split("|")) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "../../evil", "a/b", "a\\b", ".b", "a\0b", "a b", "ä.b", "..."])
def test_a_class_is_named_as_a_manifest_s_may_be(tmp_path, name):
    spec = SchemeSpec("plain", 1, (12, 12, 1), 4).to_json()
    manifest = {"spec": spec, "key_id": "k", "shards": [], "rows": 0, "classes": ["x", name, "z"]}
    try:
        sealed = SealedDataset(tmp_path, manifest).classes
    except ValueError as error:
        assert "class name" in str(error)
        sealed = None
    path = written(tmp_path, classes=np.array(["x", name, "z"]))
    if sealed:
        assert Npz(path, 12, 1, "train").classes == sealed
        return
    with pytest.raises(CipherwardError, match=r"class name .* cannot be a folder's") as error:
        Npz(path, 12, 1, "train")
    assert "\n" not in str(error.value)


def test_more_classes_than_a_thousand_need_names(tmp_path):
    labels = np.array([0, 999, 1, 2])
    assert len(Npz(written(tmp_path, val_labels=labels), 12, 1, "val").classes) == 1000
    named = np.array([f"c{i}" for i in range(1200)])
    source = Npz(written(tmp_path, val_labels=labels + 200, classes=named), 12, 1, "val")
    assert source.classes[source.labels[1]] == "c1199"


# Where the two headers of a file in an archive keep what is changed: local, central (APPNOTE 4.3.7, 4.3.12).
@pytest.mark.parametrize(
    ("places", "value", "line"),
    [((6, 8), 1, "is encrypted"), ((8, 10), 97, "compression method is not supported")],
)
@pytest.mark.parametrize("array", ["train_labels", "train_images"])
def test_an_array_that_cannot_be_unpacked_is_one_clear_line(tmp_path, places, value, line, array):
    path = written(tmp_path)
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo(f"{array}.npy").header_offset
    data = bytearray(path.read_bytes())
    central = data.rindex(f"{array}.npy".encode()) - 46
    assert data[central : central + 4] == b"PK\1\2"
    data[local + places[0]] = data[central + places[1]] = value
    path.write_bytes(data)
    with pytest.raises(CipherwardError, match=f"{array} cannot be read: .*{line}") as error:
        Npz(path, 12, 1, "train")
    assert "anew" in error.value.hint and "\n" not in str(error.value)


def test_what_is_no_archive_and_what_is_damaged(tmp_path):
    with pytest.raises(CipherwardError, match=r"no \.npz file at"):
        Npz(tmp_path / "absent.npz", 12, 1, "train")
    for name, data in (("text.npz", b"hello"), ("one.npz", _npy())):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CipherwardError, match=r"is no \.npz file"):
            Npz(tmp_path / name, 12, 1, "train")
    path = written(tmp_path)
    source = Npz(path, 12, 1, "train")
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("train_images.npy").header_offset
    data = bytearray(path.read_bytes())
    data[at + 200 : at + 260] = os.urandom(60)
    path.write_bytes(data)
    npz._stream.cache_clear(), npz._piece.cache_clear()
    with pytest.raises(CipherwardError, match="train_images cannot be read"):
        source.read(0)


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 3)))
    return buffer.getvalue()


def test_a_changed_file_has_another_fingerprint(tmp_path):
    held = arrays()
    before = Npz(written(tmp_path, **held), 12, 1, "train").fingerprint()
    assert Npz(written(tmp_path, **held), 12, 1, "train").fingerprint() == before
    assert Npz(tmp_path / "m.npz", 16, 1, "train").fingerprint() != before
    held["train_images"][4, 5, 6] ^= 1
    changed = Npz(written(tmp_path, **held), 12, 1, "train")
    assert changed.fingerprint() != before
    assert (changed.read(4)[..., 0] == held["train_images"][4]).all()  # nothing of the old file is kept


@pytest.mark.slow
def test_pneumoniamnist():
    folder = os.environ.get("CIPHERWARD_DATA")
    if not folder:
        pytest.skip("CIPHERWARD_DATA is not set")
    parts = [Npz(Path(folder) / "pneumoniamnist.npz", 28, 1, split) for split in npz.SPLITS]
    assert [len(p) for p in parts] == [4708, 524, 624] and parts[0].classes == ["0", "1"]
    with np.load(Path(folder) / "pneumoniamnist.npz", allow_pickle=False) as stored:
        images = stored["test_images"]
    assert all((parts[2].read(i)[..., 0] == images[i]).all() for i in (0, 300, 623))


def test_a_file_is_sealed_by_the_command_as_a_folder_is(tmp_path, party):
    held = {}
    for split, n in (("train", 40), ("val", 6), ("test", 6)):
        held[f"{split}_images"] = RNG.integers(0, 256, (n, 12, 12), np.uint8)
        held[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    np.savez(tmp_path / "m.npz", **held)
    assert party("keygen", tmp_path / "h")[0] == 0
    words = ["--images", tmp_path / "m.npz", "--image-size", "12", "--block", "4"]
    status, out, said = party("seal", tmp_path / "h", *words)
    assert status == 0 and "52 images in 3 sets" in " ".join(out.split()), said
    assert (
        SealedDataset.open(tmp_path / "h" / "sealed" / "train").labels == held["train_labels"][:, 0]
    ).all()
    # The next time the settings are known.
    status, out, _ = party("seal", tmp_path / "h")
    assert status == 0 and "52 images in 3 sets" in " ".join(out.split())


def test_a_damaged_array_gives_no_image_not_even_those_before_the_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_PIECE", 2 * 64 * 64)
    path = tmp_path / "m.npz"
    held = arrays(side=(64, 64))
    np.savez(path, **held)  # stored: a flipped bit is found by nothing but the array's sum
    place = path.read_bytes().index(held["train_images"].tobytes())
    data = bytearray(path.read_bytes())
    data[place + 5 * 64 * 64 + 7] ^= 1
    path.write_bytes(data)
    source = Npz(path, 64, 1, "train")
    for row in (0, 5, 8):
        with pytest.raises(CipherwardError, match=r"train_images cannot be read.*CRC") as error:
            source.read(row)
        assert not isinstance(error.value, Undecodable)  # the sealing stops
    assert Npz(path, 64, 1, "val").read(0).shape == (64, 64, 1)
