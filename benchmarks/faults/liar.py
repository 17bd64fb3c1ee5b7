"""A hospital whose own software damages its replies: the agent, with another damage in each answer.

    python -m benchmarks.faults.liar TOLD.jsonl join KIT HOSPITAL/

An approved bundle does not bind a hospital: it sends what it likes. Which damage went into the answer of which round
is added to TOLD.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from flwr.common.serde import message_from_proto, recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from benchmarks.faults.malformed import EVALUATION, TRAINING, Damage
from crypto.files import append_line
from parties.agent import executor
from parties.agent.message_facts import read_facts
from parties.agent.warm_client import Answer, WarmClient


def damage_content(content: bytes, damage: Damage) -> bytes | None:
    """Return a reply's serialized content with a damage; None if Flower's wire format cannot express it."""
    records: RecordDict = recorddict_from_proto(RecordDictProto.FromString(content))
    try:
        damage(records)
        return bytes(recorddict_to_proto(records).SerializeToString())
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
        return None


class _LyingClient(WarmClient):
    """A warm client whose answers are damaged on their way out."""

    told = Path()
    counts = {"train": 0, "evaluate": 0}  # noqa: RUF012 - shared by all clients of this process on purpose

    def answer(
        self, message: bytes, context: bytes, limit_s: float, tick: Callable[[], None] = lambda: None
    ) -> Answer:
        """Answer a message, and damage the reply."""
        answer = super().answer(message, context, limit_s, tick)
        facts = read_facts(message_from_proto(MessageProto.FromString(message))).fields()
        kinds: dict[str, dict[str, Damage]] = {"train": TRAINING, "evaluate": EVALUATION}
        # One lie a round, so that the journal tells of each: updates first, then evaluations.
        turn = "train" if self.counts["train"] < len(TRAINING) else "evaluate"
        if answer.error or facts.get("type") != turn:
            return answer
        return self._damage(answer, kinds[turn], facts)

    def _damage(self, answer: Answer, kinds: dict[str, Damage], facts: dict[str, Any]) -> Answer:
        names, sort = list(kinds), str(facts["type"])
        for _ in names:
            name = names[self.counts[sort] % len(names)]
            self.counts[sort] += 1
            content = damage_content(answer.content, kinds[name])
            if content is not None:
                line = {"round": facts.get("round"), "type": sort, "kind": name}
                append_line(self.told, json.dumps(line))
                return replace(answer, content=content)
        return answer


def main() -> None:
    """Run the hospital's command line with the client that lies."""
    from parties.cli.app import main as run

    _LyingClient.told = Path(sys.argv.pop(1))
    vars(executor)["WarmClient"] = _LyingClient
    run()


if __name__ == "__main__":
    main()
