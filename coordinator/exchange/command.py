"""A command whose --help describes its positional arguments, whichever versions of Typer and click are installed.

click 8.5 gave arguments a help text of their own, which is empty under Typer 0.20 and overwrites Typer's. The texts
stand in the command's signature, and are taken from there.
"""

from __future__ import annotations

import inspect
import typing
from typing import Any

from typer.core import TyperArgument, TyperCommand
from typer.models import ArgumentInfo


class Command(TyperCommand):
    """A command that shows the help of its positional arguments."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        texts = _argument_texts(self.callback)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and not parameter.help:
                parameter.help = texts.get(parameter.name or "")


def _argument_texts(function: Any) -> dict[str, str]:
    """Return the help texts of a function's positional arguments, by name."""
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True) if function else {}
    return {
        name: item.help
        for name, hint in hints.items()
        for item in getattr(hint, "__metadata__", ())
        if isinstance(item, ArgumentInfo) and item.help
    }
