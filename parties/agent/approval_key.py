"""The hospital's own keys for approvals, and what its SuperNode is told to trust: those of approved bundles alone.

    private/approval_key     Ed25519, OpenSSH's format, mode 0600; made by the first `approve`
    approval.json            the last approval, signed, for the coordinator; it holds nothing secret

Each bundle has a signing key of its own, derived from the private file by HKDF-SHA256. Flower trusts a key and not a
signature: with one key for all bundles, a signature would stay good after its approval was withdrawn. So a SuperNode
is told the keys of the bundles that are approved when it starts, and of no withdrawn or expired one.

The keys sign approvals of app bundles alone. They are neither the hospital's identity nor the SuperNode's key.
Flower's check is the first line: it comes before the SuperNode reads anything in a bundle. It is made once for each
run. The agent's own check (approval.py) is made for every message, and knows an approval's end at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.exchange.code_approval import (
    CodeApproval,
    key_id,
    public_line,
    read_approval,
    sign_approval,
)
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_json, write_text
from crypto.unlock import create_private, private_text
from parties.sealing.place import Place

APPROVAL_FILE = "approval.json"
#: What a derived key is for; the bundle's digest follows.
_PURPOSE = b"cipherward approval of a bundle 1\0"
#: The digest of no bundle: nobody finds one for it.
_NO_BUNDLE = "00" * 32


def approval_key_path(place: Place) -> Path:
    """Return the file of the hospital's private key for approvals."""
    return place.private / "approval_key"


def write_signed(place: Place, bundle_sha256: str) -> CodeApproval:
    """Sign the approval of a bundle, and write it into approval.json for the coordinator.

    Raises:
        CipherwardError: if a file cannot be written or used, or if others can read the private key.
    """
    key = _bundle_key(ensure_key(place), bundle_sha256)
    approval = sign_approval(key, place.settings.party, bundle_sha256, int(time.time()))
    write_json(place.folder / APPROVAL_FILE, approval.to_json())
    return approval


def remove_signed(place: Place, bundle_sha256: str) -> None:
    """Remove approval.json if it is about this bundle: nobody shall hand out what was withdrawn."""
    path = place.folder / APPROVAL_FILE
    try:
        is_of_bundle = read_approval(path).bundle_sha256 == bundle_sha256
    except CipherwardError:  # none, or none that is whole
        return
    if is_of_bundle:
        with disk_errors(path):
            path.unlink(missing_ok=True)


def write_trusted(place: Place, path: Path, bundles: Iterable[str]) -> Path:
    """Write the file for the SuperNode's `--trusted-entities`: this hospital's keys of these bundles alone.

    Flower leaves its check out if the file names no key. Without a bundle, it gets the key of one that cannot be.

    Args:
        place: the hospital.
        path: the file.
        bundles: hex SHA-256 of each bundle that is approved now.

    Raises:
        CipherwardError: if there is no key, if it cannot be used, or if the file cannot be written.
    """
    key = _read_key(place)
    lines = [public_line(_bundle_key(key, sha256).public_key()) for sha256 in [*bundles] or [_NO_BUNDLE]]
    text = yaml.safe_dump({key_id(line): line for line in lines})
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    return path


def _bundle_key(key: Ed25519PrivateKey, bundle_sha256: str) -> Ed25519PrivateKey:
    """Return the key that signs the approval of one bundle."""
    derived = HKDF(SHA256(), 32, salt=None, info=_PURPOSE + bytes.fromhex(bundle_sha256))
    return Ed25519PrivateKey.from_private_bytes(derived.derive(key.private_bytes_raw()))


def ensure_key(place: Place) -> Ed25519PrivateKey:
    """Return the hospital's private key for approvals; make it if there is none.

    Raises:
        CipherwardError: if it cannot be written or used, or if others can read it.
    """
    path = approval_key_path(place)
    if not path.exists():
        text = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        create_private(path, text.decode(), "a key for approvals")
    return _read_key(place)


def _read_key(place: Place) -> Ed25519PrivateKey:
    path = approval_key_path(place)
    hint = f"approve the app bundle again: cipherward-party approve KIT {place.folder}"
    text = private_text(path, "key for approvals", hint)
    try:
        key = serialization.load_ssh_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CipherwardError(
            f"the key for approvals {path} is damaged",
            "restore it from your backup; or remove it, approve again, and send the coordinator approval.json",
        )
    return key
