"""The parties of a run behind a Flower grid: who they are, and which of their replies may be aggregated.

Flower waits for an absent party without a time limit, and one malformed reply stops the run for everybody. Here every
wait has a deadline, and strategies receive only replies that were checked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from coordinator.exchange.plan import Plan
from coordinator.exchange.wire import DTYPES, apply_reply
from coordinator.model.metrics import check_tables
from crypto.arrays import Float32Array
from crypto.errors import CipherwardError

TRAIN_METRICS = frozenset({"num-examples", "loss", "steps", "seconds"})
EVALUATE_METRICS = frozenset({"num-examples", "accuracy", "loss", "auc", "auc-defined"})
#: The most images of a split that a party may claim.
MAX_IMAGES = 10**8
#: Seconds between two looks for replies, at first and at most. Looking costs the cores that a simulation trains on.
_POLL_S, _MAX_POLL_S = 0.05, 0.5


@dataclass(frozen=True)
class Party:
    """A party as it introduced itself.

    Attributes:
        node: its Flower node id.
        name: its name.
        about: its whole introduction: party, classes, spec and splits.
    """

    node: int
    name: str
    about: dict[str, Any]


class Federation:
    """The parties of one run, behind a Flower grid.

    Attributes:
        grid: Flower's messages.
        plan: all settings.
        base: the digest of the weights that are not sent (`base_digest` in coordinator/model/shares.py). Hospitals
            must have the same. "" if all weights are sent.
        parties: the parties so far, by node id.
    """

    def __init__(self, grid: Grid, plan: Plan) -> None:
        self.grid, self.plan = grid, plan
        self.base = ""
        self.parties: dict[int, Party] = {}

    def gather(self) -> list[Party]:
        """Wait for a quorum, at most until the deadline, and ask every new party who it is.

        Returns:
            All usable parties in order of their names.

        Raises:
            CipherwardError: if there are too few usable parties, or if their sealed sets do not belong together.
        """
        nodes = self._wait_for_quorum()
        questions = [
            Message(RecordDict({"config": ConfigRecord({})}), dst_node_id=node, message_type="query.hello")
            for node in nodes
            if node not in self.parties
        ]
        needed = self.plan.replies_needed
        replies, _ = self.collect(questions, quorum=max(0, needed - len(self.parties)))
        errors = []
        for node, reply in replies:
            about, error = parse_introduction(reply)
            if error:
                errors.append(error)
            else:
                self.parties[node] = Party(node, about["party"], about)
        known = sorted(self.parties.values(), key=lambda party: party.name)
        if len(known) < needed:
            raise CipherwardError(
                f"{len(known)} of {needed} parties are usable: {join_errors(errors)}",
                "see the parties' own logs",
            )
        _require_compatible(known)
        return known

    def _wait_for_quorum(self) -> list[int]:
        """Return the connected nodes as soon as they are a quorum. Raise CipherwardError at the deadline."""
        deadline, needed = time.monotonic() + self.plan.deadline_s, self.plan.replies_needed
        while len(nodes := list(self.grid.get_node_ids())) < needed:
            if time.monotonic() > deadline:
                raise CipherwardError(
                    f"{len(nodes)} of {needed} parties came within {self.plan.deadline_s:.0f} s",
                    "start the missing agents, or lower the quorum",
                )
            time.sleep(_POLL_S)
        return nodes

    def collect(
        self, messages: Sequence[Message], quorum: int
    ) -> tuple[list[tuple[int, Message]], list[int]]:
        """Send messages and collect the replies.

        It returns when all replies are in, when `quorum` replies without an error are in and the grace period is
        over, or at the deadline.

        Returns:
            (node, reply) in order of the parties' names, and the nodes that did not reply.
        """
        for message in messages:
            # A party that returns later must not train a round that is over.
            message.metadata.ttl = self.plan.deadline_s
        waiting = dict(
            zip(self.grid.push_messages(messages), (m.metadata.dst_node_id for m in messages), strict=True)
        )
        sent = dict(waiting)
        replies: list[tuple[int, Message]] = []
        start, quorum_time = time.monotonic(), None
        while waiting:
            for reply in self.grid.pull_messages(list(waiting)):
                # Errors made by Flower's server have the server's node id: use the message that they answer.
                waiting.pop(reply.metadata.reply_to_message_id, None)
                replies.append((sent[reply.metadata.reply_to_message_id], reply))
            now = time.monotonic()
            if quorum_time is None and sum(r.has_content() for _, r in replies) >= quorum:
                quorum_time = now
            grace_over = quorum_time is not None and now - quorum_time > self.plan.grace_s
            if now - start > self.plan.deadline_s or grace_over:
                break
            if waiting:
                # The longer the parties take, the rarer it looks.
                time.sleep(min(_MAX_POLL_S, max(_POLL_S, 0.05 * (now - start))))
        replies.sort(key=lambda pair: self.name(pair[0]))
        return replies, sorted(waiting.values())

    def message_config(self) -> dict[str, str]:
        """Return what every message to a party has: the plan, and the digest of the weights that are not sent."""
        return {"plan": self.plan.model_dump_json(), **({"base": self.base} if self.base else {})}

    def rows(self, node: int, split: str) -> int:
        """Return how many images of a split a party introduced itself with, 0 for an unknown node."""
        return int(self.parties[node].about["splits"][split]["rows"]) if node in self.parties else 0

    def name(self, node: int) -> str:
        """Return the name of a party, or a name made from the node id."""
        return self.parties[node].name if node in self.parties else f"node-{node}"


def _require_compatible(parties: Sequence[Party]) -> None:
    """Raise CipherwardError if two parties have the same name, or if classes or schemes differ."""
    names = [party.name for party in parties]
    if len(set(names)) < len(names):
        raise CipherwardError(
            f"two parties have the same name: {', '.join(names)}", "give each its own in party.yaml"
        )
    first = parties[0]
    for party in parties[1:]:
        for field in ("classes", "spec"):
            if party.about[field] != first.about[field]:
                raise CipherwardError(
                    f"{party.name} and {first.name} do not belong together: their {field} differ",
                    "seal with the same settings everywhere",
                )


def parse_introduction(reply: Message) -> tuple[dict[str, Any], str]:
    """Return what a party says of itself, and why that is impossible or ""."""
    if reply.has_error():
        return {}, f"error: {reply.error.reason}"
    try:
        about = json.loads(str(reply.content["about"]["json"]))
        name, classes = about["party"], about["classes"]
        rows = [about["splits"][split]["rows"] for split in ("train", "val", "test")]
        texts = [name, *classes]
        has_right_types = isinstance(about["spec"], dict) and isinstance(classes, list)
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}, "an introduction that cannot be read"
    if not has_right_types or not all(type(r) is int and 1 <= r <= MAX_IMAGES for r in rows):
        return {}, "an introduction with impossible values"
    if not all(isinstance(text, str) and 0 < len(text) < 200 for text in texts):
        return {}, "an introduction without valid names"
    return about, ""


def screen_training_reply(reply: Message, weights: Float32Array, wire: str, rows: int) -> str:
    """Return why a reply to training cannot be aggregated, or "" if it can.

    Args:
        reply: the reply.
        weights: the coordinator's own before the round, float32 [parameters].
        wire: the plan's `wire`.
        rows: the number of images that the party trains on.
    """
    error = _screen_records(reply, TRAIN_METRICS, 1, rows)
    if error:
        return error
    arrays = next(iter(reply.content.array_records.values()))
    if set(arrays) != {"model"}:
        return "unknown arrays"
    try:
        update = arrays["model"].numpy()
    except Exception:  # bytes from outside: NumPy's reader raises a dozen kinds of errors
        return "unreadable weights"
    if not isinstance(update, np.ndarray):
        return "unreadable weights"
    if update.shape != weights.shape or update.dtype != DTYPES[wire]:
        return f"weights of {update.dtype} {update.shape} instead of {DTYPES[wire]} {weights.shape}"
    if not np.isfinite(apply_reply(update, weights, wire)).all():
        return "weights that are not finite"
    return ""


def screen_evaluation_reply(reply: Message, classes: int, rows: int) -> str:
    """Return why a reply to evaluation does not count, or "" if it does.

    Args:
        reply: the reply.
        classes: the number of classes.
        rows: the number of images that the party evaluates.
    """
    error = _screen_records(reply, EVALUATE_METRICS, 0, rows) or check_tables(
        reply_tables(reply), classes, rows
    )
    if error:
        return error
    figures = {k: float(v) for k, v in next(iter(reply.content.metric_records.values())).items()}
    accuracy = np.trace(np.reshape(reply_tables(reply)["confusion"], (classes, classes))) / rows
    if abs(figures["accuracy"] - accuracy) > 0.5 / rows:
        return "an accuracy that its own table contradicts"
    if not (0 <= figures["auc"] <= 1 and figures["auc-defined"] in (0, 1) and figures["loss"] >= 0):
        return "an impossible AUC or loss"
    return ""


def reply_tables(reply: Message) -> dict[str, Any]:
    """Return the tables of a reply to evaluation, empty if it has none."""
    return dict(reply.content.config_records.get("tables", {}))


def _screen_records(reply: Message, metrics: frozenset[str], arrays: int, rows: int) -> str:
    """Return why the records of a reply are not those expected, or ""."""
    if reply.has_error():
        return f"error: {reply.error.reason}"
    content = reply.content
    if len(content.metric_records) != 1 or len(content.array_records) != arrays:
        return "wrong number of records"
    figures = next(iter(content.metric_records.values()))
    if set(figures) != metrics:
        return f"metrics {sorted(figures)} instead of {sorted(metrics)}"
    if not all(isinstance(v, int | float) and np.isfinite(v) for v in figures.values()):
        return "a metric is not a finite number"
    if figures["num-examples"] != rows:
        return f"{figures['num-examples']} examples instead of the {rows} of its introduction"
    return ""


def join_errors(errors: Iterable[str]) -> str:
    """Return the parties' error texts on one line, each cut to 200 characters."""
    return "; ".join(" ".join(e.split())[:200] for e in errors) or "no reason given"
