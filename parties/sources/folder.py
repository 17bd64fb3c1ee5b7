"""A folder of PNG or JPEG images with one sub-folder for each class, with or without train/val/test above them.

    images/glioma/0001.jpg …            split 70/10/20 by the study's seed, class by class
    images/train/glioma/0001.jpg …      split already

Every image is brought to one mode and one size: see parties/sources/picture.py.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crypto.arrays import Int64Array, UInt8Array
from crypto.errors import CipherwardError
from parties.sources.picture import read_error, read_picture

ENDINGS = (".png", ".jpg", ".jpeg")
SPLITS = ("train", "val", "test")
_SHARES = (0.7, 0.1, 0.2)  # of a class's images, for train, val and test


def _list_images(folder: Path) -> list[str]:
    """Return the paths of the images below a folder, relative to it, in a fixed order."""
    images: list[str] = []
    visited: set[tuple[int, int]] = set()

    def stop(error: OSError) -> None:
        raise read_error(Path(error.filename), error) from None

    for path, subfolders, names in os.walk(folder, onerror=stop, followlinks=True):
        status = Path(path).stat()
        if (status.st_dev, status.st_ino) in visited:  # reached by another link: count once, and end loops
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        prefix = "" if path == str(folder) else path[len(str(folder)) + 1 :] + "/"
        images += [prefix + name for name in names if name.lower().endswith(ENDINGS)]
    return sorted(images, key=lambda name: name.split("/"))


def _list_classes(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise read_error(folder, error) from None


@dataclass(frozen=True)
class Folder:
    """The images of one split of a folder. Raises CipherwardError if it has no class folders or no images."""

    path: Path
    size: int
    channels: int
    seed: int
    split: str
    public = False

    def __post_init__(self) -> None:
        _ = self._listing

    @property
    def classes(self) -> list[str]:
        """The names of the class folders, in alphabetical order."""
        return self._listing[0]

    @property
    def labels(self) -> Int64Array:
        """int64 [n], index into classes."""
        return self._listing[2]

    @property
    def names(self) -> list[str]:
        """File names relative to the folder. They stay in the hospital."""
        return self._listing[1]

    @functools.cached_property
    def _listing(self) -> tuple[list[str], list[str], Int64Array]:
        """The class names, the file names and the labels."""
        if not self.path.is_dir():
            raise CipherwardError(
                f"no image folder at {self.path}",
                "name a folder that holds one folder of images for each class",
            )
        is_split = (self.path / "train").is_dir()
        top = self.path / self.split if is_split else self.path
        classes = self._check_classes(top, is_split)
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            prefix = (top / name).relative_to(self.path)
            images = [f"{prefix}/{image}" for image in _list_images(top / name)]
            if not images:
                raise CipherwardError(
                    f"{top / name} holds no {', '.join(ENDINGS)} image",
                    "add images to the folder, or remove it",
                )
            if not is_split:
                images = self._select_split(images, label)
            files += images
            labels += [label] * len(images)
        if not files:
            raise CipherwardError(
                f"{top} has too few images for a {self.split} split",
                "provide ten or more images of a class",
            )
        return classes, files, np.array(labels, np.int64)

    def _check_classes(self, top: Path, is_split: bool) -> list[str]:
        """Return the class names below `top`. Raises if the folders do not make a labelled split."""
        train = self.path / "train"
        if is_split and not top.is_dir():
            raise CipherwardError(
                f"{self.path} has a train folder but no {self.split} folder",
                "make train, val and test folders, or none of them: then the images are split automatically",
            )
        classes = _list_classes(top)
        if is_split and classes != (train_classes := _list_classes(train)):
            raise CipherwardError(
                f"{top} and {train} have other classes: {', '.join(classes)} against {', '.join(train_classes)}",
                "every split needs the same class folders, otherwise labels do not mean the same",
            )
        if len(classes) < 2:
            raise CipherwardError(
                f"{top} holds {len(classes)} class folders; at least two are needed",
                f"put the images into one folder for each class, such as {top}/tumor and {top}/healthy",
            )
        return classes

    def _select_split(self, files: list[str], label: int) -> list[str]:
        """Return the files of one class that belong to this split, by the study's seed."""
        order = np.random.default_rng([self.seed, label]).permutation(len(files))
        cuts = (np.cumsum(_SHARES)[:-1] * len(files)).round().astype(int)
        return [files[i] for i in np.sort(np.split(order, cuts)[SPLITS.index(self.split)])]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._listing[1])

    def read(self, row: int) -> UInt8Array:
        """Return an image as uint8 [size, size, channels].

        Raises:
            UndecodableImageError: If the file's content cannot be decoded.
            CipherwardError: If the file cannot be read.
        """
        return read_picture(self.path / self._listing[1][row], self.size, self.channels)

    def fingerprint(self) -> str:
        """Return a text that a resumed sealing compares: how files are read, and a digest of names and sizes."""
        digest = hashlib.sha256()
        for name in self.names:
            try:
                status = (self.path / name).stat()
            except OSError as error:
                raise read_error(self.path / name, error) from None
            if not stat.S_ISREG(status.st_mode):
                raise CipherwardError(f"{self.path / name} is not a file", "remove it, or rename it")
            digest.update(f"{name}:{status.st_size}\0".encode(errors="surrogateescape"))
        return f"folder {self.size} {self.channels} {self.seed} {self.split} {digest.hexdigest()}"
