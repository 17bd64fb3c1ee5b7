"""Which class names can be used, for every source: a name becomes a folder when a set is unsealed, and meets others.

crypto/sets/dataset.py refuses a part of these names in a manifest. Here they are refused before anything is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable
from decimal import Decimal

from crypto.errors import CipherwardError
from crypto.printable import printable

#: Characters and UTF-8 bytes of a class name, at most. File systems take 255 bytes.
MAX_CHARACTERS, MAX_BYTES = 100, 200
#: Letters, symbols and joiners that fonts show as nothing, though they are no spaces: the fillers of Hangul, the
#: blank of Braille, and the joiners and marks that only change what stands beside them.
_BLANK = "\u115f\u1160\u3164\uffa0\u2800\u200c\u200d\u034f\u17b4\u17b5\ufe0e\ufe0f"


#: Marks that only choose how the letter before them looks: the variation selectors.
_SELECTORS = range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0), range(0x180B, 0x1810)
#: Cyrillic and Greek letters, and the Latin ones that look the same. A keyboard in either types another `COVID`.
_LOOK_ALIKE = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0405\u0408"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
    "ABEKMHOPCTYXISJaeopcyxisjABEZHIKMNOPTYXo",
)
# What find_twins says of two names, if a reader cannot see what tells them apart.
_UNSEEN = "look the same", "differ by a sign alone"
# One sign between two words or numbers. `grade -1` is not `grade 1`, and HER2- not HER2.
_SEPARATOR = re.compile(r"(?<=[^\W_])[\s_\-\u2010-\u2015\u2212](?=[^\W_])")
# What file managers add to the name of a copy, in several languages.
_COPY = re.compile(
    r"( - | \(|[_ -])(copy|kopie|copie|copia|c\u00f3pia|kopia)( ?\(?\d+\)?)?\)?| \(\d{1,2}\)", re.IGNORECASE
)


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
        CipherwardError: If one cannot be a folder's name everywhere, or two are the same name to some file systems,
            one number in two spellings, look the same or differ by a sign between words, or one is a copy's.
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
    if found := find_twins(names):
        twin, name, fault = found
        raise CipherwardError(
            f"{where}: {twin!a} and {name!a} {fault}"
            if fault in _UNSEEN
            else f"{where}: {twin!r} and {name!r} {fault}",
            "join the classes, or write the name in one way; class names that differ in words are clearer",
        )
    _refuse_copies(names, where)


def find_twins(names: Iterable[str]) -> tuple[str, str, str] | None:
    """Return two names that are one to a reader, and why, such as `1` and `01`, or `no tumor` and `no_tumor`.

    Spreadsheets make 1.0, 1,0 or 1E+00 of a 1 in some rows, and decimals have a comma in some languages. A letter
    that nobody sees, or one of another alphabet, tells names apart that look the same.
    """
    known: tuple[dict[str, str], ...] = {}, {}, {}
    faults = "are one number in two spellings", *_UNSEEN
    for name in names:
        seen = _folded(without_invisible(name).translate(_LOOK_ALIKE))
        forms = _plain_numbers(_folded(name)), seen, _SEPARATOR.sub(" ", seen)
        for fault, twins, form in zip(faults, known, forms, strict=True):
            if (twin := twins.setdefault(form, name)) != name:
                return twin, name, fault
    return None


def _plain_numbers(name: str) -> str:
    """Return a name with its numbers in one spelling: `1` for `01` and `1.0`, and `T1` for `T01`."""
    if _NUMBER.fullmatch(name):
        return str((Decimal(name.replace(",", ".")) + 0).normalize())
    return _LEADING_ZEROS.sub("", name)


def _refuse_copies(names: Collection[str], where: str) -> None:
    """Raise CipherwardError if a folder is a file manager's copy of another: `benign - Copy` beside `benign`."""
    for name in names:
        for end in range(1, len(name)):
            if _COPY.fullmatch(name, end) and name[:end] in names:
                raise CipherwardError(
                    f"{where}: {name!r} seems to be a file manager's copy of {name[:end]!r}, and no class",
                    "remove the copy, or give the class another name",
                )


def without_invisible(name: str) -> str:
    """Return a name without the characters that show nothing of their own."""
    return "".join(
        letter
        for letter in name
        if letter not in _BLANK
        and unicodedata.category(letter) != "Cf"
        and not any(ord(letter) in selectors for selectors in _SELECTORS)
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
