"""Make text from elsewhere safe to print: names of files and classes, and what errors quote of them."""

from __future__ import annotations

import re

#: Characters of a message, at most. A hostile file could name a megabyte in an error.
MAX_CHARACTERS = 2000
# C0 and C1 controls, among them ESC and CSI, which move a terminal's cursor and hide lines; line and paragraph
# separators; marks that change the direction of text; characters that nobody sees, such as the zero-width space and
# tags, which make two names look like one (the joiners U+200C and U+200D are letters of some scripts and stay); and
# half surrogates, which no encoding prints.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, most: int = MAX_CHARACTERS) -> str:
    r"""Return a text as one line without control characters, such as `\x1b[2J` in place of what clears a terminal.

    Args:
        text: Any text. A printable one of that length or less comes back as it is.
        most: Characters that are kept; the end says how many more there were.
    """
    safe = visible(text[: most + 1])
    if len(text) <= most and len(safe) <= most:
        return safe
    return f"{safe[:most]}… ({len(text):,} characters)"


def visible(text: str) -> str:
    """Return a text of any length with the same escapes: for pages, whose markup is escaped elsewhere."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
