"""Read and write files so that a killed run, a full disk or a second run never leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from blake3 import blake3

from crypto.errors import CipherwardError

_CHUNK = 1 << 20
#: Files of a folder that a hint names, at most.
_SHOWN = 5
#: No page and no record of this program is larger.
MOST_OUTPUT_BYTES = 1 << 28
#: Nor is any journal, which grows with every round or guess.
MOST_JOURNAL_BYTES = 1 << 34


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the system about a file into one clear line that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CipherwardError(
                f"the disk is full: cannot write {path}",
                "free some space and run the same command again; finished parts are kept",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CipherwardError(
                f"no permission to write {path}",
                "run this as the user whose folder it is, or choose another folder",
            ) from None
        if error.errno == errno.EFBIG:
            raise CipherwardError(
                f"{path} would be larger than this machine lets a file be", "see: ulimit -f"
            ) from None
        if error.errno == errno.ENAMETOOLONG:
            raise CipherwardError(f"{path.name[:40]}… is too long a name", "choose a shorter one") from None
        if error.errno == errno.EEXIST and path.is_symlink() and not path.exists():
            raise CipherwardError(f"{path} is a link that leads nowhere", "choose another name") from None
        if error.errno == errno.EEXIST:
            raise CipherwardError(f"{path} is a file, not a folder", "choose another name") from None
        if error.errno == errno.EISDIR:
            raise CipherwardError(f"{path} is a folder, not a file", "choose another name") from None
        if error.errno == errno.ENOTDIR:
            # What lies inside a folder may be written under its name: the file may be `path` itself.
            file = next((p for p in (*reversed(path.parents), path) if p.exists() and not p.is_dir()), path)
            raise CipherwardError(f"{file} is a file, not a folder", "choose another name") from None
        if error.errno == errno.ENOENT:
            raise CipherwardError(f"no such folder: {path.parent}", "make it, or choose another") from None
        raise CipherwardError(
            f"cannot write {path}: {error.strerror or error}", "mend that, and run the same command again"
        ) from None


def write_atomic(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a neighbour of `path`, make it durable, then rename it over `path`."""
    path = Path(path)
    temporary = temporary_of(path)
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


def temporary_of(path: Path, ending: str = "") -> Path:
    """Return a free neighbour of `path` to write to before it becomes `path`. `drop_temporaries` finds it.

    Nobody can guess its name: in a folder that others may write, a link of that name to a file of ours would be
    followed, and that file overwritten.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{ending}.tmp")


def open_lock(path: Path) -> IO[bytes]:
    """Open the file of a lock, for `hold_file`. It is made on first use, and its content is never touched.

    Nobody else can open it: whoever can read a file can hold its lock, and keep the owner out without end.

    Raises:
        CipherwardError: If it cannot be made, or something else has its name. A link would be followed to a file of
            somebody else's choice, and a pipe be waited for.
    """
    handle = _open_own(path, os.O_RDWR | os.O_NOFOLLOW, 0o600)
    status = os.fstat(handle)
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:  # an earlier version made it
        with contextlib.suppress(OSError):  # a disk without modes: it is locked all the same
            os.fchmod(handle, 0o600)
    return open(handle, "wb")


def open_log(path: Path, mode: int = 0o666) -> BinaryIO:
    """Open a file for appending. It is made on first use. mode: who may read it then, before the umask.

    Raises:
        CipherwardError: As `open_lock` does: what a command prints would be written into the file behind a link.
    """
    return open(_open_own(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, mode), "ab")


def _open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a regular file for writing, and make it if it is missing. Return its descriptor."""
    with disk_errors(path):
        try:
            handle = os.open(path, flags | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                raise
            raise _not_own(path) from None  # a link, a pipe that nobody reads, or a socket
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise _not_own(path)
    return handle


def _not_own(path: Path) -> CipherwardError:
    return CipherwardError(
        f"{path} is not a regular file, and no command of this program made it",
        "look who can write into that folder, and remove it",
    )


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the kernel releases it when the process ends in any way.

    Raises:
        CipherwardError: If another process holds it, or if its file system cannot lock files.
    """
    with open_lock(folder / ".lock") as handle:
        try:
            hold_file(handle, folder, wait=False)
        except BlockingIOError:
            raise CipherwardError(
                f"another command is at work in {folder}", "wait until it is done, or end it"
            ) from None
        yield


def hold_file(file: int | IO[Any], folder: Path, wait: bool = True, shared: bool = False) -> None:
    """Lock an open file until it is closed, or until this process ends in any way.

    Without the lock nothing may be done: two commands would write one folder. Some file systems have none, such as
    NFS without its lock service.

    Args:
        file: The open file. It must be writable, unless the lock is shared: NFS asks for it.
        folder: The folder that the lock protects, for the message.
        wait: Whether to wait for whoever holds it.
        shared: Whether others may hold it, too, if theirs is shared.

    Raises:
        BlockingIOError: If another process holds it, and `wait` is False.
        CipherwardError: If the file system cannot lock files.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise CipherwardError(
            f"the file system of {folder} cannot lock files: {error.strerror or error}",
            "mount NFS with its lock service, or use a folder on a local disk",
        ) from None


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents. Those that this made are removed again if the block fails and left them empty.

    Raises:
        CipherwardError: If it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:  # Ctrl-C while a passphrase is asked for, too
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        raise


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return the text that `write_json` writes."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, atomically."""

    def fill(draft: Path) -> None:
        draft.write_bytes(data)

    write_atomic(path, fill)


def move_atomic(temporary: Path, path: Path) -> None:
    """Make a neighbour of `path` that is written to its end become `path`, atomically."""

    def fill(draft: Path) -> None:
        temporary.replace(draft)

    write_atomic(path, fill)


def drop_temporaries(folder: Path, name: str = "*") -> None:
    """Remove what killed writers of a file of that name left. No other process may write one there meanwhile."""
    for path in folder.glob(f".{name}.*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write text in UTF-8, atomically. The locale does not decide: a report has accents and an ellipsis.

    Args:
        path: The file.
        text: Its content.
        mode: Who may read it, before the umask: 0o600 for what shows plain images.
    """

    def fill(draft: Path) -> None:
        opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(opened, "w", encoding="utf-8") as file:
            file.write(text)

    write_atomic(path, fill)


def require_regular(path: Path) -> None:
    """Raise CipherwardError if there is something at a path that is no regular file, such as a pipe or a folder.

    A pipe would be waited for without end by whoever opens it.

    Raises:
        OSError: If there is nothing, or it cannot be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CipherwardError(f"{path} is not a regular file", "copy it into a file, and name that")


def read_regular(path: Path, most_bytes: int = MOST_OUTPUT_BYTES) -> bytes:
    """Return the bytes of a regular file. A pipe in its place would be waited for, and a device fill the memory.

    Raises:
        CipherwardError: If it is no regular file, or larger than any that is meant.
        OSError: If the system refuses to open or read it.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CipherwardError(f"{path} is not a regular file", "copy it into a file, and name that")
        if status.st_size > most_bytes:
            raise CipherwardError(
                f"{path} has {status.st_size / 1e6:.0f} MB; no such file has more than {most_bytes / 1e6:.0f} MB",
                "is it the right one?",
            )
        return file.read()


def require_replaceable(path: Path, mark: str) -> None:
    """Raise CipherwardError unless `path` is free for a command's output: a name like a key's must cost no key.

    Args:
        path: Where a user wants the output.
        mark: A text that earlier outputs of this kind hold. They are replaced, and so are empty files.
    """
    if not path.exists():
        return
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MOST_OUTPUT_BYTES) if is_regular else b"?"
    except OSError:
        data = b"?"  # a folder, or a file of somebody else
    if data and mark.encode() not in data:
        raise CipherwardError(
            f"{path} is there, and is no earlier output of this command: it is kept", "choose another name"
        )


def require_output_folder(folder: Path, marks: Collection[str], hint: str) -> None:
    """Raise CipherwardError unless a folder is free for a command's output: files among images would be a class.

    Args:
        folder: where a user wants the output. Files whose names begin with a dot do not count.
        marks: names of what earlier output of this kind has in its folder. One of them is enough.
        hint: what to do instead.
    """
    try:
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return  # it is made, or refused, where it is made
    except OSError as error:
        raise CipherwardError(f"cannot read {folder}: {error.strerror}", hint) from None
    if names and names.isdisjoint(marks):
        raise CipherwardError(f"{folder} holds something else: {min(names)}", hint)


def require_outside(folder: Path, images: Path) -> None:
    """Raise CipherwardError if a command's output would lie in the folder of the images that it reads."""
    inner, outer = folder.resolve(), images.resolve()
    if outer.is_dir() and inner.is_relative_to(outer):
        raise CipherwardError(
            f"{folder} is in the folder of the images, {images}: it would be taken for images",
            "choose a folder outside of it with --out",
        )


def append_line(path: Path, line: str) -> None:
    """Append one line to a journal and make it durable; a line that a kill cut short is ended first."""
    content = read_regular(path, MOST_JOURNAL_BYTES) if path.exists() else b""
    is_torn = content and not content.endswith(b"\n")
    with (
        disk_errors(path),
        open(_open_own(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as handle,
    ):
        handle.write(("\n" if is_torn else "") + line + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def cut_torn_line(path: Path) -> None:
    """Remove the end of a journal that a kill cut short, so that nothing is glued to it. A whole value stays."""
    with disk_errors(path):
        if not path.exists():
            return
        with open(path, "r+b") as file:
            data = file.read()
            kept = data.rfind(b"\n") + 1
            if kept < len(data) and _parse_line(data[kept:]) is None:
                file.truncate(kept)
                os.fsync(file.fileno())


def read_every_line(path: Path) -> list[Any]:
    """Return what every line of a journal of JSON lines holds: None in the place of a line that is damaged.

    The end of a line that a kill cut short has no newline, and is left out, unless it is a whole value.
    """
    *lines, tail = read_regular(path, MOST_JOURNAL_BYTES).split(b"\n") if path.exists() else [b""]
    values = [_parse_line(line) for line in lines]
    last = _parse_line(tail)
    return values if last is None else [*values, last]


def _parse_line(line: bytes) -> Any:
    """Return the JSON value of a line, or None if it has none."""
    try:
        return parse_json(line.decode("utf-8"))
    except ValueError:
        return None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text from outside holds: as `json.loads`, but every fault of the text is a ValueError.

    A name that stands twice in one object is a fault: programs differ in which of the values they read, so a signed
    file could say one thing to us and another to whoever looks at it.

    Raises:
        ValueError: If the text is not JSON, nested too deeply, or names something twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object; raise ValueError if two have one name."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name!r:.60} stands twice in one object")
        members[name] = value
    return members


def folder_hint(folder: Path, ending: str) -> str:
    """Return the hint for a folder that was named in the place of a file: which files in it could be meant.

    Args:
        folder: The folder.
        ending: How the names of such files end.
    """
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(ending))
    shown = f"it holds {', '.join(names[:_SHOWN])}{', …' if names[_SHOWN:] else ''}; name one of them"
    return f"it is a folder: {shown if names else 'name the file'}"


def read_json(
    path: Path,
    what: str,
    made_by: str = "",
    most_bytes: int = MOST_OUTPUT_BYTES,
    remedy: str = "fetch it again, or name another",
) -> Any:
    """Return the JSON in `path`.

    Args:
        path: The file.
        what: What it is, for the error message.
        made_by: The command that makes such a file, for the hint where it is missing.
        most_bytes: Bytes that it may have: a parsed file takes many times its size in memory.
        remedy: What to do if it is damaged, for the hint.

    Raises:
        CipherwardError: If the file is missing, no regular file, too large, or not JSON.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it: a sealed set comes from others.
        with open(path, encoding="utf-8", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CipherwardError(f"the {what} {path} is not a regular file", remedy)
            if os.fstat(file.fileno()).st_size > most_bytes:
                raise CipherwardError(
                    f"the {what} {path} has more than the {most_bytes / 1e6:.0f} MB of any that a command writes",
                    remedy,
                )
            return parse_json(file.read())
    except FileNotFoundError:
        hint = "name the file or folder that holds it"
        raise CipherwardError(
            f"no {what} at {path}", f"{hint}; {made_by} makes it" if made_by else hint
        ) from None
    except (OSError, ValueError) as error:
        why = _why_unreadable(error)
        is_folder = isinstance(error, IsADirectoryError)
        raise CipherwardError(
            f"cannot read the {what} {path}: {why}",
            folder_hint(path, ".json") if is_folder else remedy,
        ) from None


def _why_unreadable(error: OSError | ValueError) -> str:
    """Return why a JSON file cannot be read, in words."""
    if isinstance(error, json.JSONDecodeError):
        return (
            f"line {error.lineno} is no JSON, or the file was cut short"
            if error.doc.strip()
            else "it is empty"
        )
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)


def read_lines(path: Path) -> list[Any]:
    """Return the entries of a journal of JSON lines; a line that a kill cut short is left out.

    Raises:
        CipherwardError: If a line is JSON that no command writes, such as one that is nested too deeply.
    """
    entries = []
    lines = read_regular(path, MOST_JOURNAL_BYTES).split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(parse_json(line.decode("utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        except ValueError as error:
            raise CipherwardError(
                f"{path} is damaged: line {number}: {error}", "fetch it again, or remove that line"
            ) from None
    return entries


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    return _digest(path, hashlib.sha256())


def blake3_file(path: Path) -> str:
    """Return the hex BLAKE3 digest of a file's bytes: ten times as fast as SHA-256 on processors without SHA."""
    return _digest(path, blake3())


def _digest(path: Path, digest: hashlib._Hash | blake3) -> str:
    """Return the hex digest of a file's bytes."""
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
