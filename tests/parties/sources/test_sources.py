"""Class folders and their division among hospitals: modes, sizes, splits, bad files, every image once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crypto.errors import CipherwardError
from parties.sources.folder import Folder
from parties.sources.partition import deal, dirichlet, iid
from parties.sources.source import Request, open_source, share_of
from parties.sources.walk import walk
from tests.support.files import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("healthy", "tumor"):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", seed=i)
    return tmp_path


def test_splits_are_disjoint_and_whole_and_stratified(folder: Path) -> None:
    parts = [Folder(folder, 16, 1, 5, split) for split in ("train", "val", "test")]
    names = [n for p in parts for n in p.names]
    assert sorted(names) == sorted(f"{c}/{i}.png" for c in ("healthy", "tumor") for i in range(10))
    assert [len(p) for p in parts] == [14, 2, 4]
    assert all((np.bincount(p.labels) == len(p) // 2).all() for p in parts)
    assert Folder(folder, 16, 1, 5, "train").names == parts[0].names
    assert Folder(folder, 16, 1, 6, "train").names != parts[0].names


def test_split_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("val", 1), ("test", 2)):
        for name in "ab":
            for i in range(n):
                picture(tmp_path / split / name / f"{i}.JPG", seed=i)
    assert [len(Folder(tmp_path, 16, 1, 0, s)) for s in ("train", "val", "test")] == [6, 2, 4]
    (tmp_path / "val" / "a" / "0.JPG").unlink()
    with pytest.raises(CipherwardError, match="val/a holds no"):
        Folder(tmp_path, 16, 1, 0, "val")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_s_mode_is_not_visible(tmp_path: Path, channels: int) -> None:
    # The same gray picture in four modes, one class each: all become the same array.
    values = [picture(tmp_path / f"c-{mode}" / "0.png", mode, seed=1) for mode in ("L", "RGB", "RGBA", "P")]
    for c in tmp_path.iterdir():
        for i in range(1, 10):
            (c / f"{i}.png").write_bytes((c / "0.png").read_bytes())
    source = Folder(tmp_path, 20, channels, 0, "train")
    images = np.stack([source.read(i) for i in range(len(source))])
    assert images.shape == (len(source), 20, 20, channels) and images.dtype == np.uint8
    assert (np.abs(images.astype(int) - values[0][..., None]) <= 1).all()


def test_files_of_more_than_8_bits_are_refused_not_darkened(tmp_path: Path) -> None:
    for name in "ab":
        values = picture(tmp_path / name / "0.png")
        Image.fromarray(values.astype(np.uint16) * 16).save(tmp_path / name / "1.png")
        for i in range(2, 10):
            (tmp_path / name / f"{i}.png").write_bytes((tmp_path / name / "1.png").read_bytes())
    source = Folder(tmp_path, 20, 1, 1, "train")
    row = next(i for i, n in enumerate(source.names) if not n.endswith("0.png"))
    with pytest.raises(CipherwardError, match="more than 8 bits"):
        source.read(row)


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("val", "bc"), ("test", "abc")):
        for name in names:
            picture(tmp_path / split / name / "0.png")
    message = "val and train have other classes: b, c against a, b, c"
    with pytest.raises(CipherwardError, match=message):
        Folder(tmp_path, 16, 1, 0, "val")
    for split, names in (("train", "abc"), ("val", "bc"), ("test", "abc")):
        for name in names:
            picture(tmp_path / "below" / name / split / "0.png")
    with pytest.raises(CipherwardError, match=f"below: {message}"):
        Folder(tmp_path / "below", 16, 1, 0, "val")


def test_sizes_are_brought_to_one(tmp_path: Path) -> None:
    for i, size in enumerate([(16, 16), (40, 20), (8, 30)] * 4):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png", size=size)
    source = Folder(tmp_path, 32, 3, 0, "train")
    assert {source.read(i).shape for i in range(len(source))} == {(32, 32, 3)}


def test_bad_files_and_folders(folder: Path, tmp_path: Path) -> None:
    source = Folder(folder, 16, 1, 0, "train")
    victim = folder / source.names[3]
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(CipherwardError, match=f"cannot decode {victim}") as damaged:
        source.read(3)
    assert "leave it out" in damaged.value.hint
    source.read(4)
    with pytest.raises(CipherwardError, match="no image folder at"):
        Folder(tmp_path / "absent", 16, 1, 0, "train")
    empty = tmp_path / "empty"
    (empty / "only").mkdir(parents=True)
    with pytest.raises(CipherwardError, match="holds 1 class folder; at least two") as error:
        Folder(empty, 16, 1, 0, "train")
    assert "one folder for each class" in error.value.hint
    with pytest.raises(CipherwardError, match="unknown source 'tape'"):
        open_source("tape", Request("", 16, 1, 0, "train", (1, 1, 1)))


def test_a_changed_folder_has_another_fingerprint(folder: Path) -> None:
    before = Folder(folder, 16, 1, 0, "train").fingerprint()
    assert Folder(folder, 16, 1, 0, "train").fingerprint() == before
    assert Folder(folder, 24, 1, 0, "train").fingerprint() != before
    picture(folder / Folder(folder, 16, 1, 0, "train").names[0], size=(30, 30))
    assert Folder(folder, 16, 1, 0, "train").fingerprint() != before


LABELS = np.random.default_rng(0).integers(0, 4, 300)


@pytest.mark.parametrize("how", ["iid", "dirichlet"])
def test_every_image_is_dealt_once(how: str) -> None:
    dealt = deal(LABELS, 3, 7, how, 0.5)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(300))
    again = deal(LABELS, 3, 7, how, 0.5)
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))
    assert not np.array_equal(deal(LABELS, 3, 8, how, 0.5)[0], dealt[0])


def test_iid_is_even_and_small_alpha_is_skewed() -> None:
    assert [len(p) for p in iid(LABELS, 3, 0)] == [100, 100, 100]

    def skew(alpha: float) -> float:
        shares = [np.bincount(LABELS[p], minlength=4) / len(p) for p in dirichlet(LABELS, 3, 1, alpha)]
        return float(np.abs(np.stack(shares) - np.bincount(LABELS) / 300).max())

    assert skew(0.1) > 0.3 and skew(1000.0) < 0.1


def test_impossible_partitions_are_refused() -> None:
    with pytest.raises(CipherwardError, match="2 images cannot be dealt to 3 parties"):
        deal(LABELS[:2], 3, 0, "iid", 1)
    with pytest.raises(
        CipherwardError, match="24 images of 2 patients cannot be dealt to 3 parties"
    ) as error:
        deal(LABELS[:24], 3, 0, "iid", 1, np.arange(24) // 12)
    assert "groups none" in error.value.hint
    with pytest.raises(CipherwardError, match="no partition of 3 images"):
        dirichlet(np.zeros(3, int), 3, 0, 0.01)


def test_a_share_reads_its_own_rows() -> None:
    whole = open_source("phantom", Request("", 32, 1, 0, "train", (12, 4, 4)))
    share = share_of(whole, 1, 3, 0, "iid", 1.0)
    assert len(share) == 4 and share.public and share.classes == whole.classes
    for i, row in enumerate(share.rows):
        assert np.array_equal(share.read(i), whole.read(int(row)))
        assert share.labels[i] == whole.labels[row] and share.names[i] == whole.names[row]


# ---- files and folders that cannot be read -------------------------------------------------------------------------


def fill_two_classes(folder: Path, n: int = 10) -> Path:
    """Write n pictures in each of two class folders."""
    for name in "ab":
        for i in range(n):
            picture(folder / name / f"{i}.png", seed=i)
    return folder


def test_a_folder_that_cannot_be_listed_is_named_and_links_are_followed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = fill_two_classes(tmp_path / "images")
    (images / "a" / "more").mkdir()
    picture(images / "a" / "more" / "x.png", seed=50)
    elsewhere = fill_two_classes(tmp_path / "elsewhere", 3) / "a"
    (images / "b" / "linked").symlink_to(elsewhere)
    (images / "b" / "twice").symlink_to(elsewhere)
    (images / "b" / "ring").symlink_to(images / "b")
    names = [name for split in ("train", "val", "test") for name in Folder(images, 20, 1, 0, split).names]
    assert len(names) == len(set(names)) == 10 + 1 + 10 + 3
    real = os.scandir

    def refuses(path: str = ".") -> Any:
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(CipherwardError, match=r"cannot read .*/a/more: Permission denied"):
        Folder(images, 20, 1, 0, "train")


def test_a_pipe_or_a_broken_link_is_never_opened_and_named_with_its_reason(tmp_path: Path) -> None:
    images = fill_two_classes(tmp_path)
    before = [Folder(images, 20, 1, 0, split).names for split in ("train", "val", "test")]
    os.mkfifo(images / "a" / "pipe.jpg")  # opening it would wait for ever
    (images / "a" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    parts = [Folder(images, 20, 1, 0, split) for split in ("train", "val", "test")]
    assert [part.fingerprint() for part in parts] and [part.names for part in parts] == before
    assert walk(images).ignored == [
        ("a/lost.jpg", "a link to nothing"),
        ("a/pipe.jpg", "not a regular file"),
    ]
