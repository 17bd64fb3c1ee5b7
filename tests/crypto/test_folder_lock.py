"""A file system without locks, such as NFS without its lock service, is named in one line."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from crypto.files import folder_lock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CipherwardError, match="cannot lock files") as error, folder_lock(tmp_path):
        pass
    assert str(tmp_path) in error.value.message and "local disk" in error.value.hint
