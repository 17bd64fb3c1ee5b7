"""The hospital's identity on disk: private/identity.pem, never overwritten, and identity.pub to hand out."""

from __future__ import annotations

from pathlib import Path

from crypto.errors import CipherwardError
from crypto.files import write_text
from crypto.identity import Identity, PublicIdentity
from crypto.unlock import create_private, private_text
from parties.sealing.place import Place

#: How a hospital gets another identity, and what that costs.
_ANOTHER = (
    "remove identity.pub, and enrol again. The hospital then has another fingerprint: the coordinator revokes it and "
    "enrols it again, every study needs its new statement and the agreement of all, and what was signed before stays "
    "the old identity's"
)


def identity_path(place: Place) -> Path:
    """Return the file of the private half."""
    return place.private / "identity.pem"


def public_identity_path(place: Place) -> Path:
    """Return the file of the public half: one line, for everybody."""
    return place.folder / "identity.pub"


def ensure_identity(place: Place) -> Identity:
    """Return the hospital's identity. It is made on first use.

    Raises:
        CipherwardError: if the file cannot be written or used, others can read it, or it is not the one that
            identity.pub is of: then the hospital's own was lost, and another one would be made in silence.
    """
    path, public = identity_path(place), public_identity_path(place)
    if not path.exists() and _stated_identity(place) is None:
        create_private(path, Identity.generate(place.settings.party).reveal(), "an identity")
    identity = read_identity(place)
    if not public.is_file() or public.read_text(errors="replace").strip() != identity.public.line:
        write_text(public, identity.public.line + "\n")
    return identity


def read_identity(place: Place) -> Identity:
    """Read the hospital's identity.

    Raises:
        CipherwardError: if there is none, it is damaged, others can read it, or it is not the one that identity.pub
            is of.
    """
    path, stated = identity_path(place), _stated_identity(place)
    lost = "" if stated is None else f"restore it from your backup; or, if it is lost: {_ANOTHER}"
    text = private_text(path, "identity", lost or f"make one: cipherward-party enrol {place.folder}")
    identity = Identity.from_pem(place.settings.party, text)
    # The name may be another one now; the key stays.
    if stated is not None and stated.key != identity.public.key:
        raise CipherwardError(f"{path} is not the identity that {public_identity_path(place)} is of", lost)
    return identity


def _stated_identity(place: Place) -> PublicIdentity | None:
    """Return the identity that the hospital hands out; None without one that can be read."""
    path = public_identity_path(place)
    try:
        return PublicIdentity.parse(path.read_text()) if path.is_file() else None
    except (OSError, UnicodeDecodeError, CipherwardError):
        return None
