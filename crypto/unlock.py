"""Open a wrapped key file: find its passphrase or age identity.

    passphrase   CIPHERWARD_PASSPHRASE, the first line of the file CIPHERWARD_PASSPHRASE_FILE, or the terminal
    identity     the file CIPHERWARD_IDENTITY, or identity.txt beside the key file

Files that hold secrets are created for their owner alone and never overwritten. They are refused if others can read
them, if another user owns them, and if they are pipes. The coordinator imports none of this.
"""

from __future__ import annotations

import errno
import getpass
import glob
import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import pyrage

from crypto.asking import waiting_for_user
from crypto.errors import CipherwardError
from crypto.files import disk_errors
from crypto.ownership import require_private
from crypto.passphrase_strength import require_strong

_NAMED_BY = "CIPHERWARD_PASSPHRASE_FILE names it"
_RESAVE = "save it again as text in UTF-8"
_IDENTITY_PREFIX = "AGE-SECRET-KEY-"


def create_private(path: Path, text: str, what: str) -> None:
    """Create a text file with mode 0600.

    Raises:
        CipherwardError: If the file exists. The message names `what`.
    """
    with disk_errors(path):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                _create_nameless(path, folder, text)
            except FileExistsError:
                refuse_existing(path, what)
                raise
            os.fsync(folder)
        finally:
            os.close(folder)


def _create_nameless(path: Path, folder: int, text: str) -> None:
    """Write a file that has no name until it is whole: a kill leaves nothing of it.

    Args:
        path: The file.
        folder: Its folder, opened.
        text: Its content.
    """
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        _create_named(path, text)  # not Linux, or no /proc to give the file its name by
        return
    try:
        handle = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        _create_named(path, text)
        return
    with os.fdopen(handle, "w") as file:
        _write_through(file, text)
        # With a folder's descriptor Python calls linkat, which follows the link to the nameless file.
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder, follow_symlinks=True)


def _create_named(path: Path, text: str) -> None:
    """Write a file under another name, then link it. A kill leaves a draft, which the next attempt removes.

    This is for file systems that know no nameless files, such as some network file systems.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            _write_through(file, text)
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _write_through(file: TextIO, text: str) -> None:
    """Write a text and wait until it is on the disk."""
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def refuse_existing(path: Path, what: str) -> None:
    """Raise CipherwardError if the file exists. The message names `what`."""
    if os.path.lexists(path):
        raise CipherwardError(
            f"{path} exists; {what} is never overwritten",
            "only it opens what was sealed with it: choose another name, or move it away",
        ) from None


def private_text(path: Path, what: str, hint: str = "") -> str:
    """Return the text of a file that only its owner, this user, may read.

    Raises:
        CipherwardError: If others may read it, it is another user's or no regular file, or it is missing or
            unreadable.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            require_private(os.fstat(handle), path, what)
            with open(handle, closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise CipherwardError(f"no {what} at {path}", hint) from None
    except UnicodeDecodeError:
        # The error itself would show a byte of the secret, and where it stands.
        raise CipherwardError(f"cannot read the {what} {path}: it is not text in UTF-8", _RESAVE) from None
    except OSError as error:
        raise CipherwardError(
            f"cannot read the {what} {path}: {type(error).__name__}",
            "let the user who runs this command read it, or name another file",
        ) from None


def content_lines(text: str) -> list[str]:
    """Return the lines of a text without empty ones and comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def passphrase(what: str) -> str:
    """Return the passphrase that opens `what`.

    Raises:
        CipherwardError: If none is set, or it is empty.
    """
    text = _from_environment()
    if text is None and sys.stdin.isatty():
        text = _prompt(f"passphrase of {what}: ")
    return _require_text(text, what)


def new_passphrase(names: Iterable[str] = ()) -> str:
    """Return the passphrase of a new key file; in a terminal the user types it twice.

    Args:
        names: What a thief of the file would know, such as the hospital's name.

    Raises:
        CipherwardError: If it is short or easy to guess, or the two differ.
    """
    text, is_typed = _from_environment(), False
    if text is None and sys.stdin.isatty():
        text, is_typed = _prompt("passphrase for the new key file: "), True
    text = _require_text(text, "the new key file")
    require_strong(text, names)
    if is_typed and _prompt("the same passphrase again: ") != text:
        raise CipherwardError("the two passphrases differ", "type the same one twice")
    return text


def _from_environment() -> str | None:
    """Return the passphrase that the environment sets, or the first line of the file that it names."""
    if (text := os.environ.get("CIPHERWARD_PASSPHRASE")) is not None:
        return text
    if name := os.environ.get("CIPHERWARD_PASSPHRASE_FILE"):
        return (private_text(Path(name).expanduser(), "passphrase file", _NAMED_BY).splitlines() or [""])[0]
    return None


def _require_text(text: str | None, what: str) -> str:
    """Return a passphrase that is there, not empty and text; raise CipherwardError otherwise."""
    if text is None:
        raise CipherwardError(
            f"{what} needs a passphrase and none was given",
            "set CIPHERWARD_PASSPHRASE_FILE or CIPHERWARD_PASSPHRASE, or run the command in a terminal",
        )
    if not text:
        raise CipherwardError(f"the passphrase given for {what} is empty", "set the variable, or unset it")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Bytes of the environment that are not text. The error itself would show one, and where it stands.
        raise CipherwardError(
            f"the passphrase given for {what} is not text in UTF-8",
            "set CIPHERWARD_PASSPHRASE in UTF-8, or CIPHERWARD_PASSPHRASE_FILE to a file in UTF-8",
        ) from None
    return text


def _prompt(prompt: str) -> str:
    """Return what the user types in the terminal, which does not show it."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", getpass.GetPassWarning
        )  # or getpass would go on and show the passphrase
        try:
            waiting_for_user.set()
            return getpass.getpass(prompt)
        except (getpass.GetPassWarning, EOFError):
            raise CipherwardError(
                "this terminal cannot hide a passphrase, or gave none", "set CIPHERWARD_PASSPHRASE_FILE"
            ) from None
        except UnicodeDecodeError:
            raise CipherwardError(
                "what was typed is not text in this terminal's encoding",
                "set the terminal and LANG to UTF-8, or set CIPHERWARD_PASSPHRASE_FILE",
            ) from None
        finally:
            waiting_for_user.clear()


def identity_file(home: Path) -> Path:
    """Return the identity file in use: the one that CIPHERWARD_IDENTITY names, or identity.txt in `home`."""
    name = os.environ.get("CIPHERWARD_IDENTITY")
    return Path(name).expanduser() if name else home / "identity.txt"


def identities(what: str, home: Path) -> list[pyrage.x25519.Identity]:
    """Return the identities that may open `what`.

    Raises:
        CipherwardError: If the identity file is missing or unusable.
    """
    file = identity_file(home)
    if not file.exists():
        raise CipherwardError(
            f"{what} is wrapped for named recipients, and there is no identity file at {file}",
            "name yours with CIPHERWARD_IDENTITY=FILE",
        )
    try:
        lines = content_lines(private_text(file, "identity file"))
        result = [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError:
        result = []
    if not result:
        raise CipherwardError(
            f"{file} is not an age identity file", "make one with: cipherward-party identity FILE"
        )
    return result


def require_openable(recipients: Sequence[str], home: Path) -> None:
    """Check by a trial that an identity here opens what is wrapped for these recipients.

    Args:
        recipients: Recipients (age1…).
        home: The folder whose identity.txt is used.

    Raises:
        CipherwardError: If there is no identity here, or it opens nothing that is wrapped for them.
    """
    hint = (
        "name your identity with CIPHERWARD_IDENTITY, add --recipient with your own, or choose --unopened"
    )
    file = identity_file(home)
    if not file.exists():
        raise CipherwardError(
            f"nobody here could open the new key: there is no identity file at {file}", hint
        )
    probe = pyrage.encrypt(b"trial", [recipient(text) for text in recipients])
    try:
        pyrage.decrypt(probe, identities("the new key", home))
    except pyrage.DecryptError:
        raise CipherwardError(
            f"nobody here could open the new key: no identity in {file} is of these recipients", hint
        ) from None


def write_identity(path: Path) -> str:
    """Create an age identity file (X25519, mode 0600), as age-keygen does, and return its recipient (age1…)."""
    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    create_private(path, f"# created: {created}\n# public key: {public}\n{identity}\n", "an identity file")
    return public


def recipient(text: str) -> pyrage.x25519.Recipient:
    """Return the recipient that a text (age1…) names. An error never shows a secret identity given by mistake."""
    text = text.strip()
    if text.upper().startswith(_IDENTITY_PREFIX):
        raise CipherwardError(
            "that is a secret identity, not a recipient",
            "give its public line, age1…; your shell's history may hold the secret one now: make another",
        )
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        shown = repr(text) if text.startswith("age1") else "it does not begin with age1"
        raise CipherwardError(
            f"not an age recipient: {shown}",
            "cipherward-party identity FILE makes an identity and prints its recipient",
        ) from None
