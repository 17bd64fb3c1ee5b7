"""Key files for tests: nothing of whoever runs them opens one."""

from __future__ import annotations

import stat
import sys

import pytest

from crypto import keyfile
from crypto.errors import CipherwardError
from crypto.keyfile import read_key, write_key

WORDS = "correct horse battery"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No passphrase, no identity, no terminal, and nothing remembered of an earlier test."""
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "IDENTITY"):
        monkeypatch.delenv(f"CIPHERWARD_{name}", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    keyfile._unwrapped.cache_clear()


@pytest.fixture
def path(tmp_path, key):
    write_key(tmp_path / "a.key", key)
    return tmp_path / "a.key"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path) -> CipherwardError:
    with pytest.raises(CipherwardError) as error:
        read_key(path)
    return error.value


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
