"""Parties that add a number to every weight, behind a grid in the test's process, and the journal of their rounds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from coordinator.exchange.introduction import sign_introduction
from coordinator.exchange.plan import Plan
from coordinator.exchange.statement import SPLITS
from coordinator.federation.participants import Federation
from tests.support.local_grid import LocalGrid
from tests.support.manifests import identity_of, manifest_of

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

    record: gets the rounds and best rounds that the parties receive. Its `about`, `signers` and `peak` change their
        answers.
    """
    app = ClientApp()
    record = record if record is not None else {}

    @app.query("hello")  # type: ignore[untyped-decorator]  # flwr is untyped here
    def hello(message: Message, context: Context) -> Message:
        party = int(context.node_config["partition-id"])
        manifest = str(message.content["config"]["manifest"])
        about = introduction(
            plan(parties=max(4, party + 1), counts=(10**6,) * 3), manifest, f"p{party}", context
        ) | record.get("about", {}).get(party, {})
        signer = record.get("signers", {}).get(party, identity_of(f"p{party}"))
        content = {"about": ConfigRecord(sign_introduction(signer, about))}
        return Message(RecordDict(content), reply_to=message)

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
        figures |= {"auc": min(1.0, 0.5 + party / 10), "auc-defined": int(party != 1)}
        content = {"metrics": MetricRecord(figures), "tables": ConfigRecord(party_tables(party, correct))}
        return Message(RecordDict(content), reply_to=message)

    return app


def introduction(p: Plan, manifest: str, name: str, context: Context) -> dict[str, Any]:
    """Return what a hospital of `manifest_of(p)` says of itself to a run."""
    statement = manifest_of(p).statements[name]
    splits = {
        split: {
            "rows": statement.sets.of(split).images,
            "digest": statement.sets.of(split).digest,
            "key_id": statement.key_id,
        }
        for split in SPLITS
    }
    about = {"party": name, "classes": list(statement.classes), "spec": statement.spec, "splits": splits}
    return about | {
        "manifest": manifest,
        "run": context.run_id,
        "node": context.node_id,
        "time_ns": time.time_ns(),
    }


def federation_of(grid: LocalGrid, p: Plan, agreed: Plan | None = None) -> Federation:
    """Return a federation of the hospitals p0, p1, … of a plan.

    agreed: the plan of their study manifest, p by default. With fewer rounds in p, a run stops early as after a kill.
    """
    return Federation(grid, p, manifest_of(agreed or p))


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {"study": "t", "scheme": "plain", "counts": (100, 100, 100)}
    settings |= {"image_size": 16, "block": 8}
    return Plan.model_validate(settings | {"rounds": 3, "deadline_s": 5.0, "grace_s": 0.2} | changes)


def make_grid(n: int = 3, app: ClientApp | None = None, **kwargs: Any) -> LocalGrid:
    return LocalGrid(app or parties(), [{"partition-id": i} for i in range(n)], **kwargs)


START = np.zeros(4, np.float32)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
