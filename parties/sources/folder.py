"""A folder of images of every common format, with class folders (layout.py) or a label file (labels.py).

Every image is brought to one mode and one size: see parties/sources/picture.py. Splits that the folder does not make
are made by patient, by the study's seed (grouping.py).
"""

from __future__ import annotations

import functools
import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crypto.arrays import Int64Array, UInt8Array
from crypto.errors import CipherwardError
from crypto.plural import counted
from parties.sources.catalog import (
    EVERYTHING,
    SPLITS,
    Catalog,
    FileStates,
    Item,
    Selection,
    file_state,
    group_numbers,
)
from parties.sources.grouping import SHARES, VAL_SHARES, crossing_groups, divide, why_too_few
from parties.sources.labels import read_labels
from parties.sources.layout import read_layout
from parties.sources.picture import read_error, read_picture
from parties.sources.reading import DEFAULT, Reading


@dataclass(frozen=True)
class Folder:
    """The images of one split of a folder. Raises CipherwardError if it has no class folders or no images."""

    path: Path
    size: int
    channels: int
    seed: int
    split: str
    reading: Reading = DEFAULT
    selection: Selection = EVERYTHING
    public = False

    def __post_init__(self) -> None:
        if not self.items:
            reason, hint = why_too_few(self.catalog.items, self.split)
            raise CipherwardError(f"{self.path} has {reason}", hint)

    @functools.cached_property
    def catalog(self) -> Catalog:
        """All files below the folder, of every split."""
        return (read_labels if self.selection.labels else read_layout)(self.path, self.selection)

    @functools.cached_property
    def splits(self) -> list[str]:
        """The split of each image of the catalog."""
        items = self.catalog.items
        if not items or not items[0].split:
            return divide(items, self.seed, SHARES)
        splits = [item.split for item in items]
        if "val" not in splits:
            train = [i for i, split in enumerate(splits) if split == "train"]
            for i, split in zip(
                train, divide([items[i] for i in train], self.seed, VAL_SHARES), strict=True
            ):
                splits[i] = split
        return splits

    @property
    def notes(self) -> list[str]:
        """What was decided about the layout and the splits, for the user."""
        items, lines = self.catalog.items, list(self.catalog.notes)
        if items and not items[0].split:
            lines.append("the images are split 70/10/20 into train, val and test")
        elif "val" not in {item.split for item in items}:
            lines.append(
                "there is no val split: "
                f"{counted(self.splits.count('val'), 'training image is', 'training images are')} taken for it"
            )
        return lines

    @functools.cached_property
    def crossing(self) -> list[str]:
        """The patients that have images in two splits."""
        return crossing_groups(self.catalog.items, self.splits)

    @functools.cached_property
    def items(self) -> list[Item]:
        """The images of this split."""
        if self.split not in SPLITS:
            raise ValueError(self.split)
        pairs = zip(self.catalog.items, self.splits, strict=True)
        return [item for item, split in pairs if split == self.split]

    @property
    def classes(self) -> list[str]:
        """The class names, by label: in alphabetical order, or as they are stated."""
        return self.catalog.classes

    @functools.cached_property
    def labels(self) -> Int64Array:
        """int64 [n], index into classes."""
        return np.array([item.label for item in self.items], np.int64)

    @functools.cached_property
    def groups(self) -> Int64Array:
        """int64 [n], a number for each image's patient."""
        return group_numbers(self.items)

    @functools.cached_property
    def names(self) -> list[str]:
        """File names relative to the folder, with the frame or slice. They stay in the hospital."""
        return [item.name for item in self.items]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.items)

    def read(self, row: int) -> UInt8Array:
        """Return an image as uint8 [size, size, channels].

        Raises:
            UndecodableImageError: If the file's content cannot be decoded.
            CipherwardError: If the file cannot be read.
        """
        item = self.items[row]
        return read_picture(self.path / item.path, self.size, self.channels, self.reading, item.part)

    def fingerprint(self) -> str:
        """Return a text that a resumed sealing compares: how files are read; a digest of names, sizes, labels."""
        digest, states = hashlib.sha256(), self.states()
        for item in self.items:
            line = f"{item.name}:{states[item.path][0]}:{self.classes[item.label]}\0"
            digest.update(line.encode(errors="surrogateescape"))
        # Only what differs from the defaults counts, so that sets sealed before these settings were known still fit.
        digest.update(
            (self.reading.describe() + self.selection.describe()).encode(errors="surrogateescape")
        )
        return f"folder {self.size} {self.channels} {self.seed} {self.split} {digest.hexdigest()}"

    def states(self) -> FileStates:
        """Return the size and the times of every file; raise CipherwardError for one that is gone or no file."""
        states: FileStates = {}
        for path in dict.fromkeys(item.path for item in self.items):
            try:
                status = (self.path / path).stat()
            except OSError as error:
                raise read_error(self.path / path, error) from None
            if not stat.S_ISREG(status.st_mode):
                raise CipherwardError(f"{self.path / path} is not a file", "remove it, or rename it")
            states[path] = file_state(status)
        return states

    def content(self) -> str:
        """Return a digest of all bytes of all files. It reads them all."""
        digest = hashlib.blake2b(digest_size=32)
        for path in self.states():
            try:
                with open(self.path / path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
            except OSError as error:
                raise read_error(self.path / path, error) from None
        return digest.hexdigest()
