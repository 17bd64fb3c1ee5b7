"""What opens a wrapped key file: a passphrase or an age identity, and where they are found.

    passphrase   CIPHERWARD_PASSPHRASE, the first line of the file CIPHERWARD_PASSPHRASE_FILE, or the terminal
    identity     the file CIPHERWARD_IDENTITY, or identity.txt beside the key file

Files that hold secrets are made for their owner alone, never overwritten, and refused when others can read
them. The coordinator imports none of this.
"""

from __future__ import annotations

import getpass
import os
import secrets
import stat
import sys
import time
import warnings
from pathlib import Path

import pyrage

from crypto.errors import CipherwardError
from crypto.files import disk_errors

SHORTEST = 12  # characters of a passphrase
_NAMED = "CIPHERWARD_PASSPHRASE_FILE names it"
_IDENTITY = "AGE-SECRET-KEY-"  # how a secret identity begins


def create_private(path: Path, text: str, what: str) -> None:
    """Creates a text file of mode 0600. Raises CipherwardError where a file is already there."""
    # Written whole beside its place and linked into it: a kill leaves no empty file that would stand in the way.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(path):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        except FileExistsError:
            refuse_existing(path, what)
            raise
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def refuse_existing(path: Path, what: str) -> None:
    """Raises CipherwardError where a file is already there."""
    if os.path.lexists(path):
        raise CipherwardError(
            f"{path} exists; {what} is never overwritten",
            "what was sealed with it opens with it only: choose another name, or move it away",
        ) from None


def private_text(path: Path, what: str, hint: str = "") -> str:
    """The text of a file that nobody but its owner may read; raises CipherwardError otherwise."""
    try:
        with open(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise CipherwardError(
                    f"the {what} {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}"
                )
            return file.read()
    except FileNotFoundError:
        raise CipherwardError(f"no {what} at {path}", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CipherwardError(
            f"cannot read the {what} {path}: {type(error).__name__}", "name a file that is yours to read"
        ) from None


def bare_lines(text: str) -> list[str]:
    """The lines of a text but empty ones and comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def passphrase(what: str) -> str:
    """The passphrase that opens `what`. Raises CipherwardError where none is given, or it is empty."""
    given = _given()
    if given is None and sys.stdin.isatty():
        given = _asked(f"passphrase of {what}: ")
    return _not_empty(given, what)


def new_passphrase() -> str:
    """The passphrase of a new key file; a terminal is asked twice.

    Raises CipherwardError for a short one, and where the two differ.
    """
    given, typed = _given(), False
    if given is None and sys.stdin.isatty():
        given, typed = _asked("passphrase for the new key file: "), True
    text = _not_empty(given, "the new key file")
    if len(text) < SHORTEST:
        raise CipherwardError(
            f"the passphrase has {len(text)} characters; at least {SHORTEST} are needed",
            "a few random words are long and easily kept in mind",
        )
    if typed and _asked("the same passphrase again: ") != text:
        raise CipherwardError("the two passphrases differ", "type the same one twice")
    return text


def _given() -> str | None:
    if (text := os.environ.get("CIPHERWARD_PASSPHRASE")) is not None:
        return text
    if named := os.environ.get("CIPHERWARD_PASSPHRASE_FILE"):
        return (private_text(Path(named).expanduser(), "passphrase file", _NAMED).splitlines() or [""])[0]
    return None


def _not_empty(given: str | None, what: str) -> str:
    if given is None:
        raise CipherwardError(
            f"{what} needs a passphrase and none was given",
            "set CIPHERWARD_PASSPHRASE_FILE or CIPHERWARD_PASSPHRASE, or run the command in a terminal",
        )
    if not given:
        raise CipherwardError(f"the passphrase given for {what} is empty", "set the variable, or unset it")
    return given


def _asked(prompt: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)  # or it would go on, and show what is typed
        try:
            return getpass.getpass(prompt)
        except (getpass.GetPassWarning, EOFError):
            raise CipherwardError(
                "this terminal cannot hide a passphrase, or gave none", "set CIPHERWARD_PASSPHRASE_FILE"
            ) from None


def identity_file(home: Path) -> Path:
    """The identity file in use: the one that CIPHERWARD_IDENTITY names, or identity.txt in `home`."""
    named = os.environ.get("CIPHERWARD_IDENTITY")
    return Path(named).expanduser() if named else home / "identity.txt"


def identities(what: str, home: Path) -> list[pyrage.x25519.Identity]:
    """The identities that may open `what`. Raises CipherwardError naming the file that is missing or unusable."""
    file = identity_file(home)
    if not file.exists():
        raise CipherwardError(
            f"{what} is wrapped for named recipients, and there is no identity file at {file}",
            "name yours with CIPHERWARD_IDENTITY=FILE",
        )
    try:
        lines = bare_lines(private_text(file, "identity file"))
        found = [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise CipherwardError(
            f"{file} is not an age identity file", "make one with: cipherward-party identity FILE"
        )
    return found


def write_identity(path: Path) -> str:
    """Creates an age identity file (X25519, mode 0600), as age-keygen does; returns its recipient, age1…"""
    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    create_private(path, f"# created: {made}\n# public key: {public}\n{identity}\n", "an identity file")
    return public


def recipient(text: str) -> pyrage.x25519.Recipient:
    """The recipient that a text age1… names. A secret identity given by mistake is never shown."""
    text = text.strip()
    if text.upper().startswith(_IDENTITY):
        raise CipherwardError(
            "that is a secret identity, not a recipient",
            "give its public line, age1…; the secret one may stand in your shell's history now: make another",
        )
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        shown = repr(text) if text.startswith("age1") else "it does not begin with age1"
        raise CipherwardError(
            f"not an age recipient: {shown}",
            "cipherward-party identity FILE makes an identity and prints its recipient",
        ) from None
