"""The options of `check`, `seal` and `audit` that say which images are read, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crypto.errors import CipherwardError

Labels = Annotated[
    Path | None,
    typer.Option(help="A CSV file of path,label[,patient,split,hospital], instead of class folders."),
]
OfHospital = Annotated[
    str | None, typer.Option("--hospital-name", help="Use only this hospital's rows of the label file.")
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="What tells patients apart: folder (inside a class folder), none, or a regular expression on the path."
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(help="The consortium's classes, with commas: the same list in every hospital."),
]
Window = Annotated[
    str | None,
    typer.Option(help="Gray values to show, for images of more than 8 bits: auto, full or LOW,HIGH."),
]
Fit = Annotated[
    str | None, typer.Option(help="How an image becomes square: stretch (default), pad or crop.")
]
Background = Annotated[
    int | None, typer.Option(min=0, max=255, help="Gray value behind transparent pixels.")
]
Rgb = Annotated[bool | None, typer.Option("--rgb/--gray", help="Seal three channels, or one.")]
AllowLeak = Annotated[
    bool | None, typer.Option("--allow-leak", help="Seal although a patient is in two splits.")
]
AllowBurnedIn = Annotated[
    bool | None,
    typer.Option("--allow-burned-in", help="Read DICOM images that say that names may be in their pixels."),
]


def settings_of(
    labels: Path | None = None,
    hospital: str | None = None,
    groups: str | None = None,
    classes: str | None = None,
    window: str | None = None,
    fit: str | None = None,
    background: int | None = None,
    allow_leak: bool | None = None,
    allow_burned_in: bool | None = None,
) -> dict[str, Any]:
    """Return the stated options as settings of party.yaml; what is not stated is None."""
    return {
        "labels": None if labels is None else str(absolute(labels)),
        "hospital": hospital,
        "groups": groups,
        "classes": None if classes is None else [name.strip() for name in classes.split(",")],
        "window": window,
        "fit": fit,
        "background": background,
        "allow_leak": allow_leak,
        "allow_burned_in": allow_burned_in,
    }


def absolute(path: Path) -> Path:
    """Return an absolute path. Raises CipherwardError for a loop of links."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError):
        raise CipherwardError(f"no such file or folder: {path}", "name your images") from None


def is_npz(images: str) -> bool:
    """Return whether a path names a MedMNIST file."""
    return Path(images).suffix.lower() == ".npz"
