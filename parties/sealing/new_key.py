"""New key files: how one is protected, and what becomes of the one that an interrupted rotation made.

The command that finishes a rotation protects the new key as it says itself. It never leaves the protection of an
earlier command in place without a word: a key that lies in clear opens everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_json, write_json, write_text
from crypto.key import SecretKey
from crypto.keyfile import copy_key, is_wrapped, protect_anew, protection_of, read_key, write_key
from crypto.sets.leaving import require_stays
from crypto.unlock import new_passphrase, private_text, recipient, refuse_existing

#: Why a key is not written into what may leave.
OPENS = "the key opens what is sealed there"

if TYPE_CHECKING:  # `keygen` makes a key file too, and needs none of what they load
    from parties.sealing.place import Place


def write_new_key(
    path: Path, key: SecretKey, passphrase: bool, recipients: Sequence[str] | None, party: str = ""
) -> None:
    """Write a new key file, protected as chosen. Never overwrites a file.

    Args:
        path: The new file.
        key: The key.
        passphrase: Whether a passphrase protects it. It must not be made of the folder's or the hospital's name.
        recipients: Whom it is wrapped for.
        party: The hospital's name, where it may differ from the folder's.
    """
    if passphrase and recipients:
        raise CipherwardError(
            "a key file is protected with a passphrase or for recipients, not both", "choose one of them"
        )
    if not recipients:
        require_stays(path, OPENS)
    refuse_existing(path, "a key file")  # before a passphrase is asked for
    write_key(path, key, recipients or (), new_passphrase(_names(path, party)) if passphrase else None)


def _names(path: Path, party: str) -> tuple[str, str]:
    """Return what whoever steals a key file knows of its hospital: the folder's name and its own."""
    return path.resolve().parent.name, party


def describe_protection(path: Path) -> str:
    """Return in words what protects a key file."""
    return {
        "clear": "not protected",
        "passphrase": "protected by a passphrase",
        "recipients": "wrapped for named recipients",
    }[protection_of(path)]


@dataclass(frozen=True)
class NewKey:
    """The new key of a rotation, as one command asks for it.

    Attributes:
        place: The hospital's folder.
        shared_file: The key file of another hospital, to be copied as it is protected. None: a key is made.
        shared: The key in it.
        passphrase: Whether a passphrase is to protect the key.
        recipients: Whom it is to be wrapped for.
        unprotected: Whether it is to be written in clear.
        is_unopened: Whether its recipients' identities are elsewhere.
        log: Gets a line for each change of a key that an interrupted attempt made.
    """

    place: Place
    shared_file: Path | None
    shared: SecretKey | None
    passphrase: bool
    recipients: tuple[str, ...]
    unprotected: bool
    is_unopened: bool
    log: Callable[[str], None]

    def make(self, path: Path) -> SecretKey:
        """Write the new key file and return the key.

        Raises:
            CipherwardError: If the hospital's key is protected, and nothing was said of the new one.
        """
        if self.shared_file is not None and self.shared is not None:
            self._note_recipients(())
            copy_key(self.shared_file, path)
            return self.shared
        if not self._is_asked and is_wrapped(self.place.key_path):
            raise CipherwardError(
                f"{self.place.key_path} is protected: choose how to protect the new key",
                "--passphrase, or --recipient age1… for everyone who must open it, or --unprotected",
            )
        new = SecretKey.generate()
        self._note_recipients(self.recipients)
        write_new_key(path, new, self.passphrase, self.recipients, self.place.settings.party)
        return new

    def adopt(self, path: Path) -> SecretKey | None:
        """Return the key that an interrupted attempt made, protected as asked; None: a new one must be made.

        Raises:
            CipherwardError: If it cannot be opened, and this command does not allow for that.
        """
        from parties.sealing.rotate import new_sets_path

        try:
            key = read_key(path)
        except CipherwardError as error:
            if self.recipients and self.is_unopened and protection_of(path) == "recipients":
                # Nothing under this key has left the hospital, and without it no set can be sealed.
                self.log(
                    "nobody here can open the key that the interrupted rotation made: a new one takes its place"
                )
                return None
            _refuse(
                error,
                f"or start over with a new key: remove {path} and {new_sets_path(self.place)}, and rotate again",
            )
        if not self._is_as_asked(path):
            self._protect(path, key)
        return key

    def protect(self, path: Path) -> None:
        """Protect the key as asked while a rotation puts it in place.

        Raises:
            CipherwardError: If it must be opened for that, and cannot be opened here.
        """
        if not self._is_asked or self._is_as_asked(path):
            return
        try:
            key = read_key(path)
        except CipherwardError as error:
            _refuse(
                error, f"or finish it, with the key as it is: cipherward-party rotate {self.place.folder}"
            )
        self._protect(path, key)

    @property
    def _is_asked(self) -> bool:
        """Whether this command says how the key is protected."""
        return self.passphrase or self.unprotected or bool(self.recipients) or self.shared is not None

    def _is_as_asked(self, path: Path) -> bool:
        """Return whether a key file is protected as asked, as far as that shows without opening it."""
        protection = protection_of(path)
        if self.shared_file is not None:
            return private_text(path, "key file") == private_text(self.shared_file, "key file")
        if self.recipients:
            # An age file does not say whom it is wrapped for.
            return protection == "recipients" and self._noted_recipients() == _canonical(self.recipients)
        return not self._is_asked or (self.unprotected and protection == "clear")

    def _protect(self, path: Path, key: SecretKey) -> None:
        """Replace a file of this key by one that is protected as asked."""
        if self.passphrase and protection_of(path) == "passphrase":
            return  # the passphrase in use has opened it
        before = describe_protection(path)
        self._note_recipients(
            ()
        )  # a kill in between must leave no note of other recipients than the file's
        if self.shared_file is not None:
            write_text(path, private_text(self.shared_file, "key file"), 0o600)
        else:
            secret = new_passphrase(_names(path, self.place.settings.party)) if self.passphrase else None
            protect_anew(path, key, self.recipients, secret)
        self._note_recipients(self.recipients)
        self.log(
            f"the key that the interrupted rotation made was {before}; now it is {describe_protection(path)}"
        )

    @property
    def _note(self) -> Path:
        """A file that says, until the rotation is done, whom the new key is wrapped for."""
        return self.place.rotation / "recipients.json"

    def _note_recipients(self, recipients: Iterable[str]) -> None:
        if texts := _canonical(recipients):
            write_json(self._note, texts)
            return
        with disk_errors(self._note), contextlib.suppress(FileNotFoundError):
            self._note.unlink()

    def _noted_recipients(self) -> list[str] | None:
        try:
            texts: list[str] = read_json(self._note, "note of recipients")
        except CipherwardError:
            return None  # of an earlier version, or never written
        return texts


def _canonical(recipients: Iterable[str]) -> list[str]:
    """Return recipients in one order, each once."""
    return sorted({str(recipient(text)) for text in recipients})


def _refuse(error: CipherwardError, way_out: str) -> NoReturn:
    """Raise an error about a key file again, with another way out."""
    raise CipherwardError(error.message, f"{error.hint}; {way_out}".removeprefix("; ")) from None
