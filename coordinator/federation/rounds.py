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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy.strategy import Strategy
from safetensors import SafetensorError, safe_open

from coordinator.exchange.plan import Plan
from coordinator.exchange.wire import as_received, encode
from coordinator.federation.clipping import find_scales, scale_update, update_norm
from coordinator.federation.participants import Federation
from coordinator.federation.recording import record_updates
from coordinator.federation.reply_store import ReplyStore, StoredUpdates
from coordinator.federation.screening import (
    join_errors,
    reply_tables,
    screen_evaluation_reply,
    screen_training_reply,
)
from coordinator.federation.secure_rounds import sum_updates
from coordinator.federation.strategies import build_strategy, get_moments, set_moments, takes_mean
from coordinator.model.metrics import pool_tables
from crypto.arrays import AnyArray, BoolArray, Float32Array
from crypto.errors import CipherwardError
from crypto.files import append_line, parse_json, write_bytes
from crypto.tensor_file import tensor_bytes

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
        data_digest: what the rounds were trained on: the digest of the study manifest, or of all sealed sets of a
            training without hospitals. "" if that is not known.
    """

    round: int
    weights: Float32Array
    best: Float32Array
    best_round: int
    best_val: float
    moments: dict[str, AnyArray] = field(default_factory=dict)
    data_digest: str = ""

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        about: dict[str, Any] = {"round": self.round, "best_round": self.best_round}
        about |= {"best_val": self.best_val, "data_digest": self.data_digest}
        tensors = {"weights": self.weights, "best": self.best}
        tensors |= {_MOMENT + name: vector for name, vector in self.moments.items()}
        data = tensor_bytes(tensors, {"state": json.dumps(about, sort_keys=True)})
        write_bytes(path, data)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a checkpoint. Raise CipherwardError if it is unreadable."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                about = parse_json(file.metadata()["state"])
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


def run_rounds(
    federation: Federation, weights: Float32Array, cloud: Path, variances: BoolArray | None = None
) -> State:
    """Train to the last round, from the checkpoint if there is one, and return the final state.

    Args:
        federation: the parties, and the plan.
        weights: the initial model, float32 [parameters].
        cloud: the folder of journal, checkpoint and recorded updates.
        variances: bool [parameters], which of the weights are variances of batch normalisation. None: none are.

    Raises:
        CipherwardError: if a round misses its quorum after all retries. Earlier rounds are kept.
    """
    plan = federation.plan
    strategy = build_strategy(plan)
    checkpoint, journal = cloud / "checkpoint.safetensors", cloud / "rounds.jsonl"
    state = State(0, weights, weights, 0, -1.0, data_digest=federation.manifest.digest)
    if checkpoint.exists():
        state = State.load(checkpoint)
        if state.weights.shape != weights.shape:
            raise CipherwardError(f"{checkpoint} belongs to another model", "remove it to train anew")
        if state.data_digest != federation.manifest.digest:
            raise CipherwardError(
                f"the rounds in {checkpoint} were trained under another study manifest: with other keys, sets or "
                "hospitals",
                "put that study.json back to go on; or remove the folder's checkpoint and rounds to train anew",
            )
        set_moments(strategy, state.moments)
    while state.round < plan.rounds:
        for attempt in range(plan.retries + 1):
            with ReplyStore.open(cloud, plan.wire) as store:
                row = _attempt_round(strategy, federation, state, attempt, cloud, store, variances)
            append_line(journal, json.dumps(row))
            if row["aggregated"]:
                break
        else:
            raise CipherwardError(
                f"round {state.round + 1}: fewer than {plan.replies_needed} usable replies in "
                f"{plan.retries + 1} attempts ({_name_reasons(row['refused'])})",
                f"see {journal}; run again to continue from round {state.round + 1}",
            )
        state.save(checkpoint)
    return state


def _name_reasons(reasons: Mapping[str, str]) -> str:
    """Return the reasons of several hospitals on one line, each with the hospital's name."""
    return join_errors(f"{name}: {why}" for name, why in reasons.items())


def _attempt_round(
    strategy: Strategy,
    federation: Federation,
    state: State,
    attempt: int,
    cloud: Path,
    store: ReplyStore,
    variances: BoolArray | None,
) -> dict[str, Any]:
    """Try the next round once, advance `state` if the quorum is reached, and return the line for the journal."""
    started = time.monotonic()
    number, plan = state.round + 1, federation.plan
    federation.gather()
    # Hospitals that keep their own stems keep the stem of the best round too, for the test.
    config = ConfigRecord({**federation.message_config(), "best-round": state.best_round})
    arrays = ArrayRecord({"model": Array(state.weights)})
    messages = _encode_weights(
        strategy.configure_train(number, arrays, config, federation), state.weights, plan
    )
    if plan.sums_securely:
        row, replies = sum_updates(federation, messages, state.weights, number, cloud)
        metrics = replies[0].content.metric_records["metrics"] if replies else None
    else:
        row, replies, metrics = _collect_updates(
            strategy, federation, messages, state.weights, number, cloud, store
        )
    row = {"round": number, "attempt": attempt, **row}
    if row["aggregated"]:
        weights = _aggregate(strategy, number, replies, variances)
        row["train"] = _as_floats(metrics)
        row["train_seconds"] = time.monotonic() - started
        try:
            val = evaluate(strategy, federation, weights, number, "val")
        except CipherwardError as error:
            refused = federation.by_name(federation.refusals()) | row["refused"]
            failed = {**row, "refused": refused, "aggregated": False, "error": error.message}
            failed["seconds"] = time.monotonic() - started
            append_line(cloud / "rounds.jsonl", json.dumps(failed))
            raise
        row["val"] = val["mean"]
        row |= {f"evaluation_{way}": val[way] for way in ("bytes_down", "bytes_up")}
        refused = {name: f"at evaluation: {why}" for name, why in val["refused"].items()}
        row["refused"] = refused | row["refused"]
        state.round, state.weights, state.moments = number, weights, get_moments(strategy)
        if val["mean"]["accuracy"] >= state.best_val:
            state.best, state.best_round, state.best_val = weights, number, val["mean"]["accuracy"]
    # Last, so that it names who was refused while the round was made: a hospital that came after the quorum.
    row["refused"] = federation.by_name(federation.refusals()) | row["refused"]
    row["seconds"] = time.monotonic() - started
    return row


def _collect_updates(
    strategy: Strategy,
    federation: Federation,
    messages: list[Message],
    weights: Float32Array,
    number: int,
    cloud: Path,
    store: ReplyStore,
) -> tuple[dict[str, Any], list[Message], MetricRecord | None]:
    """Collect the updates of a round, and clip those that are too long.

    Args:
        strategy: says what it needs of the replies.
        federation: the parties.
        messages: the training messages, encoded.
        weights: the coordinator's own weights before the round, float32 [parameters].
        number: the round.
        cloud: where updates are recorded.
        store: keeps the replies' arrays on disk.

    Returns:
        A part of the journal's line; the replies that the strategy gets, with their weights, and the aggregated
        metrics, if the quorum is reached.
    """
    plan = federation.plan

    def screen(node: int, reply: Message) -> str:
        rows = federation.rows(node, "train")
        return screen_training_reply(reply, weights, plan.wire, rows, plan.privacy.is_on)

    replies = federation.collect(messages, plan.replies_needed, screen, store.keep)
    usable = {federation.name(node): (node, reply) for node, reply in replies.usable}
    row: dict[str, Any] = {
        "parties": list(usable),
        "absent": [federation.name(n) for n in replies.absent],
        "refused": federation.by_name(replies.refused),
        "clipped": {},
        "bytes_down": _count_bytes(messages),
        "bytes_up": sum(store.bytes[node] for node, _ in replies.usable),
        "aggregated": len(usable) >= plan.replies_needed,
    }
    if not row["aggregated"]:
        return row, [], None
    if number <= plan.keep_updates:
        before = as_received(weights, plan.wire)
        record_updates(cloud, number, before, StoredUpdates(store, usable, before))
    updates = StoredUpdates(store, usable, weights)
    scales, row["clipped"] = _find_scales(updates, weights, plan)
    answers = [reply for _, reply in usable.values()]
    metrics = strategy.train_metrics_aggr_fn([m.content for m in answers], strategy.weighted_by_key)
    if takes_mean(plan):
        # To these strategies, one reply with the mean is the same as all replies.
        answers, vectors = answers[:1], [updates.mean(scales)]
    else:
        vectors = [
            scale_update(after, weights, scales[name]) if name in scales else after
            for name, (after, _) in updates.items()
        ]
    for answer, vector in zip(answers, vectors, strict=True):
        next(iter(answer.content.array_records.values()))["model"] = Array(vector)
    return row, answers, metrics


def _find_scales(
    updates: StoredUpdates, weights: Float32Array, plan: Plan
) -> tuple[dict[str, float], dict[str, float]]:
    """Return by what the updates of a round that are too long are scaled, and how many times the median they were."""
    if not plan.max_update_norm:
        return {}, {}
    norms = {name: update_norm(after, weights) for name, (after, _) in updates.items()}
    return find_scales(norms, plan.max_update_norm)


def _aggregate(
    strategy: Strategy, number: int, replies: list[Message], variances: BoolArray | None
) -> Float32Array:
    """Return the weights that a strategy makes of replies, float32 [parameters], variances not below 0.

    Of a negative variance every output is not a number. One hospital could end the federation by it, with an update
    that is finite and no longer than others.
    """
    averaged, _ = strategy.aggregate_train(number, replies)
    assert averaged is not None
    # Some strategies return float64.
    weights = np.ascontiguousarray(averaged["model"].numpy(), np.float32)
    if not np.isfinite(weights).all():
        # Screened replies are finite and bounded; a strategy's own step may still diverge.
        raise CipherwardError(
            f"round {number}: the aggregated weights are not finite", "set a lower lr or server_lr"
        )
    if variances is not None:
        weights = np.where(variances, np.maximum(weights, 0), weights)
    return weights


def _encode_weights(messages: Iterable[Message], weights: Float32Array, plan: Plan) -> list[Message]:
    """Return a strategy's messages with the weights in the form that the plan sends."""
    encoded = list(messages)
    if plan.wire != "float32":
        arrays = ArrayRecord({"model": Array(encode(weights, plan.wire))})
        for message in encoded:
            message.content["arrays"] = arrays
    return encoded


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
        `mean`: figures weighted by number of images. `parties`: a row per party. `refused`: why the figures of a
        party do not count, by name. `bytes_down`, `bytes_up`: bytes of the records that were sent, and of those
        that came back and were usable. And the pooled tables.

    Raises:
        CipherwardError: if fewer parties than the quorum send usable figures, in all attempts.
    """
    for _ in range(federation.plan.retries):
        try:
            return _evaluate_once(strategy, federation, weights, number, split)
        except CipherwardError as error:
            print(f"{error.message}; asking again", flush=True)
            federation.gather()  # hospitals that are away may come back under another node id
    return _evaluate_once(strategy, federation, weights, number, split)


def _evaluate_once(
    strategy: Strategy, federation: Federation, weights: Float32Array, number: int, split: str
) -> dict[str, Any]:
    """Ask the parties once for what `evaluate` returns. Raises what it raises."""
    plan = federation.plan
    classes = len(next(iter(federation.parties.values())).about["classes"])
    config = ConfigRecord({**federation.message_config(), "split": split})
    arrays = ArrayRecord({"model": Array(weights)})
    messages = _encode_weights(
        strategy.configure_evaluate(number, arrays, config, federation), weights, plan
    )

    def screen(node: int, reply: Message) -> str:
        return screen_evaluation_reply(reply, classes, federation.rows(node, split))

    replies = federation.collect(messages, plan.replies_needed, screen)
    # Whoever gave no figures is named as well: the mean is over the others.
    missing = {**replies.refused, **dict.fromkeys(replies.absent, "no answer")}
    usable, refused = replies.usable, federation.by_name(missing)
    if len(usable) < plan.replies_needed:
        raise CipherwardError(
            f"only {len(usable)} of {plan.replies_needed} parties evaluated round {number} on {split}: "
            f"{_name_reasons(refused)}",
            "mend that and run again, or set a quorum: then the others go on",
        )
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
    tables = pool_tables([reply_tables(reply) for _, reply in usable])
    traffic = {"bytes_down": _count_bytes(messages), "bytes_up": _count_bytes(r for _, r in usable)}
    return {"mean": means, "parties": rows, "refused": refused, **traffic, **tables}


def _as_floats(metrics: MetricRecord | None) -> dict[str, float]:
    """Return a record of metrics as a dictionary of floats."""
    return {str(k): float(v) for k, v in dict(metrics or {}).items()}
