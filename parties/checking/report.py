"""What a check found, in numbers and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from crypto.plural import counted
from parties.checking.confounds import Confound


@dataclass(frozen=True)
class Finding:
    """Something that a user should know. `hint` says what to do."""

    message: str
    hint: str = ""


@dataclass
class Report:
    """What a check found. Counts are of images unless they are of files.

    Attributes:
        classes: The class names.
        counts: Split → class → images.
        patients: Split → patients, where they are known.
        found: Files below the folder: images, ignored and refused ones.
        files: Files of images.
        images: Images in them.
        ignored: Reason → files.
        ignored_names: The same, name → reason.
        refused: Reason → images or files that cannot be used.
        refused_names: The same, name → reason.
        looked: Headers and pictures that were looked at.
        formats: Format → images, of the headers that were looked at; modes and sizes likewise.
        colour: Images in colour, of the pictures that were looked at.
        blank: Pictures of one gray value, of those that were looked at.
        not_square: Images whose sides differ as a viewer shows them, of the headers; `stretch` is the largest ratio
            of sides.
        exact: Pairs of equal files in two splits. `near` are pairs of nearly equal pictures.
        two_classes: Pairs of equal or nearly equal pictures under two classes.
        complete: Whether all possible copies were compared.
        crossing: Patients with images in two splits.
        confounds: How well properties of the files predict the class.
        notes: What was decided about the layout.
        warnings: What should be looked into.
        errors: What `seal` refuses.
    """

    classes: list[str]
    counts: dict[str, dict[str, int]]
    patients: dict[str, int]
    found: int
    files: int
    images: int
    ignored: dict[str, int]
    ignored_names: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    refused_names: dict[str, str] = field(default_factory=dict)
    looked: tuple[int, int] = (0, 0)
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    colour: int = 0
    transparent: int = 0
    blank: int = 0
    not_square: int = 0
    stretch: float = 1.0
    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)
    two_classes: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = True
    crossing: int = 0
    confounds: list[Confound] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        values = dict(vars(self))
        values["looked"] = {"headers": self.looked[0], "pictures": self.looked[1]}
        values["confounds"] = [vars(c) | {"is_telling": c.is_telling} for c in self.confounds]
        for name in ("warnings", "errors"):
            values[name] = [vars(finding) for finding in values[name]]
        return values


@dataclass(frozen=True)
class Statements:
    """What the user has stated.

    Attributes:
        channels: 1 or 3, and None if nothing is stated: gray.
        allow_leak: Whether a patient may be in two splits.
        classes: Whether the consortium's class list is stated.
        is_share: Whether the images are a share of a simulation's folder: its classes are what fell to it.
    """

    channels: int | None = None
    allow_leak: bool = False
    classes: bool = False
    is_share: bool = False


def same_under_two_classes(pairs: Sequence[tuple[str, str]]) -> Finding:
    """Return the finding about pictures that are under two classes."""
    return Finding(
        f"{counted(len(pairs), 'picture is', 'pictures are')} under two classes, such as {' and '.join(pairs[0])}",
        "one of the labels is wrong, or the picture does not show the class; correct the label, or remove both",
    )
