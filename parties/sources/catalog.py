"""The list of a source's files before any pixel is decoded: what is an image, what is not, and why.

Every file below the folder is in the list once: as an image, as ignored with a reason, or as refused with a reason.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crypto.arrays import Int64Array

SPLITS = ("train", "val", "test")
#: Is in the group of images of which only a study, a series or their own file is known. No file's name holds it.
NO_PATIENT = "\0"
#: Of each file of a source, by name: what `file_state` returns.
FileStates = dict[str, tuple[int, int, int]]


def file_state(status: os.stat_result) -> tuple[int, int, int]:
    """Return a file's size, and when it was written and changed, in nanoseconds.

    The time of writing can be set by anybody, as `cp -p` does. The time of change cannot: the system sets it at every
    write.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Selection:
    """Which files are images, of which class and patient, where folders do not say it or say it wrongly.

    Attributes:
        labels: A label file (labels.py); empty: the class folders.
        hospital: Of a label file with several hospitals, the one whose rows are used; empty: all.
        groups: What tells patients apart: `folder` (a folder inside a class folder is a patient, and so is a
            PatientID), `tags` (of DICOM alone), `none`, or a regular expression whose first group in a file's path
            is the patient.
        classes: The consortium's classes. Empty: those that are there.
        allow_burned_in: Read DICOM images whose pixels may hold names.
    """

    labels: str = ""
    hospital: str = ""
    groups: str = "folder"
    classes: tuple[str, ...] = ()
    allow_burned_in: bool = False

    def describe(self) -> str:
        """Return a text of the settings that differ from the defaults, for fingerprints; empty if none does."""
        default = Selection()
        changed = [k for k, v in vars(self).items() if v != getattr(default, k)]
        # The label file may move: what it says is in the names and the labels.
        return " ".join(k if k == "labels" else f"{k}={getattr(self, k)}" for k in changed)


#: Everything that is in class folders.
EVERYTHING = Selection()


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        path: Of the file, relative to the source's folder, with slashes.
        label: Index into the classes.
        split: `train`, `val` or `test` if that is given; empty otherwise.
        group: The patient, or whatever must not be in two splits; empty if nothing is known. It holds
            NO_PATIENT where a study, a series or a file stands for the patient. It may hold a name that a hospital
            gave a folder, and never leaves the hospital's memory.
        part: The frame of a DICOM file or the slice of a volume, from 0; -1 for a picture.
        site: The hospital that a label file names; empty if none.
    """

    path: str
    label: int
    split: str = ""
    group: str = ""
    part: int = -1
    site: str = ""

    @property
    def names_patient(self) -> bool:
        """Whether the group is a patient."""
        return bool(self.group) and NO_PATIENT not in self.group

    @property
    def name(self) -> str:
        """A name for the image. It stays in the hospital."""
        return self.path if self.part < 0 else f"{self.path}#{self.part}"


@dataclass(frozen=True)
class Catalog:
    """All files below a folder.

    Attributes:
        root: The folder.
        classes: The class names, by label.
        items: The images, in a fixed order.
        ignored: Files that are no images, each with the reason.
        refused: Image files that cannot be used, each with the reason.
        notes: What was decided about the layout, for the user.
        may_show_names: DICOM files of a kind whose pixels often hold names, and that say nothing about it.
        doubts: What may be missing among the classes or wrong with all files, each with what to do about it.
    """

    root: Path
    classes: list[str]
    items: list[Item]
    ignored: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    may_show_names: int = 0
    doubts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Number of files that hold the images."""
        return len({item.path for item in self.items})

    @property
    def found(self) -> int:
        """Number of all files."""
        return self.files + len(self.ignored) + len(self.refused)


def count_reasons(pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return how many files have each reason, the most frequent first."""
    return dict(Counter(reason for _, reason in pairs).most_common())


def list_reasons(pairs: Iterable[tuple[str, str]], limit: int = 12) -> str:
    """Return the reasons and their counts in one line."""
    counts = count_reasons(pairs)
    parts = [f"{count} × {reason}" for reason, count in list(counts.items())[:limit]]
    rest = sum(list(counts.values())[limit:])
    return "; ".join([*parts, f"{rest} for {len(counts) - limit} other reasons"] if rest else parts)


def repeated_groups(items: Iterable[Item]) -> bool:
    """Return whether any patient has several images."""
    return any(count > 1 for group, count in Counter(item.group for item in items).items() if group)


def group_numbers(items: Iterable[Item]) -> Int64Array:
    """Return a number for each image's patient, int64 [n], by first appearance. One without is on its own."""
    numbers: dict[str, int] = {}
    result = [
        numbers.setdefault(f"g{item.group}" if item.group else f"i{item.name}", len(numbers))
        for item in items
    ]
    return np.array(result, np.int64)
