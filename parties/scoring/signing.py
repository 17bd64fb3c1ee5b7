"""Sign scores with the hospital's identity, so that nobody else can write or change them unnoticed."""

from __future__ import annotations

import base64

from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.audit.signature import PURPOSE, signed_bytes
from crypto.identity import Identity


def sign_scores(scores: Scores, identity: Identity) -> Scores:
    """Return the scores with the identity's public line and its signature over all other fields."""
    named = scores.model_copy(update={"identity": identity.public.line})
    signature = base64.b64encode(identity.sign(PURPOSE, signed_bytes(named))).decode()
    return named.model_copy(update={"signature": signature})
