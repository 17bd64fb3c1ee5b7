"""The training section of a report: what the cloud's journal says, beside the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from coordinator.exchange.plan import FILE, plan_in
from crypto.files import read_json, read_lines


def training_of(study: Path | None) -> dict[str, Any] | None:
    """The section for a study's folder; None where nothing was trained there."""
    if study is None or not (study / "cloud" / "training.json").exists():
        return None
    plan = plan_in(study / FILE)
    result = read_json(study / "cloud" / "training.json", "training result")
    # A round that was interrupted before its checkpoint stands there twice: the later one counts.
    journal = {r["round"]: r for r in read_lines(study / "cloud" / "rounds.jsonl") if r["aggregated"]}
    rounds = [
        {
            "round": row["round"],
            "val_accuracy": row["val"]["accuracy"],
            "val_auc": row["val"]["auc"],
            "val_loss": row["val"]["loss"],
            "train_loss": row["train"]["loss"],
            **{k: row[k] for k in ("seconds", "bytes_down", "bytes_up", "parties", "absent", "refused")},
        }
        for row in journal.values()
    ]
    parties = result["test"]["parties"]
    n = int(sum(p["num-examples"] for p in parties))
    hits = round(sum(p["num-examples"] * p["accuracy"] for p in parties))
    heard = {p["party"] for p in parties}
    bounds = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    baseline = study / "baseline.json"
    beside = read_json(baseline, "baseline") if baseline.exists() else {}
    return {
        "model": plan.model,
        "weights": Path(plan.weights).name if plan.weights else "",
        "stem": plan.stem,
        "strategy": plan.strategy if plan.train == "federated" else "",
        "share": plan.share,
        "wire": plan.wire,
        "augment": plan.augment,
        "classes": result["classes"],
        "rounds": rounds,
        "best_round": result["best_round"],
        "test_accuracy": hits / n,
        "test_auc": result["test"]["mean"]["auc"],
        "test": {
            "hits": hits,
            "n": n,
            "rate": hits / n,
            "low": float(bounds.low),
            "high": float(bounds.high),
        },
        "per_party": [
            {"party": p["party"], "accuracy": p["accuracy"], "auc": p["auc"], "n": int(p["num-examples"])}
            for p in parties
        ],
        # A training of an earlier version kept no tables.
        "confusion": result["test"].get("confusion"),
        "per_class": result["test"].get("per_class"),
        "calibration": result["test"].get("calibration"),
        "absent_from_test": [p["party"] for p in result["parties"] if p["party"] not in heard],
        "plain": beside.get("plain"),
        "plain_accuracy": beside["plain"]["accuracy"]["rate"] if beside.get("plain") else None,
        "wrong_key": beside.get("wrong_key"),
        "linear_accuracy": beside.get("linear_accuracy"),
        "histogram_accuracy": beside.get("histogram_accuracy"),
    }
