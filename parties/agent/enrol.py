"""Enrol: the hospital makes its own key pairs and hands out the public halves.

    private/identity.pem   Ed25519: signs what the hospital states (identity_file.py)
    private/node_key       P-384: Flower's authentication of the hospital's SuperNode, in OpenSSH's format
    enrol.pub              both public halves, one line each, for the coordinator

Neither private half leaves the hospital, and no key is used for both purposes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.errors import CipherwardError
from crypto.files import write_text
from crypto.identity import PublicIdentity
from crypto.unlock import create_private, private_text
from parties.agent.identity_file import ensure_identity
from parties.sealing.place import Place

ENROL_FILE = "enrol.pub"


@dataclass(frozen=True)
class Enrolment:
    """What a hospital hands out.

    Attributes:
        identity: the public identity.
        node_line: the SuperNode's public key, one line in OpenSSH's format.
        path: the file that holds both lines.
    """

    identity: PublicIdentity
    node_line: str
    path: Path


def node_key_path(place: Place) -> Path:
    """Return the file of the SuperNode's private key."""
    return place.private / "node_key"


def enrol(place: Place) -> Enrolment:
    """Make the hospital's key pairs if there are none, and write enrol.pub.

    Raises:
        CipherwardError: if a file cannot be written or used, or if others can read a private key.
    """
    identity = ensure_identity(place).public
    path = node_key_path(place)
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        create_private(path, _private_text(key), "a SuperNode key")
    line = f"{read_node_key(place)} {identity.name}"
    target = place.folder / ENROL_FILE
    write_text(target, f"{identity.line}\n{line}\n")
    return Enrolment(identity, line, target)


def read_node_key(place: Place) -> str:
    """Return the public half of the SuperNode's key, in OpenSSH's format without a comment.

    Raises:
        CipherwardError: if there is no key, if it is damaged, or if others can read it.
    """
    path = node_key_path(place)
    text = private_text(path, "SuperNode key", f"make one: cipherward-party enrol {place.folder}")
    try:
        key = serialization.load_ssh_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CipherwardError(
            f"the SuperNode key {path} is damaged",
            "restore it from your backup; or remove it, enrol again, and send the coordinator the new enrol.pub",
        )
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _private_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key in OpenSSH's format: for its own file alone."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
