"""A hospital's signed approval of an app bundle, as the check of Flower's SuperNode reads it (--trusted-entities).

    hospital: approve ──approval.json──▶ coordinator: carry ──beside the bundle──▶ the hospital's SuperNode verifies

The signature is made and checked in the hospital; the coordinator only carries it. It covers the bundle's SHA-256 and
a time, as Flower's `flwr app review` signs them. It says nothing to anybody but to the hospital that made it: a
forged, stale or missing one makes that hospital refuse the code, and cannot make it run any.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from coordinator.exchange.records import Record, parse_record
from crypto.errors import CipherwardError
from crypto.files import parse_json

SCHEMA = "cipherward.code-approval/1"
#: The largest file, in bytes; ours has some 400.
_MAX_BYTES = 4096
_AGAIN = "ask the hospital for approval.json again (cipherward-party approve writes it)"


class CodeApproval(Record):
    """What a hospital hands out about a bundle that it approved. It holds nothing secret.

    Attributes:
        hospital: the hospital's name.
        bundle_sha256: hex SHA-256 of the bundle.
        key: the hospital's public key for approvals, Ed25519, one line in OpenSSH's format.
        signed_at: when it was signed, in seconds since 1970.
        signature: the signature, base64url without padding.
    """

    schema_name: str = Field(alias="schema", pattern=f"^{SCHEMA}$")
    hospital: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    key: str = Field(pattern=r"^ssh-ed25519 [A-Za-z0-9+/=]{1,200}$")
    signed_at: int = Field(ge=0, lt=1 << 62)
    signature: str = Field(pattern=r"^[A-Za-z0-9_-]{86}$")

    @property
    def key_id(self) -> str:
        """The name of the key beside the bundle and in the SuperNode's list of trusted entities."""
        return key_id(self.key)

    @property
    def verification(self) -> str:
        """The entry beside the bundle, as Flower's SuperNode reads it."""
        return json.dumps({"signature": self.signature, "signed_at": self.signed_at})


def key_id(public_line: str) -> str:
    """Return the name of a public key, such as fpk_3f9a…; two keys have two names."""
    return f"fpk_{hashlib.sha256(public_line.encode()).hexdigest()[:32]}"


def public_line(key: Ed25519PublicKey) -> str:
    """Return a public key as one line in OpenSSH's format."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def sign_approval(
    key: Ed25519PrivateKey, hospital: str, bundle_sha256: str, signed_at: int
) -> CodeApproval:
    """Return a hospital's signed approval of a bundle.

    Args:
        key: the hospital's key for approvals.
        hospital: its name.
        bundle_sha256: hex SHA-256 of the bundle.
        signed_at: the time, in seconds since 1970.
    """
    signature = key.sign(_signed_bytes(bundle_sha256, signed_at))
    return CodeApproval(
        schema=SCHEMA,
        hospital=hospital,
        bundle_sha256=bundle_sha256,
        key=public_line(key.public_key()),
        signed_at=signed_at,
        signature=base64.urlsafe_b64encode(signature).rstrip(b"=").decode(),
    )


def read_approval(path: Path) -> CodeApproval:
    """Read an approval and check that its own key signed it.

    Raises:
        CipherwardError: if it cannot be read, is damaged, or is not signed by the key that it names.
    """
    try:
        value = parse_json(_read_short(path))
    except (ValueError, RecursionError) as error:
        raise CipherwardError(f"cannot read the approval {path}: {type(error).__name__}", _AGAIN) from None
    approval = parse_record(CodeApproval, value, str(path))
    try:
        key = serialization.load_ssh_public_key(approval.key.encode())
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("another kind of key")
        signature = base64.urlsafe_b64decode(approval.signature + "==")
        key.verify(signature, _signed_bytes(approval.bundle_sha256, approval.signed_at))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise CipherwardError(f"the signature of {path} does not fit its content", _AGAIN) from None
    return approval


def _read_short(path: Path) -> bytes:
    """Return the bytes of a small regular file.

    Strangers send these files: a named pipe must not keep the command waiting, nor a device fill the memory.

    Raises:
        CipherwardError: if there is no such file, if it is no regular file, or if it is too large for an approval.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_BYTES + 1) if is_regular else b""
    except FileNotFoundError:
        raise CipherwardError(f"no approval at {path}", "name the file that holds it") from None
    except (OSError, ValueError) as error:
        raise CipherwardError(f"cannot read the approval {path}: {type(error).__name__}", _AGAIN) from None
    if not is_regular:
        raise CipherwardError(f"{path} is no regular file", _AGAIN)
    if len(data) > _MAX_BYTES:
        raise CipherwardError(f"{path} is too large for an approval", _AGAIN)
    return data


def _signed_bytes(bundle_sha256: str, signed_at: int) -> bytes:
    """Return what a signature covers: Flower's own `create_message_to_sign`, to the byte (tested against it)."""
    return signed_at.to_bytes(8, "big") + bytes.fromhex(bundle_sha256)
