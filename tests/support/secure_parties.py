"""Hospitals of a secure sum behind a grid in the test's process. Each adds a number of its own to every weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from coordinator.exchange.introduction import sign_introduction
from coordinator.exchange.secure_sum import (
    ATTEMPT,
    RECORD,
    SumSettings,
    encode_update,
    model_digest,
    read_bytes_map,
    read_record,
    settings_text,
    write_record,
)
from crypto.secure_sum.member import Member
from crypto.secure_sum.transcript import RoundId, RoundKeys
from tests.support.fake_parties import introduction, party_tables, plan
from tests.support.manifests import identity_of, manifest_of

STEPS = ("train", "shares", "masked", "confirm", "reveal")
_Answer = Callable[[int, dict[str, Any]], dict[str, Any]]
_ABOUT = frozenset({"study", "round", "attempt"})


class SecureParties:
    """Fake hospitals p0, p1, … with 10·(i+1) images; party i adds (i+1)/100 to every weight."""

    def __init__(self, count: int) -> None:
        least = {"min_sum": 2 * count // 3 + 1, "secure_aggregation": True}
        settings: dict[str, Any] = {"parties": count, "counts": (1000, 1000, 1000), "privacy": least}
        # More than two thirds of the hospitals are enough.
        self.plan = plan(**settings, quorum=least["min_sum"], grace_s=0.1, deadline_s=3.0)
        self.manifest = manifest_of(self.plan)
        self.identities = [identity_of(f"p{i}") for i in range(count)]
        self.settings = SumSettings.of(self.manifest, self.plan.privacy)
        self.members: dict[int, Member] = {}
        self.vectors: dict[int, Any] = {}
        #: The step from which on a party does not answer.
        self.dies: dict[int, str] = {}

    def app(self) -> ClientApp:
        """Return the app of all of them."""
        app, rules, point = ClientApp(), self.settings.rules, self.settings.point

        @app.query("hello")  # type: ignore[untyped-decorator]  # flwr is untyped here
        def hello(message: Message, context: Context) -> Message:
            party = int(context.node_config["partition-id"])
            about = introduction(self.plan, self.manifest.digest, f"p{party}", context)
            content = {"about": ConfigRecord(sign_introduction(self.identities[party], about))}
            return Message(RecordDict(content), reply_to=message)

        @app.train()  # type: ignore[untyped-decorator]  # flwr is untyped here
        def train(message: Message, context: Context) -> Message:
            party = self._note(context, "train")
            words, config = message.content["arrays"]["model"].numpy(), message.content["config"]
            digest = model_digest(words, settings_text(config))
            round_id = RoundId(
                self.manifest.digest, int(config["server-round"]), str(config[ATTEMPT]), digest
            )
            self.members[party] = Member.start(self.identities[party], round_id)
            update = np.full(words.size, (party + 1) / 100, np.float32)
            weight = self.settings.weights[f"p{party}"]
            self.vectors[party], _ = encode_update(update, 0.5 * (party + 1), weight, point)
            figures = {"num-examples": 10 * (party + 1), "steps": 2, "seconds": 0.1}
            keys = {"keys": self.members[party].keys().to_json()}
            content = {"metrics": MetricRecord(figures), RECORD: write_record(keys)}
            return Message(RecordDict(content), reply_to=message)

        def step(name: str, *fields: str) -> Callable[[_Answer], _Answer]:
            def register(answer: _Answer) -> _Answer:
                @app.query(name)  # type: ignore[untyped-decorator]  # flwr is untyped here
                def query(message: Message, context: Context) -> Message:
                    party = self._note(context, name)
                    about = read_record(message.content, _ABOUT | set(fields))
                    return Message(RecordDict(answer(party, about)), reply_to=message)

                return answer

            return register

        @step("shares", "keys")
        def shares(party: int, about: dict[str, Any]) -> dict[str, Any]:
            keys = {name: RoundKeys.from_json(value) for name, value in about["keys"].items()}
            return {RECORD: write_record({"shares": self.members[party].share(keys, rules)})}

        @step("masked", "shares")
        def masked(party: int, about: dict[str, Any]) -> dict[str, Any]:
            incoming = read_bytes_map(about["shares"])
            vector, unopened = self.members[party].mask(incoming, self.vectors[party], rules)
            return {
                "arrays": ArrayRecord({"model": Array(vector)}),
                RECORD: write_record({"unopened": unopened}),
            }

        @step("confirm", "survivors")
        def confirm(party: int, about: dict[str, Any]) -> dict[str, Any]:
            member = self.members[party]
            signature = member.confirm(about["survivors"], self.identities[party], rules)
            return {RECORD: write_record({"signature": signature})}

        @step("reveal", "signatures")
        def reveal(party: int, about: dict[str, Any]) -> dict[str, Any]:
            shown = self.members[party].reveal(read_bytes_map(about["signatures"]), rules)
            value = {"self_masks": dict(shown.self_masks), "mask_keys": dict(shown.mask_keys)}
            return {RECORD: write_record(value)}

        @app.evaluate()  # type: ignore[untyped-decorator]  # flwr is untyped here
        def evaluate(message: Message, context: Context) -> Message:
            party = int(context.node_config["partition-id"])
            n = 10 * (party + 1)
            figures = {"num-examples": n, "accuracy": 1.0, "loss": 0.1, "auc": 0.5, "auc-defined": 1}
            content = {"metrics": MetricRecord(figures), "tables": ConfigRecord(party_tables(party, n))}
            return Message(RecordDict(content), reply_to=message)

        return app

    def _note(self, context: Context, step: str) -> int:
        party = int(context.node_config["partition-id"])
        if party in self.dies and STEPS.index(step) >= STEPS.index(self.dies[party]):
            raise RuntimeError("dead")
        return party
