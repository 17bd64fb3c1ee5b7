"""Texts of errors that leave a machine: the name of a folder may be a patient's, or tell who works there."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: Where an absolute path may begin, and how many of its characters are looked at, at most.
_PATH_BEGINS, _MOST_PATH = re.compile(r"(?<![\w/:.…~])/(?=[^\s/])"), 4096
#: Folders below one that was taken out.
_BELOW = re.compile(r"…/(?:[^\s/:;,'\"()]+/)+(?=[^\s/])")
#: The folders of an absolute path, or of one in this user's home. Not those of a URL.
_FOLDERS = re.compile(r"(?<![\w/:.…])~?/(?:[^\s/:;,'\"()]+/)*(?=[^\s/])")


def without_folders(text: str) -> str:
    """Return a text with … in place of the folders of its paths: those of this machine, and what looks like one."""
    known = _without_known_folders(text)
    return _BELOW.sub("…/", _FOLDERS.sub("…/", known.replace(str(Path.home()), "~")))


def _without_known_folders(text: str) -> str:
    """Return a text without the folders in it that this machine has, whatever their names hold."""
    parts, done = [], 0
    for match in _PATH_BEGINS.finditer(text):
        start = match.start()
        if start < done:
            continue
        ends = [i + 1 for i in range(start + 1, min(len(text), start + _MOST_PATH)) if text[i] == "/"]
        if existing := [end for end in ends if os.path.isdir(text[start:end])]:  # noqa: PTH112 - it raises nothing
            parts += [text[done:start], "…/"]
            done = existing[-1]
    return "".join([*parts, text[done:]])
