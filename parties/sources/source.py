"""Sources of plain images, by name. To add one, write a file here and add a line to SOURCES."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from crypto.arrays import Int64Array, Rows, UInt8Array
from crypto.errors import CipherwardError, unknown
from parties.sources.catalog import EVERYTHING, FileStates, Selection
from parties.sources.catalog import SPLITS as _SPLITS
from parties.sources.folder import Folder
from parties.sources.npz import Npz
from parties.sources.partition import deal
from parties.sources.phantom import Phantom
from parties.sources.reading import DEFAULT, Reading

SPLITS = _SPLITS


class Source(Protocol):
    """Plain labelled images of one split."""

    @property
    def public(self) -> bool:
        """Whether its plain pictures may be shown outside the hospital."""

    @property
    def classes(self) -> list[str]:
        """The class names, by label."""

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""

    @property
    def names(self) -> list[str]:
        """A name for each image. Names stay in the hospital."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, row: int) -> UInt8Array:
        """Return an image, uint8 [h, w, c]. Raises CipherwardError if it cannot be read."""

    def fingerprint(self) -> str:
        """Return a short text that changes if the images are not those that an earlier run used.

        It is quick: files that were changed and kept their sizes have other `states`, and another `content`.
        """

    def states(self) -> FileStates:
        """Return what the system says of each file. It changes if a file is written, even with what was there."""

    def content(self) -> str:
        """Return a text that changes if a file holds something else, however it got there; empty without files."""


@dataclass(frozen=True)
class Request:
    """A request for the images of one split, at one size, in one mode."""

    images: str
    size: int
    channels: int
    seed: int
    split: str
    counts: tuple[int, int, int]
    reading: Reading = DEFAULT
    selection: Selection = EVERYTHING


def _phantom(r: Request) -> Source:
    count = r.counts[SPLITS.index(r.split)]
    return Phantom(size=r.size, channels=r.channels, count=count, seed=r.seed, split=r.split)


def _folder(r: Request) -> Source:
    path = Path(r.images).expanduser()
    return Folder(path, r.size, r.channels, r.seed, r.split, r.reading, r.selection)


def _npz(r: Request) -> Source:
    if changed := " ".join(filter(None, (r.selection.describe(), r.reading.describe()))):
        raise CipherwardError(
            f"a MedMNIST file has its own classes and labels, and square images: {changed}",
            "leave these settings out",
        )
    return Npz(Path(r.images).expanduser(), r.size, r.channels, r.split)


SOURCES: dict[str, Callable[[Request], Source]] = {
    "phantom": _phantom,
    "folder": _folder,
    "npz": _npz,
}


def open_source(name: str, request: Request) -> Source:
    """Open the named source. Raises CipherwardError if the name is unknown or the images cannot be used."""
    if name not in SOURCES:
        raise unknown("source", name, SOURCES)
    return SOURCES[name](request)


@dataclass(frozen=True)
class Share:
    """Some rows of a source, int64 [n]: a hospital's share, or the images of an audit's draw."""

    source: Source
    rows: Rows

    @property
    def public(self) -> bool:
        """Whether its plain pictures may be shown outside the hospital."""
        return self.source.public

    @property
    def classes(self) -> list[str]:
        """The class names, by label."""
        return self.source.classes

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""
        return self.source.labels[self.rows]

    @property
    def names(self) -> list[str]:
        """A name for each image. Names stay in the hospital."""
        names = self.source.names
        return [names[i] for i in self.rows]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def read(self, row: int) -> UInt8Array:
        """Return an image, uint8 [h, w, c]."""
        return self.source.read(int(self.rows[row]))

    def fingerprint(self) -> str:
        """Return the source's fingerprint and a digest of the rows."""
        rows = hashlib.sha256(np.asarray(self.rows, "<i8").tobytes()).hexdigest()
        return f"{self.source.fingerprint()} rows {rows}"

    def states(self) -> FileStates:
        """Return the states of the source's files."""
        return self.source.states()

    def content(self) -> str:
        """Return the source's content."""
        return self.source.content()


def share_of(source: Source, index: int, parties: int, seed: int, partition: str, alpha: float) -> Share:
    """Return the share of party `index` in a source, under the named partition. A patient is in one share only."""
    groups = source.groups if isinstance(source, Folder) else None
    if groups is not None and len(np.unique(groups)) == len(groups):
        groups = None
    return Share(source, deal(source.labels, parties, seed, partition, alpha, groups)[index])


@dataclass(frozen=True)
class MiddleCrop:
    """The middle half of every phantom scan, in width and height: no border, texture everywhere."""

    phantom: Phantom

    @property
    def public(self) -> bool:
        """Whether its plain pictures may be shown outside the hospital."""
        return self.phantom.public

    @property
    def classes(self) -> list[str]:
        """The class names, by label."""
        return self.phantom.classes

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""
        return self.phantom.labels

    @property
    def names(self) -> list[str]:
        """A name for each image."""
        return self.phantom.names

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.phantom)

    def read(self, row: int) -> UInt8Array:
        """Return an image, uint8 [h, w, c], read-only."""
        return _read_middle(self.phantom, row)

    def fingerprint(self) -> str:
        """Return a text that everything about the images depends on."""
        return "middle of " + self.phantom.fingerprint()

    def states(self) -> FileStates:
        """Return nothing: there are no files."""
        return {}

    def content(self) -> str:
        """Return nothing: there are no files."""
        return ""


@functools.lru_cache(maxsize=1024)  # several controls show the same pictures
def _read_middle(phantom: Phantom, row: int) -> UInt8Array:
    image = phantom.read(row)
    top, left = image.shape[0] // 4, image.shape[1] // 4
    middle = image[top : top + image.shape[0] // 2, left : left + image.shape[1] // 2].copy()
    middle.setflags(write=False)
    return middle
