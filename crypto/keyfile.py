"""Key files on a hospital's disk: made once, readable by their owner alone, never overwritten.

    # cipherward secret key: whoever holds it opens every image sealed with it
    # id 0b387771640a4c90
    cipherward-key-1:0b387771640a4c90:<base64 of 32 bytes>

The coordinator never imports this module: import-linter and a test see to it.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from crypto.errors import CipherwardError
from crypto.files import disk_errors
from crypto.key import SecretKey

_PREFIX = "cipherward-key-1"
_WEAK = 4  # a key with fewer distinct bytes than this was typed, not drawn


def write_key(path: Path, key: SecretKey) -> None:
    """Creates `path` with mode 0600. Raises CipherwardError where a file is already there."""
    text = (
        "# cipherward secret key: whoever holds it opens every image sealed with it\n"
        f"# id {key.id}\n"
        f"{_PREFIX}:{key.id}:{base64.b64encode(key.reveal()).decode()}\n"
    )
    with disk_errors(path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise CipherwardError(
                f"{path} exists; a key file is never overwritten",
                "sealed images open with their old key only: choose another name, or move it away",
            ) from None
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def read_key(path: Path) -> SecretKey:
    """The key in `path`; each way in which it can be unusable has a message of its own."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise CipherwardError(
                f"the key file {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}"
            )
        text = path.read_text()
    except FileNotFoundError:
        raise CipherwardError(f"no key file at {path}", "make one with: cipherward-party keygen") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CipherwardError(f"cannot read the key file {path}: {type(error).__name__}") from None
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    fields = lines[0].split(":") if len(lines) == 1 else []
    if len(fields) != 3 or fields[0] != _PREFIX:
        raise CipherwardError(f"{path} is not a cipherward key file", "was it cut or edited?")
    try:
        raw = base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        raise CipherwardError(f"the key file {path} is damaged", "restore it from a backup") from None
    if len(raw) != 32:
        raise CipherwardError(f"the key in {path} has {len(raw)} bytes, not 32", "restore it from a backup")
    if len(set(raw)) < _WEAK:
        raise CipherwardError(f"the key in {path} is not random", "make one with: cipherward-party keygen")
    key = SecretKey(raw)
    if key.id != fields[1]:
        raise CipherwardError(
            f"the key file {path} is damaged: its id is not its key's", "restore it from a backup"
        )
    return key
