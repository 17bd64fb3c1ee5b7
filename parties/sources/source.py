"""Where plain images come from, by name. Adding a source: a file here and a line in SOURCES."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from crypto.errors import unknown
from parties.sources.folder import Folder
from parties.sources.npz import Npz
from parties.sources.partition import deal
from parties.sources.phantom import Phantom

SPLITS = ("train", "val", "test")


class Source(Protocol):
    """Plain labelled images of one split."""

    @property
    def public(self) -> bool:
        """Whether its plain pictures may be shown outside the hospital."""

    @property
    def classes(self) -> list[str]: ...

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]"""

    @property
    def names(self) -> list[str]:
        """A name for each image, for the hospital's eyes."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> np.ndarray:
        """uint8 [h, w, c]; raises CipherwardError for an image that cannot be read."""

    def fingerprint(self) -> str:
        """A short text that tells whether these are the images that an earlier run saw."""


@dataclass(frozen=True)
class Request:
    """What a source is asked for: one split, at one size, in one mode."""

    images: str
    size: int
    channels: int
    seed: int
    split: str
    counts: tuple[int, int, int]


def _phantom(r: Request) -> Source:
    count = r.counts[SPLITS.index(r.split)]
    return Phantom(size=r.size, channels=r.channels, count=count, seed=r.seed, split=r.split)


def _folder(r: Request) -> Source:
    return Folder(Path(r.images).expanduser(), r.size, r.channels, r.seed, r.split)


def _npz(r: Request) -> Source:
    return Npz(Path(r.images).expanduser(), r.size, r.channels, r.split)


SOURCES: dict[str, Callable[[Request], Source]] = {
    "phantom": _phantom,
    "folder": _folder,
    "npz": _npz,
}


def open_source(name: str, request: Request) -> Source:
    """The named source. Raises CipherwardError for an unknown name or unusable images."""
    if name not in SOURCES:
        raise unknown("source", name, SOURCES)
    return SOURCES[name](request)


@dataclass(frozen=True)
class Share:
    """A hospital's part of a source: the rows that a partition dealt to it."""

    whole: Source
    rows: np.ndarray  # int64 [n]

    @property
    def public(self) -> bool:
        return self.whole.public

    @property
    def classes(self) -> list[str]:
        return self.whole.classes

    @property
    def labels(self) -> np.ndarray:
        return self.whole.labels[self.rows]

    @property
    def names(self) -> list[str]:
        names = self.whole.names
        return [names[i] for i in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> np.ndarray:
        return self.whole.read(int(self.rows[row]))

    def fingerprint(self) -> str:
        rows = hashlib.sha256(np.asarray(self.rows, "<i8").tobytes()).hexdigest()
        return f"{self.whole.fingerprint()} rows {rows}"


def share_of(source: Source, index: int, parties: int, seed: int, how: str, alpha: float) -> Share:
    """Party `index`'s share of a source under the named partition."""
    return Share(source, deal(source.labels, parties, seed, how, alpha)[index])


@dataclass(frozen=True)
class Middle:
    """The middle half of every phantom scan, in width and height: no border, texture everywhere."""

    whole: Phantom

    @property
    def public(self) -> bool:
        return self.whole.public

    @property
    def classes(self) -> list[str]:
        return self.whole.classes

    @property
    def labels(self) -> np.ndarray:
        return self.whole.labels

    @property
    def names(self) -> list[str]:
        return self.whole.names

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, row: int) -> np.ndarray:
        return _middle(self.whole, row)

    def fingerprint(self) -> str:
        return "middle of " + self.whole.fingerprint()


@functools.lru_cache(maxsize=1024)  # several controls are of the same pictures
def _middle(whole: Phantom, row: int) -> np.ndarray:
    image = whole.read(row)
    top, left = image.shape[0] // 4, image.shape[1] // 4
    middle = image[top : top + image.shape[0] // 2, left : left + image.shape[1] // 2].copy()
    middle.setflags(write=False)
    return middle
