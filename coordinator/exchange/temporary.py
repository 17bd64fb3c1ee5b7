"""Where this machine keeps temporary files whose paths must be short, and memory that processes share."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from crypto.errors import CipherwardError

#: Where Ray keeps the objects that its processes share, on Linux.
SHARED_MEMORY = "/dev/shm"
#: Sockets have short paths, and macOS's own folder for temporary files is a long one.
_SHORT = "/tmp"
#: Bytes of a socket's path, at most, on the systems that we know.
_SOCKET_PATH = 107 if sys.platform == "linux" else 103
#: What Ray adds to the path of a run's folder for its sockets, in bytes: "/ray/session_DATE_TIME_PID/sockets/…".
_RAY_ADDS = 70


def temporary_folder(short: str = _SHORT) -> str:
    """Return the folder for temporary files: /tmp if it can be written, or else what TMPDIR and its like name.

    Raises:
        CipherwardError: If there is none.
    """
    if Path(short).is_dir() and os.access(short, os.W_OK | os.X_OK):
        return short
    try:
        return tempfile.gettempdir()
    except OSError:
        raise CipherwardError(
            "no folder for temporary files can be written", "set TMPDIR to one that this user can write"
        ) from None


def has_shared_memory(folder: str = SHARED_MEMORY) -> bool:
    """Return whether Ray finds the memory that its processes share. Other systems than Linux need no such folder."""
    return sys.platform != "linux" or (Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK))


def require_ray(instead: str) -> None:
    """Raise CipherwardError if Ray cannot run on this machine: its memory, or the paths of its sockets.

    Args:
        instead: what to do without it, for the hint.
    """
    if not has_shared_memory():
        raise CipherwardError(f"Ray needs {SHARED_MEMORY}, which cannot be written here", instead)
    folder, most = temporary_folder(), _SOCKET_PATH - _RAY_ADDS - len("/cw-12345678")
    if len(os.fsencode(folder)) > most:
        raise CipherwardError(
            f"Ray cannot work in {folder}: its sockets would have longer paths than this system allows",
            f"set TMPDIR to a folder whose path has at most {most} bytes",
        )
