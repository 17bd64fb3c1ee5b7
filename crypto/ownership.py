"""Who else on this machine can change a file, or swap the files of a folder, or read a secret.

The mode of a file says who may write into it. Whoever may write its folder can put another file in its place, or move
it away, whatever its own mode is.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from crypto.errors import CipherwardError
from crypto.files import folder_hint

#: Bytes that are read of a secret. A longer one is none of ours, and is found to be damaged.
_MOST_SECRET_BYTES = 1 << 20


def is_shared(status: os.stat_result) -> bool:
    """Return whether users other than this one and root may write a file or folder of this status."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_own_group(status.st_gid)


def _is_own_group(gid: int) -> bool:
    """Return whether a group is this user's own: it has the user's name, and nobody else is in it.

    Several Linux distributions give every user such a group, and let it write every new folder.
    """
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def require_own_folder(folder: Path) -> None:
    """Refuse a folder in which other users could swap files. Root may work in the folders of all users.

    Raises:
        CipherwardError: If it belongs to another user than this one or root, or others may write it.
    """
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise CipherwardError(
            f"{folder} belongs to another user (uid {status.st_uid}), who can change everything in it",
            "work as that user, or in a folder of your own",
        )
    if is_shared(status):
        raise CipherwardError(
            f"other users of this machine can swap the files in {folder} (mode {stat.S_IMODE(status.st_mode):04o})",
            f"check that nothing in it is theirs, then: chmod go-w {folder}",
        )


def require_access(folder: Path, *inside: str) -> None:
    """Refuse a folder that another user closed, before a command takes what it cannot see for missing.

    A folder that root made belongs to root: whoever works in it afterwards may not look into its private parts.

    Args:
        folder: The folder.
        inside: The names of its closed parts. One that is not there is no matter.

    Raises:
        CipherwardError: If this user may not look into the folder or one of these parts.
    """
    for path in (folder, *(folder / name for name in inside)):
        try:
            owner = path.stat().st_uid
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not os.access(path, os.R_OK | os.X_OK):
            raise CipherwardError(
                f"{path} is closed to this user; it belongs to uid {owner}",
                f"run this as that user; or, if it shall be this user's: sudo chown -R {os.geteuid()} {folder}",
            )


def require_own_file(path: Path, status: os.stat_result) -> None:
    """Refuse a file of settings that other users could have written. status: of the opened file.

    Raises:
        CipherwardError: If it belongs to another user than this one or root, or others may write it.
    """
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise CipherwardError(
            f"{path} belongs to another user (uid {status.st_uid}), who can change it",
            f"check it, and copy it in place: install -m 600 {path} COPY, mv COPY {path}",
        )
    if is_shared(status):
        raise CipherwardError(
            f"other users of this machine can change {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            f"check it, then: chmod go-w {path}",
        )


def require_private(status: os.stat_result, path: Path, what: str) -> None:
    """Refuse a file that holds a secret and may be read or waited for by others. status: of the opened file.

    Raises:
        CipherwardError: If it is no regular file, another user's, or readable by others.
    """
    if stat.S_ISDIR(status.st_mode):
        ending = ".key" if what == "key file" else ".txt"
        raise CipherwardError(f"the {what} {path} is not a regular file", folder_hint(path, ending))
    if not stat.S_ISREG(status.st_mode):
        raise CipherwardError(
            f"the {what} {path} is not a regular file",
            "a pipe such as <(…) can be read once, and by whoever is first: write it to a file of mode 0600, for "
            "example in /dev/shm, name that, and remove it afterwards",
        )
    if status.st_uid != os.geteuid():
        raise CipherwardError(
            f"the {what} {path} belongs to another user (uid {status.st_uid}), who can read and change it",
            f"chown it to yourself, or copy it: install -m 600 {path} YOUR_COPY",
        )
    if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        raise CipherwardError(
            f"the {what} {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}"
        )


def read_private(path: Path, what: str) -> bytes:
    """Return the bytes of a file that only its owner, this user, may read.

    Raises:
        CipherwardError: As `require_private` does.
        OSError: If the system refuses to open or read it.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        require_private(os.fstat(file.fileno()), path, what)
        return file.read(_MOST_SECRET_BYTES)


def _open_at_once(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK)
