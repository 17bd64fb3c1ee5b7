"""The one error that a user is meant to read: what is wrong, and what to do next.

Commands print it as two lines (`…: error: …` and `hint: …`) and exit with status 1. Any other exception that escapes
is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

from crypto.printable import printable


class CipherwardError(Exception):
    """Something that the user can mend. Its texts never hold key material or pixels.

    Attributes:
        message: what is wrong.
        hint: what to do next.
        outside: what is said outside the hospital in the place of both, where they hold figures that must stay in it,
            such as its number of patients; "" if they may leave.
    """

    def __init__(self, message: str, hint: str = "", outside: str = "") -> None:
        # Flower shows str(error) alone, and the hint is half of the message.
        # What it writes to its logs must not steer a terminal that shows them.
        super().__init__(printable(message) + (f" (hint: {printable(hint)})" if hint else ""))
        self.message = message
        self.hint = hint
        self.outside = outside

    def for_outside(self) -> Self:
        """Return the error as somebody outside the hospital may read it: with no figure that must stay inside."""
        if not self.outside:
            return self
        public = type(self).__new__(type(self))
        public.__dict__.update(vars(self))
        public.args = (printable(self.outside),)
        public.message, public.hint = self.outside, ""
        return public


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
