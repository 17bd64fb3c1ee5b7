"""The round loop around a Flower strategy: quorum, deadline, screening, journal, checkpoint, resume.

Flower's own `strategy.start()` waits without end for absent parties, stops for everybody at one
malformed reply, lets NaN into the average and cannot resume. This loop uses only the strategies'
public configure_train, aggregate_train, configure_evaluate and aggregate_evaluate.

    cloud/rounds.jsonl            one line a round: who answered, who did not, bytes, seconds, figures
    cloud/checkpoint.safetensors  the weights after the last finished round, and the best on val so far
    cloud/updates/                the replies themselves, where the plan keeps them (coordinator/recording.py)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedMedian
from flwr.serverapp.strategy.strategy import Strategy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from coordinator.plan import Plan
from coordinator.recording import keep
from crypto.errors import CipherwardError
from crypto.files import append_line, write_bytes

STRATEGIES = {"fedavg": FedAvg, "fedmedian": FedMedian}
TRAIN_METRICS = frozenset({"num-examples", "loss", "steps", "seconds"})
EVALUATE_METRICS = frozenset({"num-examples", "accuracy", "loss", "auc", "auc-defined"})
_POLL_S, _RARELY_S = 0.05, 0.5


def strategy_of(plan: Plan) -> Strategy:
    """The plan's Flower strategy, asking every party that is there."""
    # Quorum and waiting are this loop's: Flower's own minimum has no deadline.
    built: Strategy = STRATEGIES[plan.strategy](
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
    )
    return built


@dataclass(frozen=True)
class Party:
    """A party as it introduced itself."""

    node: int
    name: str
    about: dict[str, Any]


@dataclass
class State:
    """What a checkpoint holds. weights and best: float32 [parameters]."""

    round: int
    weights: np.ndarray
    best: np.ndarray
    best_round: int
    best_val: float

    def save(self, path: Path) -> None:
        about = {"round": self.round, "best_round": self.best_round, "best_val": self.best_val}
        tensors = {"weights": self.weights, "best": self.best}
        data = save(tensors, metadata={"state": json.dumps(about)})
        write_bytes(path, data)

    @classmethod
    def load(cls, path: Path) -> State:
        try:
            with safe_open(str(path), framework="numpy") as file:
                about = json.loads(file.metadata()["state"])
                return cls(weights=file.get_tensor("weights"), best=file.get_tensor("best"), **about)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CipherwardError(
                f"the checkpoint {path} cannot be read: {type(error).__name__}",
                "remove it to train from the first round again",
            ) from None


class Federation:
    """The parties of one run, behind a Flower grid."""

    def __init__(self, grid: Grid, plan: Plan) -> None:
        self.grid, self.plan = grid, plan
        self.parties: dict[int, Party] = {}

    def gather(self) -> list[Party]:
        """Waits for a quorum, bounded by the deadline, and asks every new party who it is.

        Raises CipherwardError where too few come, or where their sealed sets do not belong together.
        """
        end = time.monotonic() + self.plan.deadline_s
        while len(nodes := list(self.grid.get_node_ids())) < self.plan.needed:
            if time.monotonic() > end:
                raise CipherwardError(
                    f"{len(nodes)} of {self.plan.needed} parties came within {self.plan.deadline_s:.0f} s",
                    "start the missing agents, or lower the quorum",
                )
            time.sleep(_POLL_S)
        new = [n for n in nodes if n not in self.parties]
        asked = [
            Message(RecordDict({"config": ConfigRecord({})}), dst_node_id=n, message_type="query.hello")
            for n in new
        ]
        replies, _ = self.collect(asked, quorum=max(0, self.plan.needed - len(self.parties)))
        for node, reply in replies:
            if reply.has_content():
                record = reply.content["about"]
                assert isinstance(record, ConfigRecord)
                about = json.loads(str(record["json"]))
                self.parties[node] = Party(node, str(about["party"]), about)
        known = sorted(self.parties.values(), key=lambda p: p.name)
        if len(known) < self.plan.needed:
            errors = [r.error.reason for _, r in replies if r.has_error()]
            raise CipherwardError(
                f"{len(known)} of {self.plan.needed} parties are usable: {short(errors)}",
                "see the parties' own logs",
            )
        names = [party.name for party in known]
        if len(set(names)) < len(names):
            raise CipherwardError(
                f"two parties have the same name: {', '.join(names)}", "give each its own in party.yaml"
            )
        for party in known[1:]:
            for what in ("classes", "spec"):
                if party.about[what] != known[0].about[what]:
                    raise CipherwardError(
                        f"{party.name} and {known[0].name} do not fit together: their {what} differ",
                        "seal with the same settings everywhere",
                    )
        return known

    def collect(
        self, messages: Sequence[Message], quorum: int
    ) -> tuple[list[tuple[int, Message]], list[int]]:
        """Sends, and gives ([(node, reply)], nodes without a reply) in order of the parties' names.

        Ends when all are in, when `quorum` good ones are in and the grace is over, or at the deadline.
        """
        for message in messages:
            message.metadata.ttl = self.plan.deadline_s  # a returning party must not train a stale round
        waiting = dict(
            zip(self.grid.push_messages(messages), (m.metadata.dst_node_id for m in messages), strict=True)
        )
        sent, replies = dict(waiting), []
        start, met = time.monotonic(), None
        while waiting:
            for reply in self.grid.pull_messages(list(waiting)):
                # Errors that Flower's server makes carry its own node id: go by the message answered.
                waiting.pop(reply.metadata.reply_to_message_id, None)
                replies.append((sent[reply.metadata.reply_to_message_id], reply))
            now = time.monotonic()
            if met is None and sum(r.has_content() for _, r in replies) >= quorum:
                met = now
            if now - start > self.plan.deadline_s or (met is not None and now - met > self.plan.grace_s):
                break
            if waiting:
                # Asking costs the cores that a simulation trains on: the longer it takes, the rarer.
                time.sleep(min(_RARELY_S, max(_POLL_S, 0.05 * (now - start))))
        replies.sort(key=lambda pair: self.name(pair[0]))
        return replies, sorted(waiting.values())

    def name(self, node: int) -> str:
        return self.parties[node].name if node in self.parties else f"node-{node}"


def screen(reply: Message, weights: np.ndarray | None, metrics: frozenset[str]) -> str:
    """Why a reply cannot be averaged, or "" where it can. Strategies see screened replies only."""
    if reply.has_error():
        return f"error: {reply.error.reason}"
    content = reply.content
    if len(content.metric_records) != 1 or len(content.array_records) != (weights is not None):
        return "wrong number of records"
    figures = next(iter(content.metric_records.values()))
    if set(figures) != metrics:
        return f"metrics {sorted(figures)} instead of {sorted(metrics)}"
    if not all(isinstance(v, int | float) and np.isfinite(v) for v in figures.values()):
        return "a metric is not a finite number"
    if not 1 <= float(figures["num-examples"]) <= 10**8:  # type: ignore[arg-type]
        return "an impossible number of examples"
    if weights is not None:
        arrays = next(iter(content.array_records.values()))
        if set(arrays) != {"model"}:
            return "unknown arrays"
        try:
            update = arrays["model"].numpy()
        except (ValueError, TypeError):
            return "unreadable weights"
        if update.shape != weights.shape or update.dtype != np.float32:
            return f"weights of {update.dtype} {update.shape} instead of float32 {weights.shape}"
        if not np.isfinite(update).all():
            return "weights that are not finite"
    return ""


def short(errors: Iterable[str]) -> str:
    """The parties' error texts on one line."""
    return "; ".join(" ".join(e.split())[:200] for e in errors) or "no reason given"


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
    config = ConfigRecord({"plan": plan.model_dump_json(), "best-round": state.best_round})
    arrays = ArrayRecord({"model": Array(state.weights)})
    messages = list(strategy.configure_train(number, arrays, config, grid))
    replies, absent = federation.collect(messages, plan.needed)
    reasons = {node: screen(reply, state.weights, TRAIN_METRICS) for node, reply in replies}
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
            named = ((federation.name(node), reply) for node, reply in replies if not reasons[node])
            keep(cloud, number, state.weights, {name: _update(reply) for name, reply in named})
        averaged, metrics = strategy.aggregate_train(number, good)
        assert averaged is not None
        # Some strategies answer in float64.
        weights = np.ascontiguousarray(averaged["model"].numpy(), np.float32)
        row["train"] = _plain(metrics)
        row["train_seconds"] = time.time() - started
        val = evaluate(strategy, federation, weights, number, "val")
        row["val"] = val["mean"]
        state.round, state.weights = number, weights
        if val["mean"]["accuracy"] >= state.best_val:
            state.best, state.best_round, state.best_val = weights, number, val["mean"]["accuracy"]
    row["seconds"] = time.time() - started
    return row


def _update(reply: Message) -> tuple[np.ndarray, int]:
    """(float32 [parameters], number of images) of a screened reply."""
    arrays = next(iter(reply.content.array_records.values()))
    metrics = next(iter(reply.content.metric_records.values()))
    return arrays["model"].numpy(), int(metrics["num-examples"])  # type: ignore[arg-type]


def evaluate(
    strategy: Strategy, federation: Federation, weights: np.ndarray, number: int, split: str
) -> dict[str, Any]:
    """Figures on a split that the parties hold: their mean by number of images, and one row a party."""
    plan = federation.plan
    config = ConfigRecord({"plan": plan.model_dump_json(), "split": split})
    arrays = ArrayRecord({"model": Array(weights)})
    messages = list(strategy.configure_evaluate(number, arrays, config, federation.grid))
    replies, _ = federation.collect(messages, plan.needed)
    good = [(n, r) for n, r in replies if not screen(r, None, EVALUATE_METRICS)]
    if len(good) < plan.needed:
        why = short(screen(r, None, EVALUATE_METRICS) for _, r in replies)
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
    return {"mean": figures, "parties": rows}


def _plain(metrics: MetricRecord | None) -> dict[str, float]:
    return {str(k): float(v) for k, v in dict(metrics or {}).items()}  # type: ignore[arg-type]
