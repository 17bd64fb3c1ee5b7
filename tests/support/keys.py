"""Key files for tests. No passphrase or identity of the person who runs the tests opens one."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import forget_unwrapped_keys, read_key, write_key

PASSPHRASE = "correct horse battery"  # noqa: S105 - it protects nothing


@pytest.fixture
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away passphrase, identity and terminal, and forget the keys of earlier tests."""
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "IDENTITY"):
        monkeypatch.delenv(f"CIPHERWARD_{name}", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    forget_unwrapped_keys()


@pytest.fixture
def key_path(tmp_path: Path, key: SecretKey, no_secrets: None) -> Path:
    """Return the path of a key file in clear that holds the fixture `key`."""
    write_key(tmp_path / "a.key", key)
    return tmp_path / "a.key"


def mode_of(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path) -> CipherwardError:
    """Return the error that reading a key file raises."""
    with pytest.raises(CipherwardError) as error:
        read_key(path)
    return error.value


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace a text that a file contains by another."""
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


#: A key file's content, wrapped with a passphrase by the stock command.
SCRYPT_BLOCK = """\
-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBOUEVmQmhLZ2pqSW1MOUo3
U1NWNFJnIDE4CmsxZmJZZU1HWFQyRzJjTm5iK3hNdUVNOWoxL2MzaVV4aWNDbC9M
RWhPMFEKLS0tIC9IelVvbm91Ukh3MmZWeU96VXZTQm93dVBQWFVGTkJvSE5rUHNF
dTFNL1EKbq/W7y4/TWEQBsvMrpOUvK+nFA8oBjA/4naQdIItNzuO2a+tYMbxybyz
7BTFH+TDOfwpIm/k1qd9R/D87AAK9dgNZYkXf1p2Zhsp9Re+W+syZobCKPdYWqRG
Y3XnrQG1Yq6kQM8xY6GE0ZJeULR6
-----END AGE ENCRYPTED FILE-----
"""
