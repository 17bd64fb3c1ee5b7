"""Which patient an image in a class folder is of: from DICOM's tags, a folder in the class folder, or a pattern."""

from __future__ import annotations

import re

from crypto.errors import CipherwardError, similar_to
from parties.sources.catalog import Selection
from parties.sources.found import Found


class Grouper:
    """Gives each image its patient, as the selection's `groups` says."""

    def __init__(self, found: Found, selection: Selection) -> None:
        self.found, self.how, self.unmatched = found, selection.groups, 0
        self.folders: dict[str, bool] = {}
        self.named, self.tagged = set[str](), 0
        self.pattern: re.Pattern[str] | None = None
        if self.how not in ("folder", "none"):
            try:
                self.pattern = re.compile(self.how)
            except re.error as error:
                raise CipherwardError(
                    f"groups: {self.how!r} is no pattern: {error}",
                    "--groups folder, none, or a regular expression",
                ) from None

    def __call__(self, image: str, folder: str) -> str:
        """Return the patient of an image in a class folder; empty if nothing is known."""
        parts = self.found.parts[image]
        if self.how == "none":
            return ""
        if self.pattern is not None:
            if match := self.pattern.search(image[len(folder) + 1 :]):
                self.named.add(match[0])
                return "pattern " + (match[1] if match.re.groups and match[1] is not None else match[0])
            self.unmatched += 1
        if parts.group:
            self.tagged += 1
            return "tag " + parts.group
        inner = image[len(folder) + 1 :].split("/")
        if len(inner) > 1 and self.pattern is None and self.has_patients(folder):
            self.named.add(inner[0])
            return "folder " + inner[0]
        return "file " + image if parts.count > 1 or parts.kind == "NIfTI" else ""

    def has_patients(self, folder: str) -> bool:
        """Return whether the folders in a class folder are patients: there are several, or images beside one."""
        if folder not in self.folders:
            inner = [name for name in self.found.children(folder) if self.found.images(f"{folder}/{name}")]
            self.folders[folder] = len(inner) > 1 or bool(self.found.direct_images(folder))
        return self.folders[folder]

    def notes(self) -> list[str]:
        """Return what was decided, for the user.

        Raises:
            CipherwardError: If a stated pattern matches no image: it would keep no patient in one split.
        """
        lines = []
        if self.unmatched and not self.named:
            raise CipherwardError(
                f"groups: {self.how!r} matches the path of no image",
                f"{similar_to(self.how, ('folder', 'none'))}--groups folder, none, or a regular expression on the "
                "path below the class folder",
            )
        if self.named and self.pattern is None:
            lines.append(
                f"{len(self.named)} folders inside the class folders are taken for patients (--groups none if not)"
            )
        if self.pattern is not None:
            lines.append(
                f"the pattern names {len(self.named)} patients; {self.unmatched} images do not match it"
            )
        if self.tagged:
            lines.append(
                f"{self.tagged} DICOM files name a patient, a study or a series, and are grouped by it"
            )
        return lines
