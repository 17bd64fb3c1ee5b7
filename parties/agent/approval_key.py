"""The hospital's own key for approvals, and what Flower's SuperNode is told to trust: that key and no other.

    private/approval_key     Ed25519, OpenSSH's format, mode 0600; made by the first `approve`
    approval.json            the last approval, signed, for the coordinator; it holds nothing secret

The key signs approvals of app bundles alone. It is neither the hospital's identity nor the SuperNode's key. Flower's
check is the first line: it comes before the SuperNode reads anything in a bundle. It is made once for each run, and
knows neither expiry nor withdrawal; the agent's own check (approval.py) is made for every message and knows both.
"""

from __future__ import annotations

import time
from pathlib import Path

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.exchange.code_approval import CodeApproval, key_id, public_line, sign_approval
from crypto.errors import CipherwardError
from crypto.files import write_json, write_text
from crypto.unlock import create_private, private_text
from parties.sealing.place import Place

APPROVAL_FILE = "approval.json"


def approval_key_path(place: Place) -> Path:
    """Return the file of the hospital's private key for approvals."""
    return place.private / "approval_key"


def write_signed(place: Place, bundle_sha256: str) -> CodeApproval:
    """Sign the approval of a bundle, and write it into approval.json for the coordinator.

    Raises:
        CipherwardError: if a file cannot be written or used, or if others can read the private key.
    """
    approval = sign_approval(ensure_key(place), place.settings.party, bundle_sha256, int(time.time()))
    write_json(place.folder / APPROVAL_FILE, approval.to_json())
    return approval


def write_trusted(place: Place, path: Path) -> Path:
    """Write the file for the SuperNode's `--trusted-entities`: the hospital's own key alone.

    Raises:
        CipherwardError: if there is no key, if it cannot be used, or if the file cannot be written.
    """
    line = public_line(_read_key(place).public_key())
    write_text(path, yaml.safe_dump({key_id(line): line}))
    return path


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
