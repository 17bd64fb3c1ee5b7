"""Which class names can be used, for every source: a name becomes a folder when a set is unsealed, and meets others.

crypto/sets/dataset.py refuses a part of these names in a manifest. Here they are refused before anything is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

from crypto.errors import CipherwardError
from crypto.printable import printable

#: Characters and UTF-8 bytes of a class name, at most. File systems take 255 bytes.
MAX_CHARACTERS, MAX_BYTES = 100, 200
#: Letters, symbols and joiners that fonts show as nothing, though they are no spaces: the fillers of Hangul, the
#: blank of Braille, and the joiners and marks that only change what stands beside them.
_BLANK = "\u115f\u1160\u3164\uffa0\u2800\u200c\u200d\u034f\u17b4\u17b5\ufe0e\ufe0f"


# A number, of no more digits than are compared (Decimal: 28).
_NUMBER = re.compile(r"[+-]?([0-9]{1,19}([.,][0-9]{0,8})?|[.,][0-9]{1,8})([eE][+-]?[0-9]{1,4})?")
_LEADING_ZEROS = re.compile(r"(?<![0-9.,])0+(?=[0-9])")


def normalized(name: str) -> str:
    """Return a class name in one form: macOS writes an accent as a character of its own, Linux usually does not."""
    return unicodedata.normalize("NFC", name)


def require_usable_names(names: Iterable[str], where: str) -> None:
    """Check class names.

    Args:
        names: The names, normalized.
        where: What holds them, for messages.

    Raises:
        CipherwardError: If one cannot be a folder's name everywhere, or two are the same name to some file systems
            or one number in two spellings.
    """
    names = list(names)
    same: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        if fault := _fault(name):
            raise CipherwardError(
                f"{where}: class name {name!r} cannot be a folder's name: it {fault}",
                "give each class a name, and no comma too many"
                if not name
                else "rename the class: letters, digits, spaces, - and _ are safe",
            )
        same[" ".join(_folded(name).split())].append(name)
    for twins in same.values():
        if len(twins) > 1:
            shown = " and ".join(repr(name) for name in twins[:3])
            if len(set(twins)) == 1:
                raise CipherwardError(
                    f"{where}: {len(twins)} classes are named {twins[0]!r}", "each class needs its own name"
                )
            is_one = len(set(map(_folded, twins))) < len(twins)
            raise CipherwardError(
                f"{where}: {shown} {'are one name to many file systems' if is_one else 'differ by spaces alone'}",
                "rename one of them, or join the classes",
            )
    _refuse_one_number_twice(names, where)


def _refuse_one_number_twice(names: Iterable[str], where: str) -> None:
    """Raise CipherwardError if two names differ by the spelling of a number: `1`, `01` and `1.0`, or `T1` and `T01`.

    Spreadsheets make 1.0, 1,0 or 1E+00 of a 1 in some rows, and decimals have a comma in some languages.
    """
    known: dict[str, str] = {}
    for name in names:
        plain = _folded(name)
        if _NUMBER.fullmatch(plain):
            plain = str((Decimal(plain.replace(",", ".")) + 0).normalize())
        else:
            plain = _LEADING_ZEROS.sub("", plain)
        if (twin := known.setdefault(plain, name)) != name:
            raise CipherwardError(
                f"{where}: {twin!r} and {name!r} are one number in two spellings",
                "join the classes, or write the number in one way; class names in words are clearer",
            )


def _folded(name: str) -> str:
    """Return a name as file systems compare it that do not tell capitals or forms of one letter apart."""
    return unicodedata.normalize("NFKC", name).casefold()


def _fault(name: str) -> str:
    """Return what is wrong with a name; empty if nothing is."""
    if not name or name.startswith("."):
        return "begins with a dot" if name else "is empty"
    if "/" in name or "\\" in name:
        return "holds a slash or backslash, which separates folders"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "is not UTF-8"
    if printable(name) != name or "\0" in name:
        return "holds a control character"
    if name.strip() and all(letter in _BLANK or letter.isspace() for letter in name):
        return "shows nothing"
    if name != name.strip() or name.endswith("."):
        return "begins or ends with a space, or ends with a dot"
    if len(name) > MAX_CHARACTERS or len(name.encode(errors="surrogateescape")) > MAX_BYTES:
        return f"is longer than {MAX_CHARACTERS} characters"
    return ""
