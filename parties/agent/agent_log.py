"""The hospital's own log of what its agent did: private/agent.jsonl, append-only and chained by hashes.

    line n   {"n": n, "time", "event", …, "previous": hash of line n−1, "hash": SHA-256 of this line without "hash"}

Every line is on disk (fsync) before what it tells of happens: a message is logged before its code runs, and its
outcome before the answer leaves. If the log cannot be written, nothing is answered. A line tells types, digests,
sizes and times. It never holds contents, and never a patient's name.

A write that a kill cut short leaves a torn line. It stays where it is, the next line goes below it, and `verify`
names it. The last hash is also in private/agent-head.json, which tells when lines at the end were removed: nothing is
appended to such a log, because the next line would put its own hash there. Whoever can write both files can cut both:
note the head elsewhere (`cipherward-party log verify` takes it with --head).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crypto.errors import CipherwardError
from crypto.files import (
    MOST_JOURNAL_BYTES,
    disk_errors,
    hold_file,
    read_json,
    read_regular,
    write_json,
)
from crypto.plural import counted
from parties.sealing.place import Place

LOG_FILE = "agent.jsonl"
HEAD_FILE = "agent-head.json"
#: What stands before the first line.
START = "0" * 64
#: Bytes at the end of the file in which its last whole line is looked for. A line is below 4 KiB (`_MAX_TEXT`).
_TAIL = 1 << 16
#: Characters of one text in a line, at most: a message must not fill the hospital's disk.
_MAX_TEXT = 300
_NOT_A_FILE = "move it away, and put the log back from your backup"
#: Fields of a line, at most; `_TAIL` holds several such lines.
_MAX_FIELDS = 32


@dataclass(frozen=True)
class Verification:
    """What `verify` read.

    Attributes:
        lines: whole lines.
        head: the hash of the last one; `START` in an empty log.
        torn: numbers of the lines in the file, from 1, that an interrupted write left.
    """

    lines: int
    head: str
    torn: tuple[int, ...]


class AgentLog:
    """The log of one hospital. Several processes may append to it."""

    def __init__(self, place: Place) -> None:
        self.path = place.private / LOG_FILE
        self.head_path = place.private / HEAD_FILE

    def append(self, event: str, **fields: str | int | float | bool | None) -> int:
        """Append a line and make it durable.

        Args:
            event: what happened: one word.
            fields: numbers, digests and short texts. Fields that are None are left out; long texts are cut.

        Returns:
            The line's number.

        Raises:
            CipherwardError: if the log cannot be written, for example because the disk is full, or if lines at its
                end are missing. What was there before stays as it was.
        """
        values = {k: v[:_MAX_TEXT] if isinstance(v, str) else v for k, v in fields.items() if v is not None}
        if len(values) > _MAX_FIELDS:
            raise ValueError("a line of the log has too many fields")
        with disk_errors(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            handle = os.open(self.path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise CipherwardError(f"the log {self.path} is not a regular file", _NOT_A_FILE)
            hold_file(handle, self.path.parent)
            size = os.fstat(handle).st_size
            number, previous, is_torn = self._read_end(handle, size)
            self._require_noted_end(number, previous)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            line = {"n": number + 1, "time": stamp, "event": event, **values, "previous": previous}
            line["hash"] = _hash(line)
            _write_whole(handle, (b"\n" if is_torn else b"") + _text(line) + b"\n", size, self.path)
            self._write_head(handle, size, line)
        finally:
            os.close(handle)
        return number + 1

    def _write_head(self, handle: int, size: int, line: dict[str, Any]) -> None:
        """Note a new line as the last one, or take it back: an answer that is logged must have left.

        Args:
            handle: the open log.
            size: its bytes before the line.
            line: the line.

        Raises:
            CipherwardError: if it cannot be noted.
        """
        head = {"n": line["n"], "hash": line["hash"]}
        try:
            write_json(self.head_path, head)
        except CipherwardError:
            # It may be noted, and only not known to be on the disk.
            if not self._is_noted(head):
                os.ftruncate(handle, size)
            raise

    def _is_noted(self, head: dict[str, Any]) -> bool:
        try:
            return bool(read_json(self.head_path, "head of the log") == head)
        except CipherwardError:
            return False

    def _read_end(self, handle: int, size: int) -> tuple[int, str, bool]:
        """Return number and hash of the last whole line, and whether the file ends within a line."""
        tail = os.pread(handle, _TAIL, max(0, size - _TAIL))
        for raw in reversed(tail.split(b"\n")):
            line = _parse(raw)
            if line is not None:
                return line["n"], line["hash"], not tail.endswith(b"\n")
        if size > _TAIL:
            raise CipherwardError(
                f"the end of {self.path} is damaged",
                "keep the file, and move it away before the agent goes on",
            )
        return 0, START, bool(tail) and not tail.endswith(b"\n")

    def _require_noted_end(self, number: int, previous: str) -> None:
        """Raise CipherwardError if the second file names a line that is not here, or no line at all.

        A kill between the two files leaves it a line behind; earlier versions left it further behind on a full disk.

        Args:
            number: the number of the last whole line; 0 in an empty log.
            previous: its hash.
        """
        is_there = self.head_path.exists()
        noted = read_json(self.head_path, "head of the log") if is_there else {"n": 0, "hash": START}
        n = noted.get("n") if isinstance(noted, dict) else None
        if type(n) is not int or n > number or (n == number and noted.get("hash") != previous):
            what = f"names line {n}, which is not its last one"
        elif not is_there and number > 1:
            what = "is missing"
        else:
            return
        raise CipherwardError(
            f"nothing is added to the log {self.path}: it has {counted(number, 'line')}, and "
            f"{self.head_path.name} {what}",
            "lines at its end were removed, or one of the two files is from a backup. Compare them with your backup; "
            "to begin a new log, move both files away",
        )

    def read(self) -> list[dict[str, Any]]:
        """Return all whole lines, oldest first."""
        return [line for raw in self._raw_lines() if (line := _parse(raw)) is not None]

    def count_lines(self) -> int:
        """Return how many lines the file has, whole or not."""
        return len(self._raw_lines())

    def verify(self, head: str = "") -> Verification:
        """Check the chain from the first line to the last.

        Args:
            head: a hash that was noted elsewhere, and must be in the log. Its first 16 digits are enough.

        Raises:
            CipherwardError: if a line was changed, removed, inserted or moved, or if lines at the end are missing.
        """
        number, previous, torn, hashes = 0, START, [], set[str]()
        lines, noted = self._read_whole()
        for position, raw in enumerate(lines, 1):
            line = _parse(raw)
            if line is None:
                torn.append(position)
                continue
            follows = line["n"] == number + 1 and line["previous"] == previous
            # To the byte: of a field that stands twice in a line, JSON knows the last one only.
            if not follows or line["hash"] != _hash(line) or raw != _text(line):
                raise CipherwardError(
                    f"the log is broken at line {position} of {self.path}: it does not follow the line before it",
                    "it was altered, or a line before it was; compare it with your backup",
                )
            number, previous = line["n"], line["hash"]
            hashes.add(previous)
        self._require_end(number, hashes, noted, head.strip().lower())
        return Verification(number, previous, tuple(torn))

    def _read_whole(self) -> tuple[list[bytes], object]:
        """Return all lines and what the head file says, of one moment: an agent may append while they are read.

        Without a head file the second is None.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # reading it says what is wrong
                file = stack.enter_context(open(self.path, "rb", opener=_open_at_once))
                hold_file(file, self.path.parent, shared=True)
            noted = read_json(self.head_path, "head of the log") if self.head_path.exists() else None
            return self._raw_lines(), noted

    def _require_end(self, lines: int, hashes: set[str], noted: object, head: str) -> None:
        """Raise CipherwardError if the log ends before a hash that was noted."""
        hint = "lines at its end were removed, or it is another hospital's log; compare it with your backup"
        if noted is not None:
            if not isinstance(noted, dict) or noted.get("hash") not in hashes:
                count = noted.get("n") if isinstance(noted, dict) else "?"
                raise CipherwardError(
                    f"the log has {counted(lines, 'line')}, and {self.head_path.name} names line {count}, which "
                    "is not among them",
                    hint,
                )
        elif lines:
            raise CipherwardError(f"{self.head_path} is missing: nothing shows that the log is whole", hint)
        if head and (len(head) < 16 or not any(known.startswith(head) for known in hashes)):
            raise CipherwardError(f"no line of the log has the hash {head[:64]}", hint)

    def _raw_lines(self) -> list[bytes]:
        try:
            lines = read_regular(self.path, MOST_JOURNAL_BYTES).split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CipherwardError(
                f"cannot read {self.path}: {type(error).__name__}",
                "let the user who runs this command read it; if it is damaged, restore it from your backup",
            ) from None
        return lines[:-1] if lines[-1] == b"" else lines


def _open_at_once(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _parse(raw: bytes) -> dict[str, Any] | None:
    """Return a whole line of the log, or None."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    is_whole = isinstance(line, dict) and type(line.get("n")) is int
    is_whole = is_whole and all(isinstance(line.get(name), str) for name in ("previous", "hash"))
    return line if is_whole else None


def _text(line: dict[str, Any]) -> bytes:
    """Return a line as it is written, without its end."""
    return json.dumps(line, sort_keys=True).encode()


def _hash(line: dict[str, Any]) -> str:
    """Return the hex SHA-256 of a line without its hash."""
    rest = {name: value for name, value in line.items() if name != "hash"}
    return hashlib.sha256(_text(rest)).hexdigest()


def _write_whole(handle: int, data: bytes, size: int, path: Path) -> None:
    """Append bytes to an open file and make them durable, or leave the file as it was."""
    try:
        with disk_errors(path):
            if os.write(handle, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
    except CipherwardError:
        os.ftruncate(handle, size)
        raise
