"""Every change of the disk, told to a test before it is made: by Python's audit hooks."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from tests.support import leaks

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watcher = None  # called with (event, paths) while a test watches
_inside = threading.local()


def _hook(event, args):
    if _watcher is None or getattr(_inside, "busy", False):
        return
    if event == "open":
        if isinstance(args[0], int) or not isinstance(args[2], int) or not args[2] & _WRITING:
            return
        paths = args[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = args[:2]
    elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
        paths = args[:1]
    else:
        return
    _inside.busy = True
    try:
        _watcher(event, [Path(os.fsdecode(p)) for p in paths if not isinstance(p, int)])
    finally:
        _inside.busy = False


sys.addaudithook(_hook)


@pytest.fixture
def watch(monkeypatch):
    """watch(watcher) hands every change of the disk to watcher until watch(None), or the test's end."""
    module = sys.modules[__name__]
    yield lambda watcher: setattr(module, "_watcher", watcher)
    module._watcher = None


class Killed(BaseException):
    """What a kill is to the process: nothing that it does afterwards reaches the disk."""


def killer(folder: Path, at: int):
    """A watcher that lets `at` changes below the folder happen and no more; its `changes` lists them."""

    def watcher(event, paths):
        if any(p.is_relative_to(folder) and p.name != ".lock" for p in paths):
            watcher.changes.append(f"{event} {paths[-1].name}")
            if len(watcher.changes) > at:
                raise Killed

    watcher.changes = []
    return watcher


def recorder():
    """A watcher that keeps the content of every file before it is renamed, removed or rewritten."""

    def watcher(event, paths):
        for path in paths:
            watcher.touched.add(path)
            if path.is_file():
                watcher.seen[f"{path} before {event} {len(watcher.seen)}"] = path.read_bytes()

    watcher.touched, watcher.seen = set(), {}
    return watcher


def all_written(watcher, folder: Path) -> dict[str, bytes]:
    last = {str(p): p.read_bytes() for p in watcher.touched if p.is_file()}
    return watcher.seen | last | leaks.files(folder)
