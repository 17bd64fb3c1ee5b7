"""A terminal as people see it: runs a program in a pseudo-terminal, and plays what it printed on a screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

COLUMNS, ROWS = 80, 24
_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Screen:
    """A screen of 80 columns and 24 lines, with the lines that were scrolled off.

    It knows what Rich sends: carriage return, line feed, moving up, erasing a line, and colours and the cursor's
    look, which it drops. Anything else is an AssertionError.

    Attributes:
        lines: all lines, those that were scrolled off first.
    """

    def __init__(self) -> None:
        """Begin with an empty screen."""
        self.lines: list[str] = [""]
        self._row = self._column = 0

    def play(self, text: str) -> None:
        """Show what a program printed."""
        at = 0
        while at < len(text):
            control = _CONTROL.match(text, at)
            if control:
                self._steer(control[1], control[2])
                at = control.end()
                continue
            self._put(text[at])
            at += 1

    def _steer(self, number: str, what: str) -> None:
        if what == "A":
            top = max(0, len(self.lines) - ROWS)  # what was scrolled off is out of reach
            self._row = max(top, self._row - int(number or 1))
        elif what == "K" and number == "2":
            self.lines[self._row] = ""
        else:
            assert what in "mhl", f"unknown sequence {number}{what}"

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._feed()
        else:
            assert character.isprintable(), repr(character)
            if self._column == COLUMNS:
                self._feed()
                self._column = 0
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _feed(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")

    def shown(self) -> list[str]:
        """Return the lines that are not empty, without spaces at their ends."""
        return [line.rstrip() for line in self.lines if line.strip()]


def run_in_terminal(
    command: Sequence[str], folder: Path, changes: Mapping[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run a command in a terminal of its own; return its status and what it printed, piece by piece.

    Args:
        command: The program and its words.
        folder: The working directory.
        changes: Variables of the environment that differ from this process's.
    """
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    run = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
        cwd=folder,
        env={**kept, "TERM": "xterm-256color", **(changes or {})},
    )
    os.close(writer)
    data = bytearray()
    while True:
        try:
            piece = os.read(reader, 1 << 16)
        except OSError:  # the last program that had it has closed it
            break
        if not piece:
            break
        data += piece
    os.close(reader)
    return run.wait(), split_frames(data.decode())


def split_frames(text: str) -> list[str]:
    """Return a text in pieces that each end before the program begins to draw anew."""
    return re.split(r"(?<=\n)(?=\r?\x1b\[2K|\r\x1b\[)|(?=\r\x1b\[2K)", text)
