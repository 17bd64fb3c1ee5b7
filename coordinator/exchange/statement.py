"""What one hospital states of a study: identity, plan, scheme, key id, classes and sealed sets, in one signed record.

`cipherward-party declare` makes it. The coordinator puts the statements of all hospitals into the study manifest
(coordinator/exchange/manifest.py), and changes none of them: each carries its signature.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from coordinator.exchange.plan import Plan
from coordinator.exchange.records import Record, parse_record, read_record, write_record
from crypto.errors import CipherwardError
from crypto.identity import Identity, PublicIdentity

SPLITS = ("train", "val", "test")
#: What a statement's signature is for.
PURPOSE = "study statement"
SCHEMA = "cipherward.statement/1"
#: The most images of a split that a hospital may state, where the plan's counts set no limit.
MAX_IMAGES = 10**8
#: The most classes.
MAX_CLASSES = 10_000

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(min_length=1, max_length=199)]


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value: sorted keys, no spaces, ASCII.

    Raises:
        CipherwardError: if a number in it is not finite.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        raise CipherwardError("a setting is not a finite number", "set a finite one") from None


def plan_settings(plan: Plan) -> dict[str, Any]:
    """Return a plan's settings as JSON, without the paths of one machine: of weights the file's name alone."""
    settings: dict[str, Any] = plan.model_dump(mode="json")
    return settings | {"images": "", "labels": "", "weights": Path(plan.weights).name}


def plan_digest(plan: Plan) -> str:
    """Return the hex SHA-256 of `plan_settings`. It is the same on all machines."""
    return hashlib.sha256(canonical(plan_settings(plan))).hexdigest()


class SetFacts(Record):
    """A sealed set: `digest` names this sealing and no other (SealedDataset.digest)."""

    digest: _Digest
    images: int = Field(ge=1, le=MAX_IMAGES)


class SetsFacts(Record):
    """The sealed sets of a hospital."""

    train: SetFacts
    val: SetFacts
    test: SetFacts

    def of(self, split: str) -> SetFacts:
        """Return the facts of one of `SPLITS`."""
        facts: SetFacts = getattr(self, split)
        return facts


class StatedFacts(NamedTuple):
    """What a hospital states of its sealed sets.

    Attributes:
        spec: the scheme as JSON, whole, without the nonce (`spec_without_nonce`).
        key_id: the key that sealed all of them.
        classes: the names of the classes, in the order of the labels.
        sets: digest and number of images, by split.
    """

    spec: dict[str, Any]
    key_id: str
    classes: Sequence[str]
    sets: dict[str, tuple[str, int]]


class Statement(Record):
    """What one hospital states of a study.

    Attributes:
        hospital: its name.
        identity: the line of its public identity, which has the same name.
        study: the study's name.
        plan_sha256: the digest of the plan that it accepted (`plan_digest`).
        spec: the scheme of its sealed sets, without the nonce.
        key_id: the key that sealed them.
        classes: the names of the classes, in the order of the labels.
        sets: digests and numbers of images.
        signature: base64 of the identity's signature over everything else.
    """

    schema_id: str = Field(validation_alias="schema", serialization_alias="schema")
    hospital: _Name
    identity: str
    study: str
    plan_sha256: _Digest
    spec: dict[str, Any]
    key_id: _Name
    classes: tuple[_Name, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    sets: SetsFacts
    signature: str

    @property
    def public(self) -> PublicIdentity:
        """The hospital's public identity."""
        return PublicIdentity.parse(self.identity)

    def verify(self) -> None:
        """Check the statement by itself.

        Raises:
            CipherwardError: if it is of another schema, if the identity has another name or did not sign it, or if a
                class has no valid name or two classes have one.
        """
        if self.schema_id != SCHEMA:
            raise CipherwardError(
                f"{self.hospital!r} states something else than {SCHEMA}",
                "let it make its statement with the version that you use: cipherward-party declare",
            )
        public = self.public
        if public.name != self.hospital or public.line != self.identity:
            raise CipherwardError(
                f"the statement of {self.hospital} carries the identity of {public.name}",
                f"ask {self.hospital} for its own statement: cipherward-party declare",
            )
        public.verify(PURPOSE, self._signed(), _decode(self.signature))
        if not all(is_clean(name) for name in self.classes) or len(set(self.classes)) < len(self.classes):
            raise CipherwardError(
                f"{self.hospital} states impossible names of classes",
                "give every class a printable name of its own, seal again, then run: cipherward-party declare",
            )

    def _signed(self) -> bytes:
        """Return the bytes that the signature covers."""
        return canonical({k: v for k, v in self.to_json().items() if k != "signature"})


def is_clean(text: str) -> bool:
    """Return whether a name from outside fits on a line, and neither controls a terminal nor hides in spaces."""
    return 0 < len(text) < 200 and text.isprintable() and text == text.strip()


def _decode(signature: str) -> bytes:
    """Return the bytes of a signature; empty, which no key verifies, for anything but their one base64 text."""
    try:
        value = base64.b64decode(signature, validate=True)
    except ValueError:
        return b""
    return value if base64.b64encode(value).decode() == signature else b""


def sign_statement(identity: Identity, plan_sha256: str, study: str, facts: StatedFacts) -> Statement:
    """Return a hospital's signed statement.

    Args:
        identity: the hospital's.
        plan_sha256: the digest of the plan that it accepted.
        study: the plan's study.
        facts: what it states of its sealed sets.
    """
    value = {
        "schema": SCHEMA,
        "hospital": identity.public.name,
        "identity": identity.public.line,
        "study": study,
        "plan_sha256": plan_sha256,
        "spec": facts.spec,
        "key_id": facts.key_id,
        "classes": list(facts.classes),
        "sets": {split: {"digest": d, "images": n} for split, (d, n) in facts.sets.items()},
    }
    signature = base64.b64encode(identity.sign(PURPOSE, canonical(value))).decode()
    return parse_record(Statement, value | {"signature": signature}, "this hospital's statement")


def read_statement(path: Path) -> Statement:
    """Read and verify one hospital's statement.

    Raises:
        CipherwardError: if it is missing, damaged, or not signed by the identity that it names.
    """
    statement = read_record(Statement, path, SCHEMA, "statement", "cipherward-party declare")
    statement.verify()
    return statement


def write_statement(path: Path, statement: Statement) -> None:
    """Write a statement, atomically."""
    write_record(path, statement)
