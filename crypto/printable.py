"""Make text from elsewhere safe to print: names of files and classes, and what errors quote of them."""

from __future__ import annotations

import re

#: Characters of a message, at most. A hostile file could name a megabyte in an error.
MAX_CHARACTERS = 2000
# C0 and C1 controls, among them ESC and CSI, which move a terminal's cursor and hide lines; line and paragraph
# separators; marks that change the direction of text; and half surrogates, which no encoding prints.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, most: int = MAX_CHARACTERS) -> str:
    r"""Return a text as one line without control characters, such as `\x1b[2J` in place of what clears a terminal.

    Args:
        text: Any text. A printable one of that length or less comes back as it is.
        most: Characters that are kept; the end says how many more there were.
    """
    safe = _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text[: most + 1])
    if len(text) <= most and len(safe) <= most:
        return safe
    return f"{safe[:most]}… ({len(text):,} characters)"
