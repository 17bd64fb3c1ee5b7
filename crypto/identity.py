"""A hospital's identity: an Ed25519 key pair that signs what the hospital states.

    Identity ──sign(purpose, statement)──▶ signature ──PublicIdentity.verify──▶ or CipherwardError

An identity signs statements only. It opens no sealed set, and it is neither the key that authenticates a SuperNode
nor a round key of secure aggregation. Hospitals compare fingerprints over another channel: a public key that arrives
through the cloud proves nothing by itself. The private half is stored by parties/agent/identity_file.py.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.errors import CipherwardError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
#: First word of the line that a hospital hands out.
_LINE_FORMAT = "cipherward-identity-1"
#: A hospital's name in identities: what is safe as a file name, in a terminal and in a YAML key.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _signed_bytes(purpose: str, statement: bytes) -> bytes:
    """Return what a signature covers. The purpose's length precedes it, so no two pairs give the same bytes."""
    word = purpose.encode()
    return b"cipherward signature 1\0" + len(word).to_bytes(4, "big") + word + statement


def require_hospital_name(name: str) -> None:
    """Raise CipherwardError unless a hospital can have this name: it goes into file names and signed lines."""
    if not _NAME.fullmatch(name):
        raise CipherwardError(
            f"{name!r} is no name of a hospital",
            "use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )


@dataclass(frozen=True)
class PublicIdentity:
    """The public half of an identity.

    Attributes:
        name: the hospital's name, as it stands in the plan and the roster.
        key: the raw Ed25519 public key, 32 bytes.
    """

    name: str
    key: bytes

    def __post_init__(self) -> None:
        require_hospital_name(self.name)
        if len(self.key) != PUBLIC_KEY_BYTES:
            raise CipherwardError(
                f"the identity key of {self.name} has {len(self.key)} bytes, not {PUBLIC_KEY_BYTES}",
                f"ask {self.name} for its identity.pub again",
            )

    @classmethod
    def parse(cls, text: str) -> PublicIdentity:
        """Read the line that `line` returns.

        Raises:
            CipherwardError: if it is no such line.
        """
        words = text.split()
        if len(words) != 3 or words[0] != _LINE_FORMAT:
            raise CipherwardError(
                "this is no public identity",
                f"it is one line: {_LINE_FORMAT} NAME KEY (cipherward-party enrol)",
            )
        try:
            key = base64.b64decode(words[2], validate=True)
        except ValueError:
            raise CipherwardError(
                "the key of this public identity is damaged", "ask for the line again"
            ) from None
        return cls(words[1], key)

    @property
    def line(self) -> str:
        """The identity as one line of ASCII text, which may be published."""
        return f"{_LINE_FORMAT} {self.name} {base64.b64encode(self.key).decode()}"

    @property
    def fingerprint(self) -> str:
        """What people compare over the telephone: 32 base-32 characters in groups of four (160 bits of SHA-256).

        It covers the name too: the key of one hospital under the name of another has another fingerprint.
        """
        digest = hashlib.sha256(self.line.encode()).digest()[:20]
        text = base64.b32encode(digest).decode()
        return "-".join(text[i : i + 4] for i in range(0, len(text), 4))

    def verify(self, purpose: str, statement: bytes, signature: bytes) -> None:
        """Check a signature.

        Args:
            purpose: what the statement is for; a signature for one purpose is none for another.
            statement: the exact bytes that were signed.
            signature: 64 bytes.

        Raises:
            CipherwardError: if this identity did not sign the statement for this purpose.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(
                signature, _signed_bytes(purpose, statement)
            )
        except (InvalidSignature, ValueError):
            raise CipherwardError(
                f"the signature is not {self.name}'s ({purpose})",
                f"ask {self.name} for the file again, and compare the fingerprint: {self.fingerprint}",
            ) from None


class Identity:
    """A key pair. Printing shows the public half only; pickling and copying raise TypeError."""

    __slots__ = ("__private", "public")

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.__private = private
        self.public = PublicIdentity(name, raw)

    @classmethod
    def generate(cls, name: str) -> Identity:
        """Return a fresh identity from the operating system's generator."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, name: str, pem: str) -> Identity:
        """Read the text that `reveal` returned.

        Raises:
            CipherwardError: if it is no Ed25519 private key.
        """
        try:
            private = serialization.load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise CipherwardError(f"the identity of {name} is damaged", "restore it from your backup")
        return cls(name, private)

    def reveal(self) -> str:
        """Return the private key as PKCS #8 PEM: for the identity file alone."""
        return self.__private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def sign(self, purpose: str, statement: bytes) -> bytes:
        """Return the 64-byte signature of a statement for a purpose."""
        return self.__private.sign(_signed_bytes(purpose, statement))

    def __repr__(self) -> str:
        return f"Identity({self.public.name}, {self.public.fingerprint})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an identity is neither pickled nor copied")
