"""What other users of a machine could reach of processes: sockets with an address, files, memory. Linux only."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

#: The user that owns nothing.
NOBODY = 65534


def open_doors(pids: Iterable[int]) -> list[str]:
    """Return the sockets of processes that another process could connect or send to.

    These are all TCP sockets that listen, all UDP and raw sockets, and all Unix sockets with a name in the file
    system or in the abstract namespace. A socket pair has no name.
    """
    doors = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            inodes = _socket_inodes(pid)
            doors += [f"{pid}: {door}" for inode, door in _named_sockets(pid) if inode in inodes]
    return doors


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return inodes


def _named_sockets(pid: int) -> list[tuple[str, str]]:
    """Return (inode, description) of every socket with an address in the process's network namespace."""
    sockets = []
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if not kind.startswith("tcp") or words[3] == "0A":
                sockets.append((words[9], f"{kind} {words[1]}"))
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) > 7:
            sockets.append((words[6], f"unix {words[7]}"))
    return sockets


def as_nobody(question: Callable[[], Any]) -> Any:
    """Answer a question in a child process that has become the user nobody. Needs root. The answer is JSON."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = json.dumps(question())
        except BaseException as error:
            answer = json.dumps({"failed": repr(error)})
        os.write(theirs, answer.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def readable(paths: Sequence[Path]) -> list[str]:
    """Return those of the files and folders that this process can open or list."""
    opened = []
    for path in paths:
        with contextlib.suppress(PermissionError, FileNotFoundError, ProcessLookupError):
            if path.is_dir():
                list(path.iterdir())
            else:
                path.open("rb").close()
            opened.append(str(path))
    return opened


def can_signal(pids: Sequence[int]) -> list[int]:
    """Return those processes that this process may send a signal to."""
    allowed = []
    for pid in pids:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.kill(pid, 0)
            allowed.append(pid)
    return allowed
