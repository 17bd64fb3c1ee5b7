"""What the hospital's log says of a message: type, study, round, digests and sizes. Never its contents."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build
from coordinator.exchange.statement import plan_digest
from crypto.printable import printable

#: Characters of a study's name in the log, at most.
_MAX_NAME = 64
#: Under these names a message may carry the digest of the study manifest.
_MANIFEST_NAMES = ("manifest", "manifest-sha256", "manifest_sha256")
_DIGEST_CHARACTERS = 64
#: A deadline above it is none: a hundred years, in seconds.
_MOST_SECONDS = 100 * 366 * 86_400


@dataclass(frozen=True)
class MessageFacts:
    """Facts of one message from the coordinator.

    Attributes:
        kind: train, evaluate, query.hello, or a step of a secure sum such as query.shares.
        study: the study that the message's plan names; None if there is none.
        round: the round; None if the message names none.
        split: the split of an evaluation.
        plan: hex SHA-256 of the plan, as in the hospitals' statements.
        manifest: digest of the study manifest that the message names.
        deadline_s: the round's deadline that the plan states, in seconds.
    """

    kind: str
    study: str | None = None
    round: int | None = None
    split: str | None = None
    plan: str | None = None
    manifest: str | None = None
    deadline_s: float | None = None

    def fields(self) -> dict[str, str | int | None]:
        """Return the facts as fields of a line of the log."""
        return {
            "type": self.kind,
            "study": self.study,
            "round": self.round,
            "split": self.split,
            "plan": self.plan,
            "manifest": self.manifest,
        }

    @property
    def title(self) -> str:
        """The message in a few words, for the terminal."""
        return " ".join(
            [*([f"round {self.round}:"] if self.round is not None else []), self.kind, self.split or ""]
        ).strip()


def read_facts(message: Any) -> MessageFacts:
    """Return the facts of a Flower message. What it does not say, or says in another way, is None."""
    kind = printable(str(message.metadata.message_type), _MAX_NAME)
    settings: dict[str, Any] = {}
    for record in message.content.config_records.values() if message.has_content() else ():
        settings |= dict(record)
    text = settings.get("plan")
    plan = _parse_object(text) if isinstance(text, str) else None
    return MessageFacts(
        kind,
        study=_name(plan.get("study")) if plan else None,
        round=_whole(settings.get("server-round")),
        split=_name(settings.get("split")),
        plan=_digest(plan) if plan else None,
        manifest=next((_name(settings[name]) for name in _MANIFEST_NAMES if name in settings), None),
        deadline_s=_seconds(plan.get("deadline_s")) if plan else None,
    )


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _digest(values: dict[str, Any]) -> str:
    """Return the digest by which statements name a plan; of what is no plan, the digest of its JSON."""
    try:
        return plan_digest(build(Plan, values, "a message's plan"))
    except Exception:  # whatever a plan does to its reader, its message has a line in the log
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _name(value: Any) -> str | None:
    return printable(value, _DIGEST_CHARACTERS) if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer of JSON may be larger than any float, and `float` of it an error.
    return float(value) if is_number and 0 < value <= _MOST_SECONDS else None
