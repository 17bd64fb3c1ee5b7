"""What is on the disk before a command goes on: the content, then the name. No other test waits for the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crypto.files import append_line, move_atomic, write_bytes, write_json, write_text
from crypto.unlock import create_private
from parties.sealing.rotate import move_once


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """Return what writing does, in order: the number of each inode that is synced, and "named" for a new name."""
    done: list[int | str] = []
    replace, rename, link = Path.replace, Path.rename, os.link

    def note_replace(source: Path, target: Path) -> Path:
        done.append("named")
        return replace(source, target)

    def note_rename(source: Path, target: Path) -> Path:
        done.append("named")
        return rename(source, target)

    def note_link(
        source: str | Path, target: str | Path, dst_dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> None:
        done.append("named")
        link(source, target, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_ino))
    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(os, "link", note_link)
    return done


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: write_bytes(path, b"x"),
    "text": lambda path: write_text(path, "x"),
    "JSON": lambda path: write_json(path, {"x": 1}),
    "a private file": lambda path: create_private(path, "x", "a key"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_content_is_synced_then_named_then_the_name_is_synced(
    write: Callable[[Path], None], tmp_path: Path, events: list[int | str]
) -> None:
    path = tmp_path / "file"
    write(path)
    assert events == [path.stat().st_ino, "named", tmp_path.stat().st_ino]


def test_a_draft_is_synced_before_it_takes_the_place_of_a_file(
    tmp_path: Path, events: list[int | str]
) -> None:
    draft, path = tmp_path / "draft", tmp_path / "file"
    path.write_text("old")
    draft.write_text("new")
    move_atomic(draft, path)
    assert path.read_text() == "new" and not draft.exists()
    assert events == ["named", path.stat().st_ino, "named", tmp_path.stat().st_ino]


def test_a_line_of_a_journal_is_synced(tmp_path: Path, events: list[int | str]) -> None:
    path = tmp_path / "lines"
    append_line(path, "{}")
    assert events == [path.stat().st_ino]


def test_a_file_that_changes_its_folder_is_synced_in_both(tmp_path: Path, events: list[int | str]) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "file").touch()
    move_once(tmp_path / "from" / "file", tmp_path / "to" / "file")
    inodes = {(tmp_path / name).stat().st_ino for name in ("from", "to")}
    assert events[0] == "named" and set(events[1:]) == inodes and len(events) == 3
