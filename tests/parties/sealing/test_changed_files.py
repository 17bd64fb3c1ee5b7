"""Files that changed after they were sealed are noticed, though their names and sizes did not change."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crypto.arrays import UInt8Array
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from crypto.sets.resume import is_unfinished
from parties.sealing.place import Place
from parties.sealing.row_list import require_recorded
from parties.sealing.seal import plain_rows, plan_sealing, seal
from parties.sources.folder import Folder
from parties.sources.phantom import Phantom
from tests.support.rotation import make_hospital

OTHERS = "was sealed from other images, or with other settings"


def write_images(folder: Path, count: int = 40) -> Path:
    """Write pictures without compression, and a table of their labels; return the table."""
    source = Phantom(40, 1, count, 0, "train")
    (folder / "images").mkdir(parents=True)
    lines = ["file,label"]
    for row in range(count):
        name = f"{row:03d}.bmp"
        Image.fromarray(source.read(row)[..., 0]).save(folder / "images" / name)
        lines.append(f"{name},{'AB'[row % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.fixture
def sealed(tmp_path: Path) -> Place:
    """Return a hospital that sealed such a folder."""
    labels = write_images(tmp_path)
    images = str(tmp_path / "images")
    return make_hospital(tmp_path / "hospital", source="folder", images=images, labels=str(labels))


def swap_labels(folder: Path) -> None:
    path = folder / "labels.csv"
    path.write_text(path.read_text().translate(str.maketrans("AB", "BA")))


def redact(folder: Path) -> None:
    """Black out half of every picture: the files keep their sizes."""
    for path in sorted((folder / "images").iterdir()):
        picture = np.array(Image.open(path))
        picture[:20] = 0
        size = path.stat().st_size
        Image.fromarray(picture).save(path)
        assert path.stat().st_size == size
        later = path.stat().st_mtime_ns + 10**9
        os.utime(path, ns=(later, later))


@pytest.mark.parametrize("change", [swap_labels, redact])
def test_a_finished_set_of_what_has_changed_is_not_called_sealed_already(
    tmp_path: Path, sealed: Place, change: Callable[[Path], None]
) -> None:
    change(tmp_path)
    sealed = Place.open(sealed.folder)  # the next command
    with pytest.raises(CipherwardError, match=OTHERS) as refused:
        seal(sealed, plan_sealing(sealed, "train"))
    assert "to seal again" in refused.value.hint
    with pytest.raises(CipherwardError, match="are not those that train was sealed from"):
        plain_rows(sealed, "train", np.arange(2))


def test_files_that_were_copied_are_the_same(tmp_path: Path, sealed: Place) -> None:
    before = plain_rows(sealed, "train", np.arange(4))
    shutil.copytree(tmp_path / "images", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "copy").rename(tmp_path / "images")
    later = [p.stat().st_mtime_ns + 10**9 for p in sorted((tmp_path / "images").iterdir())]
    for path, when in zip(sorted((tmp_path / "images").iterdir()), later, strict=True):
        os.utime(path, ns=(when, when))
    assert not seal(sealed, plan_sealing(sealed, "train")).fresh
    assert np.array_equal(plain_rows(sealed, "train", np.arange(4)), before)


@pytest.mark.parametrize("change", [swap_labels, redact])
def test_an_interrupted_sealing_does_not_go_on_with_other_files(
    tmp_path: Path, sealed: Place, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    shutil.rmtree(sealed.sealed_folder("train"))

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(sealed, plan_sealing(sealed, "train"), stop)
    change(tmp_path)
    sealed = Place.open(sealed.folder)  # the next command
    with pytest.raises(CipherwardError) as refused:
        seal(sealed, plan_sealing(sealed, "train"))
    assert refused.value.hint
    assert is_unfinished(sealed.sealed_folder("train"))


def overwrite(path: Path, *, keep_times: bool = False) -> None:
    """Make a picture gray, in the same number of bytes; with its times of access and writing, if asked to."""
    before = path.stat()
    Image.new("L", Image.open(path).size, 200).save(path)
    assert path.stat().st_size == before.st_size
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_file_that_is_written_while_it_is_sealed_leaves_no_set(
    tmp_path: Path, sealed: Place, keep_times: bool
) -> None:
    shutil.rmtree(sealed.sealed_folder("train"))
    sealed.rows_file("train").unlink()
    sealing = plan_sealing(sealed, "train")
    victim = sealing.source.names[0]

    def write(_done: int) -> None:
        overwrite(tmp_path / "images" / victim, keep_times=keep_times)

    with pytest.raises(
        CipherwardError, match=f"images changed while they were sealed: {victim}"
    ) as refused:
        seal(sealed, sealing, write)
    assert "again" in refused.value.hint
    assert not (sealed.sealed_folder("train") / "manifest.json").exists()
    assert not is_unfinished(sealed.sealed_folder("train")) and not sealed.rows_file("train").exists()
    sealed = Place.open(sealed.folder)
    assert seal(sealed, plan_sealing(sealed, "train")).fresh
    assert (plain_rows(sealed, "train", np.arange(1)) == 200).all()


def test_a_file_that_vanishes_while_it_is_sealed_leaves_no_set(tmp_path: Path, sealed: Place) -> None:
    shutil.rmtree(sealed.sealed_folder("train"))
    sealing = plan_sealing(sealed, "train")

    def remove(done: int) -> None:
        if done == len(sealing.source):
            (tmp_path / "images" / sealing.source.names[0]).unlink(missing_ok=True)

    with pytest.raises(CipherwardError, match="images changed while they were sealed: cannot read"):
        seal(sealed, sealing, remove)
    assert not (sealed.sealed_folder("train") / "manifest.json").exists()


def test_a_picture_that_was_changed_and_kept_its_times_is_not_what_was_sealed(
    tmp_path: Path, sealed: Place
) -> None:
    name = plan_sealing(sealed, "train").source.names[0]
    overwrite(tmp_path / "images" / name, keep_times=True)
    sealed = Place.open(sealed.folder)
    with pytest.raises(CipherwardError, match="are not those that train was sealed from"):
        plain_rows(sealed, "train", np.arange(2))


def test_a_picture_that_changes_while_plain_images_are_read_is_refused(
    tmp_path: Path, sealed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = plan_sealing(sealed, "train").source.names[-1]  # several threads read the first ones
    read, writing = Folder.read, threading.Lock()

    def read_later(self: Folder, row: int) -> UInt8Array:
        with writing:  # a thread must not overwrite what another one has half written
            overwrite(tmp_path / "images" / name)
        return read(self, row)

    monkeypatch.setattr(Folder, "read", read_later)
    with pytest.raises(CipherwardError, match="are not those that train was sealed from"):
        plain_rows(sealed, "train", np.arange(2))


def test_a_file_of_arrays_that_is_replaced_while_it_is_sealed_leaves_no_set(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"

    def write(gray: int) -> None:
        images = np.full((8, 32, 32), gray, np.uint8)
        images[:, ::3] = np.arange(8)[:, None, None]
        labels = np.arange(8) % 2
        np.savez(
            path,
            train_images=images,
            train_labels=labels,
            val_images=images,
            val_labels=labels,
            test_images=images,
            test_labels=labels,
        )

    write(90)
    place = make_hospital(tmp_path / "hospital", source="npz", images=str(path))
    shutil.rmtree(place.sealed_folder("train"))
    with pytest.raises(CipherwardError, match=r"images changed while they were sealed: images\.npz"):
        seal(place, plan_sealing(place, "train"), lambda _: write(100))
    assert not (place.sealed_folder("train") / "manifest.json").exists()


def test_a_set_that_is_mounted_at_a_root_is_not_judged(tmp_path: Path) -> None:
    place = make_hospital(tmp_path / "hospital")
    require_recorded(SealedDataset(Path("/train"), place.sealed("train").manifest), must=True)
