"""A folder of PNG or JPEG images, one sub-folder a class; with or without train/val/test above them.

    images/glioma/0001.jpg …            split 70/10/20 by the study's seed, class by class
    images/train/glioma/0001.jpg …      or split already

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

from crypto.errors import CipherwardError
from parties.sources.picture import read_picture, unreadable

ENDINGS = (".png", ".jpg", ".jpeg")
SPLITS = ("train", "val", "test")
_SHARES = (0.7, 0.1, 0.2)


def _images(folder: Path) -> list[str]:
    """Paths of the images below a folder, relative to it, in a fixed order."""
    found, seen = [], set()

    def stop(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from None

    for path, below, names in os.walk(folder, onerror=stop, followlinks=True):
        place = Path(path).stat()
        if (
            place.st_dev,
            place.st_ino,
        ) in seen:  # by another link: each image counts once, and a ring has an end
            below.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        inner = "" if path == str(folder) else path[len(str(folder)) + 1 :] + "/"
        found += [inner + name for name in names if name.lower().endswith(ENDINGS)]
    return sorted(found, key=lambda name: name.split("/"))


def _classes(top: Path) -> list[str]:
    try:
        return sorted(p.name for p in top.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise unreadable(top, error) from None


@dataclass(frozen=True)
class Folder:
    """The images of one split. Raises CipherwardError where there are no class folders or no images."""

    path: Path
    size: int
    channels: int
    seed: int
    split: str
    public = False

    def __post_init__(self) -> None:
        _ = self._files

    @property
    def classes(self) -> list[str]:
        return self._files[0]

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], index into classes."""
        return self._files[2]

    @property
    def names(self) -> list[str]:
        """File names relative to the folder; these stay in the hospital."""
        return self._files[1]

    @functools.cached_property
    def _files(self) -> tuple[list[str], list[str], np.ndarray]:
        if not self.path.is_dir():
            raise CipherwardError(
                f"no image folder at {self.path}", "name a folder that holds one folder of images a class"
            )
        split_already = (self.path / "train").is_dir()
        if split_already and not (self.path / self.split).is_dir():
            raise CipherwardError(
                f"{self.path} has a train folder but no {self.split} folder",
                "make train, val and test, or none of them: then the images are split here",
            )
        top = self.path / self.split if split_already else self.path
        classes = _classes(top)
        if split_already and classes != _classes(self.path / "train"):
            raise CipherwardError(
                f"{top} and {self.path / 'train'} have other classes: {', '.join(classes)} against "
                f"{', '.join(_classes(self.path / 'train'))}",
                "every split needs the same class folders, or labels would not mean the same",
            )
        if len(classes) < 2:
            raise CipherwardError(
                f"{top} holds {len(classes)} class folders; at least two are needed",
                f"put the images into one folder a class, such as {top}/tumor and {top}/healthy",
            )
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            below = (top / name).relative_to(self.path)
            found = [f"{below}/{inner}" for inner in _images(top / name)]
            if not found:
                raise CipherwardError(
                    f"{top / name} holds no {', '.join(ENDINGS)} image", "fill the folder, or take it away"
                )
            if not split_already:
                found = self._part(found, label)
            files += found
            labels += [label] * len(found)
        if not files:
            raise CipherwardError(
                f"{top} has too few images for a {self.split} split", "bring ten or more of a class"
            )
        return classes, files, np.array(labels, np.int64)

    def _part(self, files: list[str], label: int) -> list[str]:
        order = np.random.default_rng([self.seed, label]).permutation(len(files))
        cuts = (np.cumsum(_SHARES)[:-1] * len(files)).round().astype(int)
        return [files[i] for i in np.sort(np.split(order, cuts)[SPLITS.index(self.split)])]

    def __len__(self) -> int:
        return len(self._files[1])

    def read(self, row: int) -> np.ndarray:
        """uint8 [size, size, channels]. Raises Undecodable or CipherwardError naming a file that cannot be read."""
        return read_picture(self.path / self._files[1][row], self.size, self.channels)

    def fingerprint(self) -> str:
        """How the files are read, and a digest of all names and sizes: what a resumed sealing compares."""
        digest = hashlib.sha256()
        for name in self.names:
            try:
                about = (self.path / name).stat()
            except OSError as error:
                raise unreadable(self.path / name, error) from None
            if not stat.S_ISREG(about.st_mode):
                raise CipherwardError(f"{self.path / name} is no file", "take it away, or rename it")
            digest.update(f"{name}:{about.st_size}\0".encode(errors="surrogateescape"))
        return f"folder {self.size} {self.channels} {self.seed} {self.split} {digest.hexdigest()}"
