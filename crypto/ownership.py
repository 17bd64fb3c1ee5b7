"""Who else on this machine can change a file, or swap the files of a folder.

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
