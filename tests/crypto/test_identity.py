"""Identities: who signed what, and for which purpose."""

from __future__ import annotations

import base64
import copy
import pickle

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import CipherwardError
from crypto.identity import Identity, PublicIdentity

#: RFC 8032, section 7.1, test 1: secret key and public key.
RFC_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def rfc_pem() -> str:
    """Return the RFC's key as PKCS #8 PEM."""
    der = bytes.fromhex("302e020100300506032b657004220420") + RFC_SECRET
    return f"-----BEGIN PRIVATE KEY-----\n{base64.b64encode(der).decode()}\n-----END PRIVATE KEY-----\n"


def test_known_key_and_pinned_signature() -> None:
    identity = Identity.from_pem("north", rfc_pem())
    assert identity.public.key == RFC_PUBLIC
    assert identity.public.fingerprint == PublicIdentity("north", RFC_PUBLIC).fingerprint
    # Ed25519 is deterministic, so the bytes pin the format of what is signed.
    first = identity.sign("scores", b"statement")
    assert first == identity.sign("scores", b"statement")
    identity.public.verify("scores", b"statement", first)


@given(
    st.text(min_size=1, max_size=8),
    st.binary(max_size=40),
    st.text(min_size=1, max_size=8),
    st.binary(max_size=40),
)
def test_a_signature_is_for_one_statement_and_one_purpose(p: str, s: bytes, q: str, t: bytes) -> None:
    identity = Identity.from_pem("north", rfc_pem())
    signature = identity.sign(p, s)
    identity.public.verify(p, s, signature)
    if (p, s) != (q, t):
        with pytest.raises(CipherwardError, match="not north's"):
            identity.public.verify(q, t, signature)


def test_another_hospital_and_cut_signatures_are_refused() -> None:
    north, south = Identity.generate("north"), Identity.generate("south")
    signature = north.sign("scores", b"statement")
    for bad in (south.sign("scores", b"statement"), signature[:-1], b"", signature[::-1]):
        with pytest.raises(CipherwardError, match="not north's"):
            north.public.verify("scores", b"statement", bad)


def test_the_line_is_read_back_and_the_name_is_part_of_the_fingerprint() -> None:
    public = Identity.generate("north").public
    assert PublicIdentity.parse(public.line) == public
    assert PublicIdentity.parse(public.line + "\n") == public
    assert PublicIdentity("south", public.key).fingerprint != public.fingerprint


@pytest.mark.parametrize(
    "text",
    ["", "x", "cipherward-identity-1 north", "cipherward-identity-2 north AAAA", "cipherward-identity-1 north $$$$",
     "cipherward-identity-1 north AAAA", "cipherward-identity-1 ../north " + "A" * 43 + "=", "\x1b[2J a b"],
)  # fmt: skip
def test_wrong_lines_are_refused(text: str) -> None:
    with pytest.raises(CipherwardError):
        PublicIdentity.parse(text)


def test_the_private_half_is_neither_shown_nor_pickled_nor_copied() -> None:
    identity = Identity.generate("north")
    assert "PRIVATE" not in repr(identity) and identity.public.fingerprint in repr(identity)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            attempt(identity)


def test_damaged_keys_are_refused() -> None:
    for text in ("", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", rfc_pem()[:40]):
        with pytest.raises(CipherwardError, match="damaged"):
            Identity.from_pem("north", text)


def test_a_key_of_a_curve_that_nobody_knows_is_damaged() -> None:
    """One wrong bit in the file can name such a curve."""
    key = ec.generate_private_key(ec.SECP256R1())
    whole = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    p256 = bytes.fromhex("2a8648ce3d030107")
    assert p256 in whole
    text = base64.encodebytes(whole.replace(p256, p256[:-1] + b"\x7f")).decode()
    with pytest.raises(CipherwardError, match="damaged"):
        Identity.from_pem("north", f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n")
