"""Key files: how they are made, and one message for each way in which one can be unusable."""

from __future__ import annotations

import base64
import stat

import pytest

from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key


@pytest.fixture
def path(tmp_path, key):
    write_key(tmp_path / "a.key", key)
    return tmp_path / "a.key"


def test_written_for_its_owner_alone_and_read_back(path, key):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path) == key


def test_never_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(CipherwardError, match="never overwritten"):
        write_key(path, SecretKey.generate())
    assert path.read_bytes() == before


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_each_defect_has_its_message(path, key, tmp_path):
    secret = base64.b64encode(key.reveal()).decode()
    cases = {
        "can be read by others (mode 0644)": lambda p: p.chmod(0o644),
        "is not a cipherward key file": lambda p: p.write_text("hello\n"),
        "damaged: its id is not its key's": lambda p: edit(p, f":{key.id}:", ":0000000000000000:"),
        "has 16 bytes, not 32": lambda p: edit(p, secret, base64.b64encode(bytes(range(16))).decode()),
        "is not random": lambda p: edit(p, secret, base64.b64encode(bytes(32)).decode()),
        "is damaged": lambda p: edit(p, secret, "!" + secret[1:]),
    }
    whole = path.read_text()
    for said, spoil in cases.items():
        path.chmod(0o600)
        path.write_text(whole)
        spoil(path)
        with pytest.raises(CipherwardError) as error:
            read_key(path)
        assert said in error.value.message, error.value.message
        assert error.value.hint
        assert secret not in str(error.value) and key.reveal().hex() not in str(error.value)
    with pytest.raises(CipherwardError, match="no key file at"):
        read_key(tmp_path / "absent.key")
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CipherwardError, match="cannot read the key file"):
        read_key(path)
    with pytest.raises(CipherwardError, match="no such folder"):
        write_key(tmp_path / "nowhere" / "a.key", key)
