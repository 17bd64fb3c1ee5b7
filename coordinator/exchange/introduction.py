"""How a hospital introduces itself to a run: what it sealed, signed by its identity for one run and one node.

The signature covers the introduction's text, and the text names the run, the node and the study manifest. So nobody
who copies an introduction can use it under another node, in another run or for another study.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from crypto.errors import CipherwardError
from crypto.identity import Identity, PublicIdentity

#: What an introduction's signature is for.
PURPOSE = "study introduction"


def sign_introduction(identity: Identity, about: dict[str, Any]) -> dict[str, str]:
    """Return the record that a hospital answers with: the introduction as JSON, and its signature in base64.

    about: party, classes, spec, splits, manifest, run, node and time_ns.
    """
    text = json.dumps(about)
    return {
        "json": text,
        "signature": base64.b64encode(identity.sign(PURPOSE, text.encode())).decode(),
    }


def is_signed(public: PublicIdentity, text: str, signature: str) -> bool:
    """Return whether an identity signed the text of an introduction."""
    try:
        public.verify(PURPOSE, text.encode(), base64.b64decode(signature, validate=True))
    except (CipherwardError, ValueError):
        return False
    return True
