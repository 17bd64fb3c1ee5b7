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
    _refuse_one_number_twice(names, where)
    _refuse_alike(names, where)


def _refuse_alike(names: Collection[str], where: str) -> None:
    """Raise CipherwardError if two names look the same, differ by a sign between words, or one is a copy's.

    A letter that nobody sees, or one of another alphabet, makes a class of its own of a few images; so do `no tumor`
    beside `no_tumor`, and the folder `benign - Copy` that a file manager made.
    """
    faults = "look the same", "differ by a sign alone"
    known: tuple[dict[str, str], dict[str, str]] = {}, {}
    for name in names:
        seen = "".join(letter for letter in name if not _is_invisible(letter))
        plain = _folded(seen.translate(_LOOK_ALIKE))
        forms = plain, _SEPARATOR.sub(" ", plain)
        for fault, twins, form in zip(faults, known, forms, strict=True):
            if (twin := twins.setdefault(form, name)) != name:
                raise CipherwardError(
                    f"{where}: {ascii(twin)} and {ascii(name)} {fault}",
                    "write the class in one way, or give the classes names that differ in words",
                )
    for name in known[0].values():
        for end in range(1, len(name)):
            if _COPY.fullmatch(name, end) and name[:end] in names:
                raise CipherwardError(
                    f"{where}: {name!r} seems to be a file manager's copy of {name[:end]!r}, and no class",
                    "remove the copy, or give the class another name",
                )


def _is_invisible(letter: str) -> bool:
    """Return whether a character of a name shows nothing of its own."""
    return letter in _BLANK or any(ord(letter) in selectors for selectors in _SELECTORS)


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
