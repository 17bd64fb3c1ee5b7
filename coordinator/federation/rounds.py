"""The round loop around a Flower strategy: quorum, deadline, screening, journal, checkpoint, resume.

Flower's own `strategy.start()` waits without end for absent parties, stops for everybody at one
malformed reply, lets NaN into the average and cannot resume. This loop uses only the strategies'
public configure_train, aggregate_train, configure_evaluate and aggregate_evaluate. Whatever travels
(coordinator/exchange/wire.py), strategies and records get float32 weights.

    cloud/rounds.jsonl            one line a round: who answered, who did not, bytes, seconds, figures
    cloud/checkpoint.safetensors  the weights after the last finished round, and the best on val so far
    cloud/updates/                the replies themselves, where the plan keeps them (coordinator/federation/recording.py)
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
from flwr.serverapp import Grid
from flwr.serverapp.strategy.strategy import Strategy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from coordinator.exchange.plan import Plan
from coordinator.exchange.wire import answered, encode, received
from coordinator.federation.participants import (
    Federation,
    screen_evaluated,
    screen_trained,
    short,
    tables_in,
)
from coordinator.federation.recording import keep
from coordinator.federation.strategies import moments_of, put_moments, strategy_of
from coordinator.model.metrics import pooled
from crypto.errors import CipherwardError
from crypto.files import append_line, write_bytes

_MOMENT = "moment/"


@dataclass
class State:
    """What a checkpoint holds. weights and best: float32 [parameters].

    moments: what the strategy carries from round to round, vectors by name (coordinator/federation/strategies.py).
    """

    round: int
    weights: np.ndarray
    best: np.ndarray
    best_round: int
    best_val: float
    moments: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        about = {"round": self.round, "best_round": self.best_round, "best_val": self.best_val}
        tensors = {"weights": self.weights, "best": self.best}
        tensors |= {_MOMENT + name: vector for name, vector in self.moments.items()}
        data = save(tensors, metadata={"state": json.dumps(about)})
        write_bytes(path, data)

    @classmethod
    def load(cls, path: Path) -> State:
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


def _bytes(messages: Iterable[Message]) -> int:
    records = [r for m in messages if m.has_content() for r in m.content.values()]
    return sum(r.count_bytes() for r in records)


def run_rounds(grid: Grid, plan: Plan, federation: Federation, weights: np.ndarray, cloud: Path) -> State:
    """Trains to the last round, from the checkpoint where there is one; returns the final state.

    weights: float32 [parameters], the initial model. Raises CipherwardError where a round stays below
    its quorum after all retries; what earlier rounds reached is kept.
    """
    strategy = strategy_of(plan)
    checkpoint, journal = cloud / "checkpoint.safetensors", cloud / "rounds.jsonl"
    state = State(0, weights, weights, 0, -1.0)
    if checkpoint.exists():
        state = State.load(checkpoint)
        if state.weights.shape != weights.shape:
            raise CipherwardError(f"{checkpoint} is of another model", "remove it to train anew")
        put_moments(strategy, state.moments)
    while state.round < plan.rounds:
        for attempt in range(plan.retries + 1):
            row = _round(strategy, federation, state, attempt, cloud)
            append_line(journal, json.dumps(row))
            if row["aggregated"]:
                break
        else:
            raise CipherwardError(
                f"round {state.round + 1}: fewer than {plan.needed} usable replies in "
                f"{plan.retries + 1} attempts ({short(row['refused'].values())})",
                f"see {journal}; run again to go on from round {state.round + 1}",
            )
        state.save(checkpoint)
    return state


def _round(
    strategy: Strategy, federation: Federation, state: State, attempt: int, cloud: Path
) -> dict[str, Any]:
    """One attempt at the next round; advances `state` where the quorum was reached."""
    started = time.time()
    number = state.round + 1
    plan, grid = federation.plan, federation.grid
    federation.gather()
    # The best round so far: hospitals that keep stems of their own keep that round's, for the test.
    config = ConfigRecord({**federation.told(), "best-round": state.best_round})
    arrays = ArrayRecord({"model": Array(state.weights)})
    messages = _on_the_wire(strategy.configure_train(number, arrays, config, grid), state.weights, plan)
    replies, absent = federation.collect(messages, plan.needed)
    reasons = {
        node: screen_trained(reply, state.weights, plan.wire, federation.rows(node, "train"))
        for node, reply in replies
    }
    good = [reply for node, reply in replies if not reasons[node]]
    row: dict[str, Any] = {
        "round": number,
        "attempt": attempt,
        "parties": [federation.name(node) for node, why in reasons.items() if not why],
        "absent": [federation.name(n) for n in absent],
        "refused": {federation.name(node): short([why]) for node, why in reasons.items() if why},
        "bytes_down": _bytes(messages),
        "bytes_up": _bytes(good),
        "aggregated": len(good) >= plan.needed,
    }
    if row["aggregated"]:
        if number <= plan.keep_updates:
            before = received(state.weights, plan.wire)
            named = ((federation.name(node), reply) for node, reply in replies if not reasons[node])
            keep(cloud, number, before, {name: _update(r, before, plan.wire) for name, r in named})
        for reply in good:
            weights, _ = _update(reply, state.weights, plan.wire)
            next(iter(reply.content.array_records.values()))["model"] = Array(weights)
        averaged, metrics = strategy.aggregate_train(number, good)
        assert averaged is not None
        # Some strategies answer in float64.
        weights = np.ascontiguousarray(averaged["model"].numpy(), np.float32)
        row["train"] = _plain(metrics)
        row["train_seconds"] = time.time() - started
        val = evaluate(strategy, federation, weights, number, "val")
        row["val"] = val["mean"]
        state.round, state.weights, state.moments = number, weights, moments_of(strategy)
        if val["mean"]["accuracy"] >= state.best_val:
            state.best, state.best_round, state.best_val = weights, number, val["mean"]["accuracy"]
    row["seconds"] = time.time() - started
    return row


def _on_the_wire(messages: Iterable[Message], weights: np.ndarray, plan: Plan) -> list[Message]:
    """A strategy's messages with the weights in the form that travels."""
    ready = list(messages)
    if plan.wire != "float32":
        arrays = ArrayRecord({"model": Array(encode(weights, plan.wire))})
        for message in ready:
            message.content["arrays"] = arrays
    return ready


def _update(reply: Message, weights: np.ndarray, wire: str) -> tuple[np.ndarray, int]:
    """(float32 [parameters], number of images) of a screened reply. weights: those that a difference is added to."""
    arrays = next(iter(reply.content.array_records.values()))
    metrics = next(iter(reply.content.metric_records.values()))
    after = answered(arrays["model"].numpy(), weights, wire)
    return after, int(metrics["num-examples"])  # type: ignore[arg-type]


def evaluate(
    strategy: Strategy, federation: Federation, weights: np.ndarray, number: int, split: str
) -> dict[str, Any]:
    """Figures on a split that the parties hold: their mean by number of images, a row a party, and pooled tables."""
    plan = federation.plan
    classes = len(next(iter(federation.parties.values())).about["classes"])
    config = ConfigRecord({**federation.told(), "split": split})
    arrays = ArrayRecord({"model": Array(weights)})
    messages = _on_the_wire(
        strategy.configure_evaluate(number, arrays, config, federation.grid), weights, plan
    )
    replies, _ = federation.collect(messages, plan.needed)
    reasons = [screen_evaluated(reply, classes, federation.rows(node, split)) for node, reply in replies]
    good = [pair for pair, why in zip(replies, reasons, strict=True) if not why]
    if len(good) < plan.needed:
        why = short(why for why in reasons if why)
        raise CipherwardError(f"only {len(good)} of {plan.needed} parties evaluated: {why}")
    mean = strategy.aggregate_evaluate(number, [r for _, r in good])
    rows: list[dict[str, Any]] = []
    defined: list[tuple[float, float]] = []
    for node, reply in good:
        seen = _plain(next(iter(reply.content.metric_records.values())))
        # AUC is not defined where a hospital lacks a class: such a hospital takes no part in the mean.
        if seen.pop("auc-defined"):
            defined.append((seen["num-examples"], seen["auc"]))
        else:
            seen.pop("auc")
        rows.append({"party": federation.name(node), "auc": None, **seen})
    figures: dict[str, float | None] = {k: v for k, v in _plain(mean).items() if k != "auc-defined"}
    total = sum(n for n, _ in defined)
    figures["auc"] = sum(n * auc for n, auc in defined) / total if defined else None
    return {"mean": figures, "parties": rows, **pooled([tables_in(reply) for _, reply in good])}


def _plain(metrics: MetricRecord | None) -> dict[str, float]:
    return {str(k): float(v) for k, v in dict(metrics or {}).items()}  # type: ignore[arg-type]
