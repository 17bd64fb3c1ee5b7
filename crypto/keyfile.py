"""Key files on a hospital's disk: created once, readable by their owner alone, never overwritten by another key.

    # cipherward secret key: whoever holds it opens every image sealed with it
    # id 0b387771640a4c90
    cipherward-key-1:0b387771640a4c90:<base64 of 32 bytes>

The throwaway key of an audit is never written as it is. It is encrypted under the hospital's own key, by
ChaCha20-Poly1305, so that whatever protects that key protects it too:

    cipherward-throwaway-key-1:<its id>:<the hospital's key id>:<base64 of nonce and ciphertext>

With a passphrase or for named recipients, the last line is wrapped in the age format
(https://age-encryption.org/v1, through pyrage), and an armoured block stands in its place. The stock
command opens that too: grep -v '^#' secret.key | age --decrypt [--identity identity.txt]

The coordinator never imports this module: import-linter and a test check it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyrage
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from crypto.errors import CipherwardError
from crypto.files import write_text
from crypto.key import KEY_BYTES, SecretKey
from crypto.unlock import (
    content_lines,
    create_private,
    identities,
    identity_file,
    passphrase,
    private_text,
    recipient,
)

_PREFIX = "cipherward-key-1"
_THROWAWAY_PREFIX = "cipherward-throwaway-key-1"
_NONCE_BYTES = 12
ARMOUR_BEGIN, ARMOUR_END = "-----BEGIN AGE ENCRYPTED FILE-----", "-----END AGE ENCRYPTED FILE-----"
_FORMAT = b"age-encryption.org/v1\n"
_SCRYPT = _FORMAT + b"-> scrypt "
#: Of 10^16 drawn keys, one has fewer distinct bytes than this; of typed ones, many have.
_MIN_DISTINCT_BYTES = 16
_RESTORE = "restore it from a backup"
_NO_KEY = "restore it from a backup; if nothing was sealed yet, make one with: cipherward-party keygen"


def write_key(
    path: Path, key: SecretKey, recipients: Sequence[str] = (), secret: str | None = None
) -> None:
    """Create a key file with mode 0600.

    Args:
        path: The new file.
        key: The key.
        recipients: Recipients (age1…) to wrap it for.
        secret: A passphrase to wrap it with. With neither, the key is written in clear.

    Raises:
        CipherwardError: If the file exists, or a recipient is not an age recipient.
    """
    create_private(path, _key_text(key, recipients, secret), "a key file")


def _key_text(key: SecretKey, recipients: Sequence[str], secret: str | None) -> str:
    """Return the text of a key file, protected for recipients or by a passphrase, or in clear."""
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
    return f"# cipherward secret key{what}\n# id {key.id}\n{line}"


def protect_anew(
    path: Path, key: SecretKey, recipients: Sequence[str] = (), secret: str | None = None
) -> None:
    """Replace a key file by one of the same key that is protected in another way, atomically.

    Args:
        path: The key file.
        key: The key that it holds.
        recipients: As in `write_key`.
        secret: As in `write_key`.

    Raises:
        CipherwardError: If the file holds another key, or a recipient is not an age recipient.
    """
    if read_key_id(path) != key.id:
        raise CipherwardError(f"{path} does not hold key {key.id}", _RESTORE)
    write_text(path, _key_text(key, recipients, secret), 0o600)


def write_throwaway_key(path: Path, key: SecretKey, owner: SecretKey) -> None:
    """Create the file of a throwaway key (mode 0600), encrypted under the hospital's own key, its owner.

    Raises:
        CipherwardError: If the file exists.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = nonce + _throwaway_cipher(owner, key.id).encrypt(nonce, key.reveal(), None)
    line = f"{_THROWAWAY_PREFIX}:{key.id}:{owner.id}:{base64.b64encode(sealed).decode()}\n"
    what = f"throwaway key of an audit, encrypted under key {owner.id}"
    create_private(path, f"# cipherward {what}\n# id {key.id}\n{line}", "a key file")


def _throwaway_cipher(owner: SecretKey, key_id: str) -> ChaCha20Poly1305:
    """Return the cipher of one throwaway key: each has a sub-key of its own."""
    return ChaCha20Poly1305(owner.derive("throwaway-key", key_id).reveal())


def _opened_throwaway(fields: Sequence[str], path: Path, owner_path: Path | None) -> SecretKey:
    """Return the throwaway key in the fields of its line.

    Args:
        fields: The line, split at colons.
        path: Its file.
        owner_path: The hospital's key file. Without it, or if that holds another key, the key files beside and above
            the throwaway key's are looked through: a rotation sets both aside.
    """
    _, key_id, owner_id, text = fields
    beside = [file for folder in path.resolve().parents[:3] for file in sorted(folder.glob("*.key"))]
    for file in [owner_path, *beside] if owner_path else beside:
        if file != path and file.is_file() and read_key_id(file) == owner_id:
            break
    else:
        raise CipherwardError(
            f"{path} is encrypted under the hospital's key {owner_id}, which is not here",
            "put that key back",
        )
    try:
        sealed = base64.b64decode(text, validate=True)
        cipher = _throwaway_cipher(read_key(file), key_id)
        return SecretKey(cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None))
    except (binascii.Error, ValueError, InvalidTag):
        raise CipherwardError(f"the key file {path} is damaged", _RESTORE) from None


def copy_key(path: Path, to: Path) -> None:
    """Copy a key file, protected as it is, to a new file of mode 0600."""
    create_private(to, private_text(path, "key file"), "a key file")


def is_wrapped(path: Path) -> bool:
    """Return whether a key file needs a passphrase or an identity to be opened."""
    return protection_of(path) != "clear"


def protection_of(path: Path) -> Literal["clear", "passphrase", "recipients"]:
    """Return what protects a key file. This does not open the key."""
    lines = content_lines(private_text(path, "key file"))
    if lines[:1] != [ARMOUR_BEGIN]:
        return "clear"
    return "passphrase" if _age_header(lines).startswith(_SCRYPT) else "recipients"


def _age_header(lines: Sequence[str]) -> bytes:
    """Return the bytes in the lines of an armoured age block; none if they are not base64."""
    try:
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        return b""


def read_key_id(path: Path) -> str | None:
    """Return the id in a key file's comment. It is public, and reading it does not open the key."""
    return _commented_id(private_text(path, "key file"))


def read_key(path: Path, home: Path | None = None, owner: Path | None = None) -> SecretKey:
    """Return the key in a file; each way in which it can be unusable has a message of its own.

    Args:
        path: The key file. A wrapped one is opened with what crypto.unlock finds.
        home: The folder whose identity.txt is used; by default the key file's own.
        owner: The hospital's own key file, if the file may hold a throwaway key.

    Raises:
        CipherwardError: If the file is missing, damaged, readable by others, weak, or cannot be opened.
    """
    text = private_text(path, "key file", _NO_KEY)
    lines = content_lines(text)
    if lines[:1] == [ARMOUR_BEGIN]:
        key = _unwrapped("\n".join(lines) + "\n", path, home or path.parent)
    elif len(lines) == 1 and lines[0].startswith(f"{_THROWAWAY_PREFIX}:") and lines[0].count(":") == 3:
        key = _opened_throwaway(lines[0].split(":"), path, owner)
    else:
        key = _parsed(lines, path)
    key_id = _commented_id(text)
    if key_id is not None and key_id != key.id:
        raise CipherwardError(f"the key file {path} says id {key_id} and holds key {key.id}", _RESTORE)
    return key


def _commented_id(text: str) -> str | None:
    """Return the id in the comment of a key file's text."""
    match = re.search(r"^# id (\S+)\s*$", text, re.MULTILINE)
    return match[1] if match else None


def _parsed(lines: Sequence[str], path: Path) -> SecretKey:
    """Return the key of the one line `cipherward-key-1:ID:BASE64`."""
    fields = lines[0].split(":") if len(lines) == 1 else []
    if len(fields) != 3 or fields[0] != _PREFIX:
        raise CipherwardError(f"{path} is not a cipherward key file", "was it cut or edited?")
    try:
        raw = base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        raise CipherwardError(f"the key file {path} is damaged", _RESTORE) from None
    if len(raw) != KEY_BYTES:
        raise CipherwardError(f"the key in {path} has {len(raw)} bytes, not {KEY_BYTES}", _RESTORE)
    if len(set(raw)) < _MIN_DISTINCT_BYTES or all(0x20 <= byte < 0x7F for byte in raw):
        raise CipherwardError(
            f"the key in {path} is weak: it is not random", "make one with: cipherward-party keygen"
        )
    key = SecretKey(raw)
    if key.id != fields[1]:
        raise CipherwardError(f"the key file {path} is damaged: its id is not its key's", _RESTORE)
    return key


# A command reads its key more than once: the terminal prompt, and scrypt's work, come the first time only.
@functools.lru_cache(maxsize=8)
def _unwrapped(block: str, path: Path, home: Path) -> SecretKey:
    """Return the key in an armoured age block."""
    what, lines = f"the key file {path}", block.splitlines()
    if lines[-1] != ARMOUR_END:
        raise CipherwardError(f"{what} is cut short: its last line is missing", _RESTORE)
    header = _age_header(lines)
    if not header.startswith(_FORMAT):
        raise CipherwardError(f"{what} is altered: it is not in the age format", _RESTORE)
    try:
        if header.startswith(_SCRYPT):
            inner = pyrage.passphrase.decrypt(block.encode(), passphrase(what))
        else:
            inner = pyrage.decrypt(block.encode(), identities(what, home))
    except pyrage.DecryptError as error:
        raise _refused(str(error), what, home) from None
    return _parsed(content_lines(inner.decode(errors="replace")), path)


def forget_unwrapped_keys() -> None:
    """Forget the wrapped keys that this process has opened."""
    _unwrapped.cache_clear()


def _refused(message: str, what: str, home: Path) -> CipherwardError:
    """Return the error for one of age's failures. pyrage tells them apart by texts alone; the tests pin those."""
    if message == "Decryption failed":
        return CipherwardError(
            f"wrong passphrase for {what}", "if it is the right one, the file was altered"
        )
    if message == "No matching keys found":
        return CipherwardError(
            f"no identity in {identity_file(home)} opens {what}",
            "name the right one with CIPHERWARD_IDENTITY, or have the key shared for your recipient",
        )
    if message.startswith("Excessive work"):
        return CipherwardError(
            f"{what} asks for more scrypt work than this machine accepts",
            "on the machine that made it, wrap it for an identity: cipherward-party share-key",
        )
    return CipherwardError(f"{what} is altered: it does not authenticate", _RESTORE)
