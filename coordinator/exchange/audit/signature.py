"""Who wrote scores.json: the signature of the hospital that scored, over every other field of the file.

An HMAC under a consortium's key would let every hospital forge, and the cloud holds no key to check it with. So the
hospital signs with its identity (crypto/identity.py), and everybody can check it. A signature says that the holder of
this identity wrote these figures; whether the identity is that hospital's, people learn by comparing the fingerprint
over another channel.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from coordinator.exchange.audit.scores import Scores
from crypto.errors import CipherwardError
from crypto.identity import PublicIdentity

#: What a signature of scores is for; one for another purpose is none here.
PURPOSE = "scores"


def signed_bytes(scores: Scores) -> bytes:
    """Return what the signature covers: the canonical JSON of the scores, without the signature."""
    value: dict[str, Any] = {"schema": scores.schema_id, **scores.to_json()}
    value.pop("signature", None)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def scores_digest(scores: Scores) -> str:
    """Return the hex SHA-256 of what the signature covers: it names these scores in a report."""
    return hashlib.sha256(signed_bytes(scores)).hexdigest()


def check_signature(scores: Scores, where: str = "scores.json") -> PublicIdentity | None:
    """Check the signature of scores.

    Args:
        scores: The scores.
        where: The file, as it stands in messages.

    Returns:
        Who signed, or None if the scores are unsigned, as those of earlier versions are.

    Raises:
        CipherwardError: If anything was changed after it was signed, or if the identity has another name than the
            hospital that scored.
    """
    if scores.identity is None and scores.signature is None:
        return None
    if scores.identity is None or scores.signature is None:
        raise CipherwardError(
            f"{where} has a signature without an identity, or an identity without a signature",
            f"a part of it was taken away: ask {scores.party} for the file again",
        )
    signer = PublicIdentity.parse(scores.identity)
    if signer.name != scores.party:
        raise CipherwardError(
            f"{where} is of {scores.party} and signed by {signer.name}",
            f"ask {scores.party} for its own scores",
        )
    try:
        signature = base64.b64decode(scores.signature, validate=True)
        signer.verify(PURPOSE, signed_bytes(scores), signature)
    except (CipherwardError, ValueError):
        raise CipherwardError(
            f"{where} was changed after {signer.name} signed it: the signature does not fit the figures",
            f"ask {signer.name} for the file again, and compare the fingerprint: {signer.fingerprint}",
        ) from None
    return signer


def require_signer(scores: Scores, expected: PublicIdentity, where: str = "scores.json") -> None:
    """Check that scores are signed by one hospital's known identity.

    Raises:
        CipherwardError: If they are unsigned, or signed by somebody else. Another identity of the same name is
            somebody else.
    """
    signer = check_signature(scores, where)
    if signer is None:
        raise CipherwardError(
            f"{where} is unsigned, but must be signed by {expected.name}",
            f"ask {expected.name} to score again with this version",
        )
    if signer != expected:
        raise CipherwardError(
            f"{where} is signed by another identity than {expected.name}'s: its fingerprint is {signer.fingerprint}",
            f"the right one is {expected.fingerprint}; ask {expected.name} for the file again",
        )
