"""Parties that add a number to every weight, behind a grid in the test's process, and the journal of their rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from coordinator.exchange.plan import Plan
from tests.support.local_grid import LocalGrid

Tamper = Callable[[int, Message], Message]


def party_tables(party: int, correct: int) -> dict[str, list[int] | list[float]]:
    """Return tables of 10·(party+1) images of the first class, `correct` of them classified so, confidence 0.95."""
    n = 10 * (party + 1)
    bins = [0] * 9
    return {
        "confusion": [correct, n - correct, 0, 0],
        "bin_counts": [*bins, n],
        "bin_hits": [*bins, correct],
        "bin_confidence": [0.0] * 9 + [0.95 * n],
    }


def parties(record: dict[str, Any] | None = None) -> ClientApp:
    """Return parties that add (partition id + 1) to every weight. Party i has 10·(i+1) images.

    record: gets the rounds and best rounds that the parties receive. Its `about` and `peak` change their answers.
    """
    app = ClientApp()
    record = record if record is not None else {}

    @app.query("hello")  # type: ignore[untyped-decorator]  # flwr is untyped here
    def hello(message: Message, context: Context) -> Message:
        party = int(context.node_config["partition-id"])
        about: dict[str, Any] = {"party": f"p{party}", "classes": ["a", "b"]}
        about["spec"] = plan().describe().to_json() | {"options": {}}
        rows = 10 * (party + 1)
        about["splits"] = {split: {"rows": rows} for split in ("train", "val", "test")}
        about |= record.get("about", {}).get(party, {})
        return Message(RecordDict({"about": ConfigRecord({"json": json.dumps(about)})}), reply_to=message)

    @app.train()  # type: ignore[untyped-decorator]  # flwr is untyped here
    def train(message: Message, context: Context) -> Message:
        party = int(context.node_config["partition-id"])
        weights = message.content["arrays"]["model"].numpy()
        record.setdefault("rounds", []).append((message.content["config"]["server-round"], party))
        record.setdefault("best", []).append(message.content["config"]["best-round"])
        figures = {"num-examples": 10 * (party + 1), "loss": 1.0, "steps": 2, "seconds": 0.1}
        content = {
            "arrays": ArrayRecord({"model": Array((weights + party + 1).astype(np.float32))}),
            "metrics": MetricRecord(figures),
            "about": ConfigRecord({"party": f"p{party}"}),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()  # type: ignore[untyped-decorator]  # flwr is untyped here
    def evaluate_(message: Message, context: Context) -> Message:
        party = int(context.node_config["partition-id"])
        mean = float(message.content["arrays"]["model"].numpy().mean())
        # Round 2 is the best, so that the last and the best round differ.
        n = 10 * (party + 1)
        correct = round(n * max(0.0, 0.9 - abs(mean - record.get("peak", 5.0)) / 10))
        figures = {"num-examples": n, "accuracy": correct / n, "loss": abs(mean)}
        figures |= {"auc": 0.5 + party / 10, "auc-defined": int(party != 1)}
        content = {"metrics": MetricRecord(figures), "tables": ConfigRecord(party_tables(party, correct))}
        return Message(RecordDict(content), reply_to=message)

    return app


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {"study": "t", "scheme": "plain", "counts": (90, 90, 90)}
    settings |= {"image_size": 16, "block": 8}
    return Plan.model_validate(settings | {"rounds": 3, "deadline_s": 5.0, "grace_s": 0.2} | changes)


def make_grid(n: int = 3, app: ClientApp | None = None, **kwargs: Any) -> LocalGrid:
    return LocalGrid(app or parties(), [{"partition-id": i} for i in range(n)], **kwargs)


START = np.zeros(4, np.float32)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
