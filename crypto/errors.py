"""The one error that a user is meant to read: what is wrong, and what to do next.

Commands print it as two lines (`…: error: …` and `hint: …`) and exit with status 1. Any other exception that escapes
is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from crypto.printable import printable


class CipherwardError(Exception):
    """Something that the user can mend. Its texts never hold key material or pixels."""

    def __init__(self, message: str, hint: str = "") -> None:
        # Flower shows str(error) alone, and the hint is half of the message.
        # What it writes to its logs must not steer a terminal that shows them.
        super().__init__(printable(message) + (f" (hint: {printable(hint)})" if hint else ""))
        self.message = message
        self.hint = hint


def unknown(what: str, name: str, known: Iterable[str]) -> CipherwardError:
    """Return the error for a name that is not among the known ones; the hint has similar ones first, then all."""
    names = sorted(known)
    return CipherwardError(
        f"unknown {what} {name!r}", f"{similar_to(name, names)}known: {', '.join(names) or 'none'}"
    )


def similar_to(name: str, known: Iterable[str]) -> str:
    """Return "did you mean …? " with the known names that are like a name, "" if there are none."""
    similar = difflib.get_close_matches(name, list(known), 2)
    return f"did you mean {' or '.join(similar)}? " if similar else ""


def not_invertible(scheme: str, hint: str) -> CipherwardError:
    """Return the error for ciphertexts of a scheme that no key opens."""
    return CipherwardError(f"{scheme} cannot be inverted: no key opens its ciphertexts", hint)
