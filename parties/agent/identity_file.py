"""The hospital's identity on disk: private/identity.pem, never overwritten, and identity.pub to hand out."""

from __future__ import annotations

from pathlib import Path

from crypto.files import write_text
from crypto.identity import Identity
from crypto.unlock import create_private, private_text
from parties.sealing.place import Place


def identity_path(place: Place) -> Path:
    """Return the file of the private half."""
    return place.private / "identity.pem"


def public_identity_path(place: Place) -> Path:
    """Return the file of the public half: one line, for everybody."""
    return place.folder / "identity.pub"


def ensure_identity(place: Place) -> Identity:
    """Return the hospital's identity. It is made on first use.

    Raises:
        CipherwardError: if the file cannot be written or used, or others can read it.
    """
    path = identity_path(place)
    if not path.exists():
        create_private(path, Identity.generate(place.settings.party).reveal(), "an identity")
    identity = read_identity(place)
    public = public_identity_path(place)
    if not public.is_file() or public.read_text(errors="replace").strip() != identity.public.line:
        write_text(public, identity.public.line + "\n")
    return identity


def read_identity(place: Place) -> Identity:
    """Read the hospital's identity.

    Raises:
        CipherwardError: if there is none, it is damaged, or others can read it.
    """
    text = private_text(
        identity_path(place), "identity", f"make one: cipherward-party enrol {place.folder}"
    )
    return Identity.from_pem(place.settings.party, text)
