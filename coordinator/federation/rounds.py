"""The round loop around a Flower strategy: quorum, deadline, screening, journal, checkpoint, resume.

Flower's own `strategy.start()` waits for absent parties without a time limit, stops for everybody at one malformed
reply, averages NaN and cannot resume. This loop uses only the strategies' public methods configure_train,
aggregate_train, configure_evaluate and aggregate_evaluate. Strategies and records always see float32 weights,
whatever the form on the wire (coordinator/exchange/wire.py).

    cloud/rounds.jsonl            a line per attempt at a round: who replied and who did not, bytes, seconds, figures
    cloud/checkpoint.safetensors  the weights after the last finished round, and those that are best on val so far
    cloud/updates/                the replies themselves, if the plan keeps them (coordinator/federation/recording.py)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy.strategy import Strategy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from coordinator.exchange.plan import Plan
from coordinator.exchange.wire import apply_reply, as_received, encode
from coordinator.federation.participants import (
    Federation,
    join_errors,
    reply_tables,
    screen_evaluation_reply,
    screen_training_reply,
)
from coordinator.federation.recording import record_updates
from coordinator.federation.strategies import build_strategy, get_moments, set_moments
from coordinator.model.metrics import pool_tables
from crypto.arrays import AnyArray, Float32Array
from crypto.errors import CipherwardError
from crypto.files import append_line, write_bytes

#: Prefix of the names of a strategy's moments in a checkpoint.
_MOMENT = "moment/"


@dataclass
class State:
    """The content of a checkpoint.

    Attributes:
        round: the last finished round.
        weights: the weights after it, float32 [parameters].
        best: the weights that are best on val so far, float32 [parameters].
        best_round: the round that they come from.
        best_val: their accuracy on val.
        moments: what the strategy carries from round to round, vectors by name (see strategies.py).
    """

    round: int
    weights: Float32Array
    best: Float32Array
    best_round: int
    best_val: float
    moments: dict[str, AnyArray] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        about = {"round": self.round, "best_round": self.best_round, "best_val": self.best_val}
        tensors = {"weights": self.weights, "best": self.best}
        tensors |= {_MOMENT + name: vector for name, vector in self.moments.items()}
        data = save(tensors, metadata={"state": json.dumps(about)})
        write_bytes(path, data)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a checkpoint. Raise CipherwardError if it is unreadable."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                about = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            weights, best = tensors.pop("weights"), tensors.pop("best")
            moments = {name.removeprefix(_MOMENT): vector for name, vector in tensors.items()}
            return cls(weights=weights, best=best, moments=moments, **about)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CipherwardError(
                f"the checkpoint {path} cannot be read: {type(error).__name__}",
                "remove it to train from the first round again",
            ) from None


def _count_bytes(messages: Iterable[Message]) -> int:
    """Return the bytes of all records of messages."""
    records = [r for m in messages if m.has_content() for r in m.content.values()]
    return sum(r.count_bytes() for r in records)


def run_rounds(federation: Federation, weights: Float32Array, cloud: Path) -> State:
    """Train to the last round, from the checkpoint if there is one, and return the final state.

    Args:
        federation: the parties, and the plan.
        weights: the initial model, float32 [parameters].
        cloud: the folder of journal, checkpoint and recorded updates.

    Raises:
        CipherwardError: if a round misses its quorum after all retries. Earlier rounds are kept.
    """
    plan = federation.plan
    strategy = build_strategy(plan)
    checkpoint, journal = cloud / "checkpoint.safetensors", cloud / "rounds.jsonl"
    state = State(0, weights, weights, 0, -1.0)
    if checkpoint.exists():
        state = State.load(checkpoint)
        if state.weights.shape != weights.shape:
            raise CipherwardError(f"{checkpoint} belongs to another model", "remove it to train anew")
        set_moments(strategy, state.moments)
    while state.round < plan.rounds:
        for attempt in range(plan.retries + 1):
            row = _attempt_round(strategy, federation, state, attempt, cloud)
            append_line(journal, json.dumps(row))
            if row["aggregated"]:
                break
        else:
            raise CipherwardError(
                f"round {state.round + 1}: fewer than {plan.replies_needed} usable replies in "
                f"{plan.retries + 1} attempts ({join_errors(row['refused'].values())})",
                f"see {journal}; run again to continue from round {state.round + 1}",
            )
        state.save(checkpoint)
    return state


def _attempt_round(
    strategy: Strategy, federation: Federation, state: State, attempt: int, cloud: Path
) -> dict[str, Any]:
    """Try the next round once, advance `state` if the quorum is reached, and return the line for the journal."""
    started = time.time()
    number = state.round + 1
    plan, grid = federation.plan, federation.grid
    federation.gather()
    # Hospitals that keep their own stems keep the stem of the best round too, for the test.
    config = ConfigRecord({**federation.message_config(), "best-round": state.best_round})
    arrays = ArrayRecord({"model": Array(state.weights)})
    messages = _encode_weights(strategy.configure_train(number, arrays, config, grid), state.weights, plan)
    replies, absent = federation.collect(messages, plan.replies_needed)
    errors = {
        node: screen_training_reply(reply, state.weights, plan.wire, federation.rows(node, "train"))
        for node, reply in replies
    }
    usable = [(federation.name(node), reply) for node, reply in replies if not errors[node]]
    row: dict[str, Any] = {
        "round": number,
        "attempt": attempt,
        "parties": [name for name, _ in usable],
        "absent": [federation.name(n) for n in absent],
        "refused": {federation.name(node): join_errors([why]) for node, why in errors.items() if why},
        "bytes_down": _count_bytes(messages),
        "bytes_up": _count_bytes(reply for _, reply in usable),
        "aggregated": len(usable) >= plan.replies_needed,
    }
    if row["aggregated"]:
        if number <= plan.keep_updates:
            before = as_received(state.weights, plan.wire)
            updates = {name: _read_update(reply, before, plan.wire) for name, reply in usable}
            record_updates(cloud, number, before, updates)
        usable_replies = [reply for _, reply in usable]
        weights, metrics = _aggregate(strategy, number, usable_replies, state.weights, plan.wire)
        row["train"] = _as_floats(metrics)
        row["train_seconds"] = time.time() - started
        val = evaluate(strategy, federation, weights, number, "val")
        row["val"] = val["mean"]
        state.round, state.weights, state.moments = number, weights, get_moments(strategy)
        if val["mean"]["accuracy"] >= state.best_val:
            state.best, state.best_round, state.best_val = weights, number, val["mean"]["accuracy"]
    row["seconds"] = time.time() - started
    return row


def _aggregate(
    strategy: Strategy, number: int, replies: list[Message], weights: Float32Array, wire: str
) -> tuple[Float32Array, MetricRecord | None]:
    """Return the aggregated weights, float32 [parameters], and the aggregated metrics of screened replies.

    weights: the coordinator's own before the round. The replies are decoded in place.
    """
    for reply in replies:
        after, _ = _read_update(reply, weights, wire)
        next(iter(reply.content.array_records.values()))["model"] = Array(after)
    averaged, metrics = strategy.aggregate_train(number, replies)
    assert averaged is not None
    # Some strategies return float64.
    return np.ascontiguousarray(averaged["model"].numpy(), np.float32), metrics


def _encode_weights(messages: Iterable[Message], weights: Float32Array, plan: Plan) -> list[Message]:
    """Return a strategy's messages with the weights in the form that the plan sends."""
    encoded = list(messages)
    if plan.wire != "float32":
        arrays = ArrayRecord({"model": Array(encode(weights, plan.wire))})
        for message in encoded:
            message.content["arrays"] = arrays
    return encoded


def _read_update(reply: Message, weights: Float32Array, wire: str) -> tuple[Float32Array, int]:
    """Return the trained weights, float32 [parameters], and the number of images of a screened reply.

    weights: those that a difference is added to.
    """
    arrays = next(iter(reply.content.array_records.values()))
    metrics = next(iter(reply.content.metric_records.values()))
    return apply_reply(arrays["model"].numpy(), weights, wire), int(metrics["num-examples"])


def evaluate(
    strategy: Strategy, federation: Federation, weights: Float32Array, number: int, split: str
) -> dict[str, Any]:
    """Let the parties evaluate weights on one of their splits.

    Args:
        strategy: selects the parties and averages their figures.
        federation: the parties.
        weights: float32 [parameters].
        number: the round.
        split: val or test.

    Returns:
        `mean`: figures weighted by number of images. `parties`: a row per party. And the pooled tables.

    Raises:
        CipherwardError: if fewer parties than the quorum send usable figures.
    """
    plan = federation.plan
    classes = len(next(iter(federation.parties.values())).about["classes"])
    config = ConfigRecord({**federation.message_config(), "split": split})
    arrays = ArrayRecord({"model": Array(weights)})
    messages = _encode_weights(
        strategy.configure_evaluate(number, arrays, config, federation.grid), weights, plan
    )
    replies, _ = federation.collect(messages, plan.replies_needed)
    errors = [
        screen_evaluation_reply(reply, classes, federation.rows(node, split)) for node, reply in replies
    ]
    usable = [pair for pair, why in zip(replies, errors, strict=True) if not why]
    if len(usable) < plan.replies_needed:
        reasons = join_errors(why for why in errors if why)
        raise CipherwardError(f"only {len(usable)} of {plan.replies_needed} parties evaluated: {reasons}")
    mean = strategy.aggregate_evaluate(number, [reply for _, reply in usable])
    rows: list[dict[str, Any]] = []
    defined: list[tuple[float, float]] = []
    for node, reply in usable:
        figures = _as_floats(next(iter(reply.content.metric_records.values())))
        # AUC is not defined if a hospital lacks a class. Such a hospital does not count in the mean.
        if figures.pop("auc-defined"):
            defined.append((figures["num-examples"], figures["auc"]))
        else:
            figures.pop("auc")
        rows.append({"party": federation.name(node), "auc": None, **figures})
    means: dict[str, float | None] = {k: v for k, v in _as_floats(mean).items() if k != "auc-defined"}
    total = sum(n for n, _ in defined)
    means["auc"] = sum(n * auc for n, auc in defined) / total if defined else None
    return {"mean": means, "parties": rows, **pool_tables([reply_tables(reply) for _, reply in usable])}


def _as_floats(metrics: MetricRecord | None) -> dict[str, float]:
    """Return a record of metrics as a dictionary of floats."""
    return {str(k): float(v) for k, v in dict(metrics or {}).items()}
