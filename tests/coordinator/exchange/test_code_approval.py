"""Signed approvals of an app bundle, read by the code of Flower's SuperNode that will read them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign
from flwr.supernode.start_client_internal import _verify_fab

from coordinator.deployment.approvals import verifications
from coordinator.exchange import code_approval
from coordinator.exchange.code_approval import CodeApproval, public_line, read_approval, sign_approval
from crypto.errors import CipherwardError

BUNDLE = b"an app bundle"
SHA256 = hashlib.sha256(BUNDLE).hexdigest()


def approval_of(bundle: bytes, key: Ed25519PrivateKey, hospital: str = "hospital-0") -> CodeApproval:
    """Return a hospital's approval of a bundle."""
    return sign_approval(key, hospital, hashlib.sha256(bundle).hexdigest(), 1_800_000_000)


def is_taken(approvals: list[CodeApproval], trusted: Ed25519PrivateKey) -> bool:
    """Return whether a SuperNode that trusts one key takes BUNDLE with these approvals beside it."""
    beside = verifications({approval.hospital: approval for approval in approvals})
    line = public_line(trusted.public_key())
    return bool(_verify_fab(Fab(SHA256, BUNDLE, beside), {code_approval.key_id(line): line}))


def test_flower_s_own_check_takes_a_bundle_that_this_hospital_signed_and_no_other() -> None:
    own, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signed, stranger = approval_of(BUNDLE, own), approval_of(BUNDLE, other, "hospital-1")
    assert is_taken([signed, stranger], own) and is_taken([signed, stranger], other)
    assert not is_taken([stranger], own)
    assert not is_taken([], own)
    assert not is_taken([approval_of(b"another bundle", own)], own)
    assert not is_taken([signed.model_copy(update={"signed_at": signed.signed_at + 1})], own)
    # The other hospital's signature under this hospital's name does not help.
    assert not is_taken([stranger.model_copy(update={"key": signed.key})], own)


def test_what_is_signed_is_what_flower_signs() -> None:
    digest = hashlib.sha256(BUNDLE).digest()
    assert code_approval._signed_bytes(SHA256, 12345) == create_message_to_sign(digest, 12345)


def test_beside_a_bundle_nothing_claims_a_licence() -> None:
    beside = verifications({"hospital-0": approval_of(BUNDLE, Ed25519PrivateKey.generate())})
    assert len(beside) == 2 and beside["valid_license"] not in ("", "Valid")


def test_a_damaged_approval_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "approval.json"
    approval = approval_of(BUNDLE, Ed25519PrivateKey.generate())
    path.write_text(json.dumps(approval.to_json()))
    assert read_approval(path) == approval
    signature = ("B" if approval.signature[0] == "A" else "A") + approval.signature[1:]
    stranger = public_line(Ed25519PrivateKey.generate().public_key())
    changes: tuple[dict[str, object], ...] = (
        {"signature": signature},
        {"key": stranger},
        {"key": "ssh-ed25519 AAAA"},
        {"signed_at": approval.signed_at + 1},
        {"bundle_sha256": "0" * 64},
        {"hospital": "../x"},
        {"more": 1},
    )
    for change in changes:
        path.write_text(json.dumps(approval.to_json() | change))
        with pytest.raises(CipherwardError):
            read_approval(path)
    path.write_text(" " * 5000)
    with pytest.raises(CipherwardError, match="too large"):
        read_approval(path)


def test_no_file_of_a_stranger_keeps_the_command_or_ends_it_with_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "approval.json"
    path.write_text("[" * 900 + "]" * 900)
    with pytest.raises(CipherwardError, match="nested too deeply"):
        read_approval(path)
    path.unlink()
    os.mkfifo(path)
    refused: list[CipherwardError] = []

    def read() -> None:
        try:
            read_approval(path)
        except CipherwardError as error:
            refused.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    assert not reader.is_alive() and "no regular file" in str(refused[0])
    with pytest.raises(CipherwardError, match="no regular file"):
        read_approval(Path("/dev/zero"))
