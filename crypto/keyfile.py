"""Key files on a hospital's disk: made once, readable by their owner alone, never overwritten.

    # cipherward secret key: whoever holds it opens every image sealed with it
    # id 0b387771640a4c90
    cipherward-key-1:0b387771640a4c90:<base64 of 32 bytes>

Protected by a passphrase or for named recipients, the last line is wrapped in the age format
(https://age-encryption.org/v1, through pyrage), and an armoured block stands in its place. The stock
command opens that too: grep -v '^#' secret.key | age --decrypt [--identity identity.txt]

The coordinator never imports this module: import-linter and a test see to it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import pyrage

from crypto.errors import CipherwardError
from crypto.key import KEY_BYTES, SecretKey
from crypto.unlock import (
    bare_lines,
    create_private,
    identities,
    identity_file,
    passphrase,
    private_text,
    recipient,
)

_PREFIX = "cipherward-key-1"
_BEGIN, _END = "-----BEGIN AGE ENCRYPTED FILE-----", "-----END AGE ENCRYPTED FILE-----"
_FORMAT = b"age-encryption.org/v1\n"
# Of 10^16 drawn keys, one has fewer distinct bytes than this; of typed ones, many have.
_DISTINCT = 16
_BACKUP = "restore it from a backup"


def write_key(
    path: Path, key: SecretKey, recipients: Sequence[str] = (), secret: str | None = None
) -> None:
    """Creates `path` with mode 0600: wrapped for recipients (age1…), by a passphrase (`secret`), or plain.

    Raises CipherwardError where a file is already there, or a recipient is none.
    """
    if recipients and secret is not None:
        raise ValueError("the age format wraps for recipients or by a passphrase, not by both")
    line = f"{_PREFIX}:{key.id}:{base64.b64encode(key.reveal()).decode()}\n"
    what = ": whoever holds it opens every image sealed with it"
    if recipients:
        what = ", wrapped for named recipients (age format)"
        line = pyrage.encrypt(line.encode(), [recipient(r) for r in recipients], armored=True).decode()
    elif secret is not None:
        what = ", protected by a passphrase (age format)"
        line = pyrage.passphrase.encrypt(line.encode(), secret, armored=True).decode()
    create_private(path, f"# cipherward secret key{what}\n# id {key.id}\n{line}", "a key file")


def copy_key(path: Path, to: Path) -> None:
    """Copies a key file, protected as it is, to a new file of mode 0600."""
    create_private(to, private_text(path, "key file"), "a key file")


def is_wrapped(path: Path) -> bool:
    """Whether a key file needs a passphrase or an identity to be opened."""
    return bare_lines(private_text(path, "key file"))[:1] == [_BEGIN]


def stated_id(path: Path) -> str | None:
    """The id in a key file's comment: public, and read without opening the key."""
    return _stated(private_text(path, "key file"))


def read_key(path: Path, home: Path | None = None) -> SecretKey:
    """The key in `path`; each way in which it can be unusable has a message of its own.

    A wrapped key is opened with what crypto.unlock finds. home: the folder whose identity.txt is taken;
    default the key file's own.
    """
    text = private_text(path, "key file", "make one with: cipherward-party keygen")
    lines = bare_lines(text)
    if lines[:1] == [_BEGIN]:
        key = _unwrapped("\n".join(lines) + "\n", path, home or path.parent)
    else:
        key = _parsed(lines, path)
    if (stated := _stated(text)) is not None and stated != key.id:
        raise CipherwardError(f"the key file {path} says id {stated} and holds key {key.id}", _BACKUP)
    return key


def _stated(text: str) -> str | None:
    found = re.search(r"^# id (\S+)\s*$", text, re.MULTILINE)
    return found[1] if found else None


def _parsed(lines: Sequence[str], path: Path) -> SecretKey:
    """The key of the one line `cipherward-key-1:ID:BASE64`."""
    fields = lines[0].split(":") if len(lines) == 1 else []
    if len(fields) != 3 or fields[0] != _PREFIX:
        raise CipherwardError(f"{path} is not a cipherward key file", "was it cut or edited?")
    try:
        raw = base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        raise CipherwardError(f"the key file {path} is damaged", _BACKUP) from None
    if len(raw) != KEY_BYTES:
        raise CipherwardError(f"the key in {path} has {len(raw)} bytes, not {KEY_BYTES}", _BACKUP)
    if len(set(raw)) < _DISTINCT or all(0x20 <= byte < 0x7F for byte in raw):
        raise CipherwardError(
            f"the key in {path} is weak: it is not random", "make one with: cipherward-party keygen"
        )
    key = SecretKey(raw)
    if key.id != fields[1]:
        raise CipherwardError(f"the key file {path} is damaged: its id is not its key's", _BACKUP)
    return key


# A command reads its key more than once: the terminal is asked, and scrypt is paid for, the first time only.
@functools.lru_cache(maxsize=8)
def _unwrapped(block: str, path: Path, home: Path) -> SecretKey:
    """The key in an armoured age block."""
    what, lines = f"the key file {path}", block.splitlines()
    if lines[-1] != _END:
        raise CipherwardError(f"{what} is cut short: its last line is missing", _BACKUP)
    try:
        start = base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        start = b""
    if not start.startswith(_FORMAT):
        raise CipherwardError(f"{what} is altered: it is not in the age format", _BACKUP)
    try:
        if start.startswith(_FORMAT + b"-> scrypt "):
            inner = pyrage.passphrase.decrypt(block.encode(), passphrase(what))
        else:
            inner = pyrage.decrypt(block.encode(), identities(what, home))
    except pyrage.DecryptError as error:
        raise _refused(str(error), what, home) from None
    return _parsed(bare_lines(inner.decode(errors="replace")), path)


def _refused(said: str, what: str, home: Path) -> CipherwardError:
    """Which of age's failures it was: pyrage tells them apart by their texts alone, and the tests pin those."""
    if said == "Decryption failed":
        return CipherwardError(
            f"wrong passphrase for {what}", "if it is the right one, the file was altered"
        )
    if said == "No matching keys found":
        return CipherwardError(
            f"no identity in {identity_file(home)} opens {what}",
            "name the right one with CIPHERWARD_IDENTITY, or have the key shared for your recipient",
        )
    if said.startswith("Excessive work"):
        return CipherwardError(
            f"{what} asks for more scrypt work than this machine takes on",
            "on the machine that made it, wrap it for an identity: cipherward-party share-key",
        )
    return CipherwardError(f"{what} is altered: it does not authenticate", _BACKUP)
