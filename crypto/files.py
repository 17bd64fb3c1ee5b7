"""Writing files so that a killed run, a full disk or a second run never leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from crypto.errors import CipherwardError

_CHUNK = 1 << 20


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the system says of a file into one clear line naming it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CipherwardError(
                f"the disk is full: cannot write {path}",
                "free some space and run the same command again; finished parts are kept",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CipherwardError(f"no permission to write {path}", "choose another folder") from None
        if error.errno == errno.EFBIG:
            raise CipherwardError(
                f"{path} would be larger than this machine lets a file be", "see: ulimit -f"
            ) from None
        if error.errno == errno.ENAMETOOLONG:
            raise CipherwardError(f"{path.name[:40]}… is too long a name", "choose a shorter one") from None
        if error.errno == errno.EEXIST:
            raise CipherwardError(f"{path} is a file, not a folder", "choose another name") from None
        if error.errno == errno.EISDIR:
            raise CipherwardError(f"{path} is a folder, not a file", "choose another name") from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise CipherwardError(f"no such folder: {path.parent}", "make it, or choose another") from None
        raise CipherwardError(
            f"cannot write {path}: {error.strerror or error}", "mend that, and run the same command again"
        ) from None


def write_atomic(path: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write a neighbour of `path`, makes it durable, then renames it over `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            fill(temporary)
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a folder for one process at a time; the kernel lets go of it when the process ends, however."""
    with disk_errors(folder / ".lock"):
        lock = open(folder / ".lock", "w")  # noqa: SIM115 - what is done under it has errors of its own
    with lock as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CipherwardError(
                f"another command is at work in {folder}", "wait until it is done, or end it"
            ) from None
        yield


def write_json(path: Path, value: Any) -> None:
    """Atomic, sorted, indented JSON."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)


def _fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic bytes."""
    write_atomic(path, lambda p: _fill(p, data))


def move_atomic(temporary: Path, path: Path) -> None:
    """Atomic: a neighbour of `path` that is written to its end becomes `path`."""

    def fill(own: Path) -> None:
        temporary.replace(own)

    write_atomic(path, fill)


def drop_temporaries(folder: Path, name: str = "*") -> None:
    """Removes what killed writers of a file of that name left; nobody else may write one there now."""
    for path in folder.glob(f".{name}.*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Atomic text."""
    write_atomic(path, lambda p: _write_text(p, text))


def append_line(path: Path, line: str) -> None:
    """Appends one line to a journal and makes it durable; a line cut short by a kill is ended first."""
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with disk_errors(path), open(path, "a") as handle:
        handle.write(("\n" if torn else "") + line + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_json(path: Path, what: str) -> Any:
    """The JSON in `path`; raises CipherwardError naming `what` where it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CipherwardError(f"no {what} at {path}", "name the file or folder that holds it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CipherwardError(
            f"cannot read the {what} {path}: {type(error).__name__}", "fetch it again, or name another"
        ) from None


def read_lines(path: Path) -> list[Any]:
    """The entries of a journal of JSON lines; a line that a kill cut short is passed over."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    return _digest(path, hashlib.sha256())


def blake3_file(path: Path) -> str:
    """Hex BLAKE3 digest of a file's bytes: ten times the speed of SHA-256 where the processor lacks it."""
    return _digest(path, blake3())


def _digest(path: Path, digest: Any) -> str:
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    found: str = digest.hexdigest()
    return found
