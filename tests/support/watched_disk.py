"""Show a test every change of the disk before it is made, by Python's audit hooks."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import leaks

#: Called with an event and its paths.
Watcher = Callable[[str, list[Path]], None]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watcher: Watcher | None = None
_inside = threading.local()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """Hand a change of the disk to the watcher, if there is one."""
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


def set_watcher(watcher: Watcher | None) -> None:
    """Hand every change of the disk to this watcher from now on; None ends it."""
    global _watcher
    _watcher = watcher


@pytest.fixture
def watch() -> Iterator[Callable[[Watcher | None], None]]:
    """Return `set_watcher`; end the watch with the test."""
    yield set_watcher
    set_watcher(None)


class Killed(BaseException):
    """What a kill is to the process: nothing that it does afterwards reaches the disk."""


class Killer:
    """A watcher that lets some changes below a folder happen and no more; `changes` lists them."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.changes: list[str] = []

    def __call__(self, event: str, paths: list[Path]) -> None:
        """Note the change; raise Killed after the limit."""
        if any(p.is_relative_to(self.folder) and p.name != ".lock" for p in paths):
            self.changes.append(f"{event} {paths[-1].name}")
            if len(self.changes) > self.limit:
                raise Killed


class Recorder:
    """A watcher that keeps the content of every file before it is renamed, removed or rewritten."""

    def __init__(self) -> None:
        self.touched: set[Path] = set()
        self.contents: dict[str, bytes] = {}

    def __call__(self, event: str, paths: list[Path]) -> None:
        """Keep the content of the files that are about to change."""
        for path in paths:
            self.touched.add(path)
            if path.is_file():
                self.contents[f"{path} before {event} {len(self.contents)}"] = path.read_bytes()

    def all_written(self, folder: Path) -> dict[str, bytes]:
        """Return all contents that were recorded, and those of the folder's files."""
        last = {str(p): p.read_bytes() for p in self.touched if p.is_file()}
        return self.contents | last | leaks.files(folder)
