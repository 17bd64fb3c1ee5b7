"""Which patient an image in a class folder is of: from a folder in the class folder, DICOM's tags, or a pattern."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from crypto.errors import CipherwardError, similar_to
from crypto.plural import agreeing, counted
from parties.sources.catalog import NO_PATIENT, Selection
from parties.sources.found import Found
from parties.sources.same_patient import join_issuers, name_patients, one_spelling

#: What `groups` may be instead of a pattern.
WAYS = ("folder", "tags", "none")
WAYS_HINT = "--groups folder, tags, none, or a regular expression on the path below the class folder"
#: A pattern that takes the folder in the class folder for the patient.
FOLDER_PATTERN = "'^([^/]+)/'"


# The name of a file, up to the last sign before its ending.
_BEFORE_NUMBER = re.compile(r"(?:.*/)?([^/]+)[ _-][^/ _-]+")
_LEAST_PATIENTS = 3
#: A pattern that takes what stands before the last sign of a path for the patient.
NAME_PATTERN = "'^(.+)[ _-]'"


class Grouper:
    """Gives each image its patient, as the selection's `groups` says.

    A folder and a PatientID that an image has in common join their images. A study or a series counts only where
    neither is known: a patient has several of them.
    """

    def __init__(self, found: Found, selection: Selection, folders: Sequence[str]) -> None:
        self.found, self.how, self.unmatched = found, selection.groups, 0
        self.named, self.tagged, self.alone, self.mixed = set[str](), 0, 0, 0
        self.pattern: re.Pattern[str] | None = None
        if self.how not in WAYS:
            try:
                self.pattern = re.compile(self.how)
            except re.error as error:
                raise CipherwardError(f"groups: {self.how!r} is no pattern: {error}", WAYS_HINT) from None
        self.depth = _patient_depth(found, folders) if self.how == "folder" else None
        self.groups = {} if self.how == "none" else self._tell_apart(folders)

    def __call__(self, image: str) -> str:
        """Return the patient of an image in a class folder; empty if nothing is known."""
        return self.groups.get(image, "")

    def _tell_apart(self, folders: Sequence[str]) -> dict[str, str]:
        names: dict[str, list[str]] = {}
        hints: dict[str, str] = {}
        tags_in = defaultdict[str, set[str]](set)
        tag_of = join_issuers(parts.group for parts in self.found.parts.values())
        for folder in folders:
            for image in self.found.images(folder):
                tag = tag_of[self.found.parts[image].group]
                names[image] = self._names(image[len(folder) + 1 :])
                if tag and NO_PATIENT not in tag and self.pattern is None:
                    if names[image]:
                        tags_in[names[image][0]].add(tag)
                    names[image].append("tag " + tag)
                elif tag:  # a stated pattern goes before the tags
                    hints[image] = "tag " + tag
        self.mixed = sum(len(tags) > 1 for tags in tags_in.values())
        groups = name_patients(names, hints)
        for image, group in groups.items():
            parts = self.found.parts[image]
            self.tagged += any(name.startswith("tag ") for name in (*names[image], group))
            self.alone += NO_PATIENT in group
            if not group and (parts.count > 1 or parts.kind == "NIfTI"):
                groups[image] = f"file {NO_PATIENT}{image}"  # its frames or slices stay together
        return groups

    def _names(self, path: str) -> list[str]:
        """Return what the path of an image below its class folder names."""
        if self.pattern is not None:
            match = self.pattern.search(path)
            stated = "" if not match else match[1] if match.re.groups and match[1] is not None else match[0]
            if patient := one_spelling(stated):
                self.named.add(stated)
                return ["pattern " + patient]
            self.unmatched += (
                1  # also where it finds nothing but a place: that would be one patient for all
            )
        steps = path.split("/")
        if self.depth is None or len(steps) < self.depth + 2:
            return []
        self.named.add(steps[self.depth])
        return ["folder " + one_spelling(steps[self.depth])]

    def notes(self) -> list[str]:
        """Return what was decided, for the user.

        Raises:
            CipherwardError: If a stated pattern matches no image: it would keep no patient in one split.
        """
        lines = []
        if self.unmatched and not self.named:
            raise CipherwardError(
                f"groups: {self.how!r} matches the path of no image", similar_to(self.how, WAYS) + WAYS_HINT
            )
        if self.named and self.pattern is None:
            lines.append(
                f"{counted(len(self.named), 'folder')} inside the class folders "
                f"{agreeing(len(self.named), 'is taken for a patient', 'are taken for patients')} "
                "(--groups none if not)"
            )
        if self.mixed:
            lines.append(
                f"{self.mixed} of these folders {agreeing(self.mixed, 'holds', 'hold')} files of several "
                "PatientIDs; each folder is taken for one patient (--groups tags if not)"
            )
        if self.pattern is not None:
            lines.append(
                f"the pattern names {counted(len(self.named), 'patient')}; "
                f"{counted(self.unmatched, 'image does', 'images do')} not match it"
            )
        if (count := self.tagged - self.alone) > 0:
            lines.append(
                f"{counted(count, 'DICOM file names', 'DICOM files name')} a patient, and "
                f"{agreeing(count, 'is', 'are')} grouped by it"
            )
        if self.alone:
            lines.append(
                f"{counted(self.alone, 'DICOM file names', 'DICOM files name')} no patient, and "
                f"{agreeing(self.alone, 'is', 'are')} grouped by study or series: a patient with several may be in "
                "two splits"
            )
        return lines


def note_of_names(files: Iterable[str], remedy: str) -> list[str]:
    """Return a line if file names seem to hold patients that nothing else names: `0013_000.png`, `0013_001.png`.

    What stands before the last sign of a name is taken for a patient if it has a digit. It is told where three of
    them or more hold half of the files, at least two each. Nothing is decided by it: views of one patient are named
    like numbers of a series.

    Args:
        files: The files whose patient is not known.
        remedy: How the user says that they are patients.
    """
    files = list(files)
    names = Counter(match[1] for file in files if (match := _BEFORE_NUMBER.fullmatch(file)))
    several = {name: count for name, count in names.items() if count > 1 and any(map(str.isdigit, name))}
    if len(several) < _LEAST_PATIENTS or 2 * sum(several.values()) < len(files):
        return []
    name, count = max(several.items(), key=lambda item: item[1])
    return [
        f"{counted(sum(several.values()), 'file name')} seem to be of {counted(len(several), 'patient')}, such as "
        f"{count} that begin with {name}; nothing keeps them in one split. {remedy}"
    ]


def _patient_depth(found: Found, folders: Sequence[str]) -> int | None:
    """Return how far below the class folders the patients' folders are, 0 directly; None if there are none.

    It is decided once for all classes and splits. Folders are patients if a class folder holds several, or images
    beside one. A single folder that every class folder holds under one name is a wrapper, such as `png`.

    Raises:
        CipherwardError: If the folders could be patients or wrappers.
    """
    bases, depth = [folder for folder in folders if found.images(folder)], 0
    while True:
        inner = {base: [n for n in found.children(base) if found.images(f"{base}/{n}")] for base in bases}
        if any(len(names) > 1 or (names and found.direct_images(base)) for base, names in inner.items()):
            return depth
        singles = [f"{base}/{names[0]}" for base, names in inner.items() if names]
        names = [path.rpartition("/")[2] for path in singles]
        if not singles:
            return None
        if len(singles) == len(bases) and len(set(names)) == 1:
            bases, depth = singles, depth + 1
            continue
        if len(set(names)) < len(names):
            return depth
        if all(_names_patient(found, image) for path in singles for image in found.images(path)):
            return None
        raise CipherwardError(
            f"{found.path(singles[0])} is the only folder in its class folder: it could be a patient, or not",
            f"--groups none if it is no patient; --groups {FOLDER_PATTERN} if it is one",
        )


def _names_patient(found: Found, image: str) -> bool:
    """Return whether a DICOM file has a PatientID."""
    return bool(group := found.parts[image].group) and NO_PATIENT not in group
