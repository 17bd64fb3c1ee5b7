"""The options of `check`, `seal` and `audit` that say which images are read, how, and how they are sealed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from crypto.errors import CipherwardError

Labels = Annotated[
    Path | None,
    typer.Option(
        help="A CSV file of path,label[,patient,split,hospital], instead of class folders.",
        show_default="none",
    ),
]
OfHospital = Annotated[
    str | None,
    typer.Option(
        "--hospital-name", help="Use only this hospital's rows of the label file.", show_default="all rows"
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="What tells patients apart: folder (inside a class folder, and DICOM tags), tags, none, or a regular "
        "expression on the path.",
        show_default="folder",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="The consortium's classes, with commas: the same list in every hospital.",
        show_default="those that are there",
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        help="Gray values to show, for images of more than 8 bits: auto, full or LOW,HIGH.",
        show_default="a DICOM file's own; other such images are refused",
    ),
]
Fit = Annotated[
    str | None,
    typer.Option(help="How an image becomes square: stretch, pad or crop.", show_default="stretch"),
]
Background = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=255,
        help="Gray value behind transparent pixels.",
        show_default="transparent images are refused",
    ),
]
Rgb = Annotated[
    bool | None,
    typer.Option(
        "--rgb/--gray",
        help="Seal three channels, or one.",
        show_default="gray; images in colour are refused",
    ),
]
AllowLeak = Annotated[
    bool | None, typer.Option("--allow-leak", help="Seal although a patient is in two splits.")
]
AllowBurnedIn = Annotated[
    bool | None,
    typer.Option("--allow-burned-in", help="Read DICOM images that say that names may be in their pixels."),
]


SealingScheme = Annotated[
    str | None,
    typer.Option("--scheme", help="Encryption scheme: see `schemes`.", show_default="block_pixel_shuffle"),
]
Block = Annotated[
    int | None,
    typer.Option(
        help="Side of a block, in pixels. The ViT's patch size must be a multiple of it.", show_default="16"
    ),
]
KeyScope = Annotated[
    str | None,
    typer.Option(
        help="Who shares a key: consortium (all hospitals), party (each has its own), or image (each image has "
        "its own).",
        show_default="consortium",
    ),
]
SchemeOption = Annotated[
    list[str] | None,
    typer.Option(
        help="An option of the scheme, NAME=VALUE: see docs/howto/keys.md. Can be repeated.",
        show_default="none",
    ),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize every image to this side length, in pixels.", show_default="224")
]


@dataclass(frozen=True)
class ImageOptions:
    """Which images are read, and how: options of `check`, `seal` and `audit`. None: not stated."""

    rgb: Rgb = None
    labels: Labels = None
    hospital_name: OfHospital = None
    groups: Groups = None
    classes: Classes = None
    window: Window = None
    fit: Fit = None
    background: Background = None
    allow_leak: AllowLeak = None
    allow_burned_in: AllowBurnedIn = None

    @property
    def channels(self) -> int | None:
        """1 (gray) or 3 (RGB) as stated, and None if nothing is stated."""
        return None if self.rgb is None else 3 if self.rgb else 1

    def settings(self) -> dict[str, Any]:
        """Return the stated options as settings of party.yaml, but for the channels."""
        stated = {
            "labels": None if self.labels is None else str(absolute(self.labels)),
            "hospital": self.hospital_name,
            "groups": self.groups,
            "classes": None if self.classes is None else [name.strip() for name in self.classes.split(",")],
            "window": self.window,
            "fit": self.fit,
            "background": self.background,
            "allow_leak": self.allow_leak,
            "allow_burned_in": self.allow_burned_in,
        }
        return {name: value for name, value in stated.items() if value is not None}


@dataclass(frozen=True)
class SealingOptions(ImageOptions):
    """How images are sealed: the further options of `seal` and `audit`."""

    image_size: ImageSize = None
    scheme: SealingScheme = None
    block: Block = None
    key_scope: KeyScope = None
    option: SchemeOption = None

    def settings(self) -> dict[str, Any]:
        """Return the stated options as settings of party.yaml."""
        stated = {
            "image_size": self.image_size,
            "channels": self.channels,
            "scheme": self.scheme,
            "block": self.block,
            "key_scope": self.key_scope,
            # Options belong to one scheme: a new scheme starts without any.
            "scheme_options": parse_options(self.option) if self.option or self.scheme else None,
        }
        return super().settings() | {name: value for name, value in stated.items() if value is not None}


def with_options(*leave_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of the dataclass that its parameter `chosen` is annotated with.

    Typer reads a command's signature. There the parameter is replaced by the fields of the dataclass.

    Args:
        leave_out: Fields that the command has no option for; they keep their defaults.
    """

    def replace(command: Callable[..., None]) -> Callable[..., None]:
        kind = get_type_hints(command)["chosen"]
        hints = get_type_hints(kind, include_extras=True)
        fields = [field for field in dataclasses.fields(kind) if field.name not in leave_out]
        signature = inspect.signature(command, eval_str=True)
        parameters = []
        for parameter in signature.parameters.values():
            if parameter.name != "chosen":
                parameters.append(parameter)
                continue
            parameters += [
                inspect.Parameter(
                    field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
                )
                for field in fields
            ]
        # Keyword-only ones have to come last; the order is that of --help.
        parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            chosen = kind(**{field.name: values.pop(field.name) for field in fields})
            command(**values, chosen=chosen)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # functions have one
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return replace


def parse_options(words: list[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE words as a dict, with the values read as YAML."""
    from coordinator.exchange.settings import parse_assignments

    return parse_assignments(
        words or (), "--option", "NAME=VALUE", "for example: --option mask=independent"
    )


def absolute(path: Path) -> Path:
    """Return an absolute path. Raises CipherwardError for a loop of links."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError):
        raise CipherwardError(f"no such file or folder: {path}", "name your images") from None


def hospital_name(folder: str) -> str:
    """Return a hospital's name for a folder's: its identity and every statement allow ASCII names only."""
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).lstrip("._-")[:64] or "hospital"


def is_npz(images: str) -> bool:
    """Return whether a path names a MedMNIST file."""
    return Path(images).suffix.lower() == ".npz"
