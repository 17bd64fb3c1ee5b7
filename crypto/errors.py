"""The one error a user is meant to read: what is wrong, and what to do next.

Commands print it as two lines (`…: error: …` and `hint: …`) and exit with status 1. Anything else
that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class CipherwardError(Exception):
    """Something the user can mend. Texts never hold key material or pixels."""

    def __init__(self, message: str, hint: str = "") -> None:
        # Flower shows str(error) alone, and the hint is half of the message.
        super().__init__(f"{message} (hint: {hint})" if hint else message)
        self.message = message
        self.hint = hint


def unknown(what: str, name: str, known: object) -> CipherwardError:
    """The error for a name that is not in a list of known ones; the hint lists them."""
    names = ", ".join(sorted(str(k) for k in known))  # type: ignore[attr-defined]
    return CipherwardError(f"unknown {what} {name!r}", f"known: {names or 'none'}")
