"""The parties of a run behind a Flower grid: who they are, what they answer, and what of it is fit to be averaged.

Flower waits without end for an absent party and stops for everybody at one malformed reply; here every wait
is bounded, and strategies see screened replies only.
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
from coordinator.exchange.wire import DTYPES, answered
from coordinator.model.metrics import check
from crypto.errors import CipherwardError

TRAIN_METRICS = frozenset({"num-examples", "loss", "steps", "seconds"})
EVALUATE_METRICS = frozenset({"num-examples", "accuracy", "loss", "auc", "auc-defined"})
MOST = 10**8  # images of a split that a party may say to hold
_POLL_S, _RARELY_S = 0.05, 0.5


@dataclass(frozen=True)
class Party:
    """A party as it introduced itself."""

    node: int
    name: str
    about: dict[str, Any]


class Federation:
    """The parties of one run, behind a Flower grid."""

    def __init__(self, grid: Grid, plan: Plan) -> None:
        self.grid, self.plan = grid, plan
        self.base = ""  # coordinator/model/shares.py: what hospitals have of the encoder must be this
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
        unfit = []
        for node, reply in replies:
            about, why = introduced(reply)
            if why:
                unfit.append(why)
            else:
                self.parties[node] = Party(node, about["party"], about)
        known = sorted(self.parties.values(), key=lambda p: p.name)
        if len(known) < self.plan.needed:
            raise CipherwardError(
                f"{len(known)} of {self.plan.needed} parties are usable: {short(unfit)}",
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

    def told(self) -> dict[str, str]:
        """What goes with every message to a party: the plan, and what it must have beside what travels."""
        return {"plan": self.plan.model_dump_json(), **({"base": self.base} if self.base else {})}

    def rows(self, node: int, split: str) -> int:
        """The images of a split that a party introduced itself with."""
        return int(self.parties[node].about["splits"][split]["rows"]) if node in self.parties else 0

    def name(self, node: int) -> str:
        return self.parties[node].name if node in self.parties else f"node-{node}"


def introduced(reply: Message) -> tuple[dict[str, Any], str]:
    """(what a party says of itself, why that cannot be so or "")."""
    if reply.has_error():
        return {}, f"error: {reply.error.reason}"
    try:
        about = json.loads(str(reply.content["about"]["json"]))  # type: ignore[index, call-overload]
        name, classes = about["party"], about["classes"]
        rows = [about["splits"][split]["rows"] for split in ("train", "val", "test")]
        texts = [name, *classes]
        sound = isinstance(about["spec"], dict) and isinstance(classes, list)
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}, "an introduction that cannot be read"
    if not sound or not all(type(r) is int and 1 <= r <= MOST for r in rows):
        return {}, "an introduction that cannot be so"
    if not all(isinstance(text, str) and 0 < len(text) < 200 for text in texts):
        return {}, "an introduction without names"
    return about, ""


def screen_trained(reply: Message, weights: np.ndarray, wire: str, rows: int) -> str:
    """Why a reply to training cannot be averaged, or "" where it can.

    weights: float32 [parameters], the coordinator's own before the round. rows: the images that the party trains on.
    """
    why = _screen(reply, TRAIN_METRICS, 1, rows)
    if why:
        return why
    arrays = next(iter(reply.content.array_records.values()))
    if set(arrays) != {"model"}:
        return "unknown arrays"
    try:
        update = arrays["model"].numpy()
    except Exception:  # bytes from outside, read by NumPy's format: it raises a dozen kinds
        return "unreadable weights"
    if not isinstance(update, np.ndarray):
        return "unreadable weights"
    if update.shape != weights.shape or update.dtype != DTYPES[wire]:
        return f"weights of {update.dtype} {update.shape} instead of {DTYPES[wire]} {weights.shape}"
    if not np.isfinite(answered(update, weights, wire)).all():
        return "weights that are not finite"
    return ""


def screen_evaluated(reply: Message, classes: int, rows: int) -> str:
    """Why a reply to evaluation does not count, or "" where it does. rows: the images that the party evaluates."""
    why = _screen(reply, EVALUATE_METRICS, 0, rows) or check(tables_in(reply), classes, rows)
    if why:
        return why
    figures = {k: float(v) for k, v in next(iter(reply.content.metric_records.values())).items()}  # type: ignore[arg-type]
    right = np.trace(np.reshape(tables_in(reply)["confusion"], (classes, classes))) / rows
    if abs(figures["accuracy"] - right) > 0.5 / rows:
        return "an accuracy that its own table contradicts"
    if not (0 <= figures["auc"] <= 1 and figures["auc-defined"] in (0, 1) and figures["loss"] >= 0):
        return "an AUC or a loss that no images give"
    return ""


def tables_in(reply: Message) -> dict[str, Any]:
    """The tables of a reply to evaluation; empty where it has none."""
    return dict(reply.content.config_records.get("tables", {}))


def _screen(reply: Message, metrics: frozenset[str], arrays: int, rows: int) -> str:
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
        return f"{figures['num-examples']} examples instead of the {rows} that it introduced itself with"
    return ""


def short(errors: Iterable[str]) -> str:
    """The parties' error texts on one line."""
    return "; ".join(" ".join(e.split())[:200] for e in errors) or "no reason given"
