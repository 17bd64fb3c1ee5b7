"""The cloud's side of a round under secure aggregation: five exchanges, and the mean of those who stayed.

The cloud learns the sum of at least `threshold` updates, and no update alone. What it can check without seeing one is
little: that a vector has the right length, and that its hospital is of the roster. A hospital clips its own update; a
hospital that lies can still shift the mean, because no proof of the norm is made.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from coordinator.exchange.secure_sum import (
    ATTEMPT,
    RECORD,
    SumSettings,
    decode_mean,
    model_digest,
    read_bytes_map,
    read_record,
    settings_text,
    vector_length,
    write_record,
)
from coordinator.exchange.wire import decode, encode
from coordinator.federation.participants import Federation, Replies
from coordinator.federation.recording import record_sum
from coordinator.federation.screening import read_shape
from crypto.arrays import AnyArray, Float32Array, UInt32Array
from crypto.errors import CipherwardError
from crypto.secure_sum.collector import Collector, weight_sum
from crypto.secure_sum.member import Revelation
from crypto.secure_sum.transcript import RoundId, RoundKeys, Rules

#: Figures of a training reply that stay open under secure aggregation. Under differential privacy the seconds are
#: left out: they depend on how many images were drawn.
OPEN_METRICS = frozenset({"num-examples", "steps", "seconds"})
_TIMELESS = OPEN_METRICS - {"seconds"}
_MASKED_DTYPE = np.dtype(np.uint32)


@dataclass
class SecureOutcome:
    """What came of one attempt.

    Attributes:
        update: the mean update, float32 [parameters], or None if the attempt failed.
        loss: the mean training loss, weighted by images.
        clipped_share: the mean share of values that hospitals clipped.
        parties: whose updates are in the mean.
        refused: why the answer of a hospital could not be used, by name.
        absent: who did not answer, by name.
        seconds: wall seconds of each exchange, by its name.
        bytes_down: what was sent.
        bytes_up: what came back.
        masked: the masked vectors, if they are to be recorded.
        total: the unmasked sum, uint32 [parameters + 2].
        error: why the attempt failed, or "".
    """

    update: Float32Array | None = None
    loss: float = float("nan")
    clipped_share: float = 0.0
    parties: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    masked: dict[str, UInt32Array] = field(default_factory=dict)
    total: UInt32Array | None = None
    error: str = ""


def sum_updates(
    federation: Federation, messages: Sequence[Message], weights: Float32Array, number: int, cloud: Path
) -> tuple[dict[str, Any], list[Message]]:
    """Run one attempt; return part of the journal's line, and one reply that stands for the mean of all updates.

    Args:
        federation: the parties.
        messages: the training messages, encoded.
        weights: the coordinator's own weights before the round, float32 [parameters].
        number: the round.
        cloud: where what the cloud saw is recorded.
    """
    plan = federation.plan
    settings = SumSettings.of(federation.manifest, plan.privacy)
    words = encode(weights, plan.wire)
    keeps = number <= plan.keep_updates
    outcome = attempt_secure_round(federation, settings, messages, words, number, keeps)
    row: dict[str, Any] = {
        "parties": outcome.parties,
        "absent": sorted(set(outcome.absent) - set(outcome.parties)),
        "refused": dict(outcome.refused),
        "clipped": {},
        "summed": {
            "clipped_share": outcome.clipped_share,
            "error": outcome.error,
            "seconds": outcome.seconds,
        },
        "bytes_down": outcome.bytes_down,
        "bytes_up": outcome.bytes_up,
        "aggregated": outcome.update is not None,
    }
    if outcome.update is None:
        row["refused"] |= {"secure aggregation": outcome.error}
        return row, []
    images = {name: settings.images[name] for name in outcome.parties}
    if keeps:
        before = decode(words, plan.wire)
        record_sum(cloud, number, before, before + outcome.update, images, outcome.masked)
    metrics: dict[str, int | float] = {"num-examples": sum(images.values())}
    if not plan.privacy.is_on:
        metrics["loss"] = outcome.loss
    content = {
        "arrays": ArrayRecord({"model": Array(weights + outcome.update)}),
        "metrics": MetricRecord(metrics),
    }
    return row, [Message(RecordDict(content), dst_node_id=1, message_type="train")]


def attempt_secure_round(
    federation: Federation,
    settings: SumSettings,
    messages: Sequence[Message],
    words: AnyArray,
    round_: int,
    keeps_masked: bool,
) -> SecureOutcome:
    """Run one attempt at a round.

    Args:
        federation: the parties.
        settings: roster, images and clip.
        messages: the training messages, with the model encoded; the attempt's name is added to them.
        words: the encoded model, as every message carries it.
        round_: the round, from 1.
        keeps_masked: keep the masked vectors, which the cloud sees anyway, for the record.
    """
    asked = settings_text(messages[0].content["config"]) if messages else ""  # the same for all
    round_id = RoundId(settings.study, round_, secrets.token_hex(16), model_digest(words, asked))
    collector = Collector(round_id, vector_length(words.size), settings.rules)
    exchange = _Exchange(federation, settings.rules, round_id, SecureOutcome())
    outcome = exchange.outcome
    try:
        for message in messages:
            message.content["config"][ATTEMPT] = round_id.attempt
        exchange.send(messages, lambda name, reply: _take_keys(collector, settings, name, reply))
        keys = {name: entry.to_json() for name, entry in collector.close_keys().items()}
        exchange.ask(
            "shares",
            {key: {"keys": keys} for key in keys},
            lambda name, reply: _take_shares(collector, name, reply),
        )
        shares = collector.close_shares()

        def take_vector(name: str, reply: Message) -> None:
            vector = _take_vector(collector, name, reply)
            if keeps_masked:
                outcome.masked[name] = vector

        exchange.ask("masked", {name: {"shares": s} for name, s in shares.items()}, take_vector)
        survivors = collector.close_vectors()
        exchange.ask(
            "confirm",
            {key: {"survivors": survivors} for key in survivors},
            lambda name, reply: collector.add_signature(name, _read_signature(reply)),
        )
        signatures = collector.close_signatures()
        exchange.ask(
            "reveal",
            {key: {"signatures": signatures} for key in signatures},
            lambda name, reply: collector.add_revelation(name, _read_revelation(reply)),
        )
        outcome.total = collector.unmask()
    except CipherwardError as error:
        outcome.error = error.message
        _refuse_accused(federation, collector)
        return outcome
    outcome.parties = survivors
    weights = weight_sum(settings.weights, survivors)
    mean, outcome.loss, outcome.clipped_share = decode_mean(outcome.total, weights, settings.point)
    outcome.update = mean.astype(np.float32)
    return outcome


def _refuse_accused(federation: Federation, collector: Collector) -> None:
    """Refuse a hospital for the run if most of the others could not open its shares. One accuser is not believed."""
    for sender, names in collector.complaints.items():
        if len(names) >= 2 and 2 * len(names) > len(collector.shares) - 1:
            federation.expel(sender, f"it sent shares that {len(names)} hospitals cannot open")


class _Exchange:
    """Messages to hospitals by name, and their answers, each checked as it comes."""

    def __init__(
        self, federation: Federation, rules: Rules, round_id: RoundId, outcome: SecureOutcome
    ) -> None:
        self._federation, self._round_id, self.outcome = federation, round_id, outcome
        self._needed = max(rules.threshold, federation.plan.replies_needed)
        self._nodes: dict[str, int] = {}

    def send(
        self, messages: Sequence[Message], take: Callable[[str, Message], None], action: str = "train"
    ) -> Replies:
        """Send messages and give each good answer to `take`, which raises CipherwardError for a bad one."""
        started = time.perf_counter()
        federation = self._federation
        self._nodes |= {federation.name(m.metadata.dst_node_id): m.metadata.dst_node_id for m in messages}

        def screen(node: int, reply: Message) -> str:
            if reply.has_error():
                return f"error: {reply.error.reason}"
            self.outcome.bytes_up += _count(reply)
            try:
                take(federation.name(node), reply)
            except CipherwardError as error:
                return error.message
            for name in list(reply.content.array_records):
                del reply.content[name]  # summed already: many vectors at once would fill the memory
            return ""

        self.outcome.bytes_down += sum(_count(m) for m in messages)
        replies = federation.collect(messages, self._needed, screen)
        self.outcome.seconds[action] = time.perf_counter() - started
        self.outcome.refused |= federation.by_name(replies.refused)
        self.outcome.absent += [federation.name(node) for node in replies.absent]
        return replies

    def ask(
        self, action: str, contents: Mapping[str, Mapping[str, Any]], take: Callable[[str, Message], None]
    ) -> Replies:
        """Send each hospital a step of the protocol."""
        about = {
            "study": self._round_id.study,
            "round": self._round_id.round,
            "attempt": self._round_id.attempt,
        }
        messages = [
            Message(
                RecordDict({RECORD: write_record({**about, **content}), "config": ConfigRecord({})}),
                dst_node_id=self._nodes[name],
                message_type=f"query.{action}",
            )
            for name, content in sorted(contents.items())
        ]
        return self.send(messages, take, action)


def _count(message: Message) -> int:
    """Return the bytes of a message's records."""
    return sum(record.count_bytes() for record in message.content.values())


def _take_keys(collector: Collector, settings: SumSettings, name: str, reply: Message) -> None:
    """Check a training reply, which has no weights, and take its round keys."""
    records = reply.content.metric_records
    if len(records) != 1 or not _TIMELESS <= set(figures := next(iter(records.values()))) <= OPEN_METRICS:
        raise CipherwardError("wrong figures in a reply under secure aggregation")
    if reply.content.array_records:
        raise CipherwardError("weights that were not asked for")
    if figures["num-examples"] != settings.images.get(name):
        raise CipherwardError(
            f"{figures['num-examples']} examples instead of the {settings.images.get(name)} agreed"
        )
    collector.add_keys(name, RoundKeys.from_json(read_record(reply.content, frozenset({"keys"}))["keys"]))


def _take_shares(collector: Collector, name: str, reply: Message) -> None:
    collector.add_shares(name, read_bytes_map(read_record(reply.content, frozenset({"shares"}))["shares"]))


def _take_vector(collector: Collector, name: str, reply: Message) -> UInt32Array:
    """Add a masked vector to the sum, and return it."""
    arrays: Mapping[str, Array] = next(iter(reply.content.array_records.values()), {})
    if set(arrays) != {"model"}:
        raise CipherwardError("no masked vector")
    array = arrays["model"]
    if read_shape(array) != ((collector.length,), _MASKED_DTYPE):
        raise CipherwardError(f"{name} sent a masked vector of another length or type")
    try:
        vector: UInt32Array = array.numpy()
    except Exception:  # bytes from outside: NumPy's reader raises a dozen kinds of errors
        raise CipherwardError(f"{name} sent an unreadable vector") from None
    unopened = read_record(reply.content, frozenset({"unopened"}))["unopened"]
    if not isinstance(unopened, list) or not all(isinstance(other, str) for other in unopened):
        raise CipherwardError("a malformed list of shares that cannot be opened")
    collector.add_vector(name, vector, unopened)
    return vector


def _read_signature(reply: Message) -> bytes:
    value = read_record(reply.content, frozenset({"signature"}))
    return read_bytes_map({"signature": value["signature"]}, 64)["signature"]


def _read_revelation(reply: Message) -> Revelation:
    value = read_record(reply.content, frozenset({"self_masks", "mask_keys"}))
    return Revelation(read_bytes_map(value["self_masks"], 32), read_bytes_map(value["mask_keys"], 32))
