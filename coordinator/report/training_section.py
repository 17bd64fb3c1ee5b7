"""The training section of a report: what the cloud recorded about a training, beside the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.journal import finished_rounds
from coordinator.exchange.manifest import FILE as MANIFEST
from coordinator.exchange.manifest import read_manifest
from coordinator.exchange.plan import FILE, Plan, load_plan
from coordinator.exchange.privacy import ACCOUNTANT, OUTSIDE
from coordinator.exchange.records import parse_record
from coordinator.exchange.statement import plan_digest
from coordinator.exchange.training_result import read_training
from coordinator.exchange.update_attack import FILE as UPDATE_ATTACK
from coordinator.report.records import Training
from crypto.errors import CipherwardError
from crypto.files import read_json, read_lines
from crypto.spec import spec_without_nonce as without_nonce

_ROUND_FIELDS = ("seconds", "bytes_down", "bytes_up", "parties", "absent", "refused")


def training_of(study: Path | None) -> Training | None:
    """Return the section for a study's folder; None if nothing was trained there.

    Raises:
        CipherwardError: If a file of the study is missing or damaged.
    """
    if study is None or not (study / "cloud" / "training.json").exists():
        return None
    try:
        return _training_of(study)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CipherwardError(
            f"the figures of the training in {study} are damaged: {type(error).__name__}: {error}"[:300],
            "restore cloud/training.json, cloud/rounds.jsonl and baseline.json from a copy",
        ) from None


def require_same_study(scores: Scores, study: Path) -> None:
    """Raise CipherwardError if scores are not of the study whose training a report is to tell of.

    The scheme must be the plan's. If the study has a manifest, it must be the training's, and name the hospital that
    scored.
    """
    plan = load_plan(study / FILE)
    scored = [draw.spec for draw in scores.audited]
    if any(without_nonce(spec) != without_nonce(plan.describe()) for spec in scored):
        raise CipherwardError(
            f"the scores are of {scored[0].name}, and the plan in {study} seals otherwise: {plan.scheme}",
            "name the study whose sealed sets were attacked, or leave --study out",
        )
    if not (study / MANIFEST).exists():
        return
    manifest = read_manifest(study / MANIFEST)
    stated = read_training(study / "cloud").get("manifest_sha256")
    if stated and stated != manifest.digest:
        raise CipherwardError(
            f"the training in {study} is of another study manifest than {study / MANIFEST}",
            "restore the files of one study",
        )
    if scores.party not in manifest.roster:
        raise CipherwardError(
            f"the scores are of {scores.party}, which is no hospital of the study manifest in {study}",
            f"the hospitals of the study: {', '.join(manifest.roster)}",
        )


def _training_of(study: Path) -> Training:
    plan = load_plan(study / FILE)
    result = read_training(study / "cloud")
    baseline = _baseline(study / "baseline.json", plan)
    parties = result["test"]["parties"]
    refused = result["test"].get("refused", {})
    tested = {party["party"] for party in parties}
    rows = finished_rounds(read_lines(study / "cloud" / "rounds.jsonl"))
    if result["best_round"] not in {row["round"] for row in rows}:
        raise ValueError(f"rounds.jsonl does not tell of round {result['best_round']}, the best")
    attack_path = study / "cloud" / UPDATE_ATTACK
    images = int(sum(party["num-examples"] for party in parties))
    hits = round(sum(party["num-examples"] * party["accuracy"] for party in parties))
    section = {
        "model": plan.model,
        "weights": Path(plan.weights).name if plan.weights else "",
        "stem": plan.stem,
        "strategy": plan.strategy if plan.train == "federated" else "",
        "share": plan.share,
        "wire": plan.wire,
        "augment": plan.augment,
        "engine": result.get("engine") or None,
        "privacy": _privacy(plan),
        "sums": _sums(rows, plan),
        "kept_updates": plan.keep_updates,
        "update_attack": read_json(attack_path, "attack on updates") if attack_path.exists() else None,
        "classes": result["classes"],
        "rounds": _rounds(rows),
        "best_round": result["best_round"],
        "test_accuracy": hits / images,
        "test_auc": result["test"]["mean"]["auc"],
        "test": rate_of(hits, images).to_json(),
        "per_party": [
            {"party": p["party"], "accuracy": p["accuracy"], "auc": p["auc"], "n": int(p["num-examples"])}
            for p in parties
        ],
        # A training of an earlier version kept no tables.
        "confusion": result["test"].get("confusion"),
        "per_class": result["test"].get("per_class"),
        "calibration": result["test"].get("calibration"),
        "absent_from_test": [
            p["party"] for p in result["parties"] if p["party"] not in tested | refused.keys()
        ],
        # Trainings of earlier versions, and central ones, refuse and clip nothing.
        "test_refused": refused,
        "plain": baseline.get("plain"),
        "plain_accuracy": baseline["plain"]["accuracy"]["rate"] if baseline.get("plain") else None,
        "wrong_key": baseline.get("wrong_key"),
        "linear_accuracy": baseline.get("linear_accuracy"),
        "histogram_accuracy": baseline.get("histogram_accuracy"),
    }
    return parse_record(Training, section, f"the training in {study}")


def _baseline(path: Path, plan: Plan) -> dict[str, Any]:
    """Return a plan's reference figures, {} if none were measured; raise CipherwardError for another plan's."""
    if not path.exists():
        return {}
    figures: dict[str, Any] = read_json(path, "baseline")
    if figures["plan_sha256"] != plan_digest(plan):
        raise CipherwardError(
            f"{path} was measured for another plan than {path.with_name(FILE)}",
            "remove it, and measure the baseline of this plan: cipherward-party baseline",
        )
    return figures


def _privacy(plan: Plan) -> dict[str, Any] | None:
    """Return what the plan promises of the hospitals' updates; None without differential privacy."""
    if not plan.privacy.is_on:
        return None
    epsilon, delta = plan.privacy.bound
    return {
        "epsilon": epsilon,
        "delta": delta,
        "unit": plan.privacy.unit,
        "accountant": ACCOUNTANT,
        "max_grad_norm": plan.privacy.max_grad_norm,
        "outside": list(OUTSIDE),
    }


def _sums(rows: list[dict[str, Any]], plan: Plan) -> dict[str, Any] | None:
    """Return what the journal says of secure aggregation; None if no round was summed.

    The coordinator writes the journal, and hospitals sum only where the plan that they accepted says so.
    """
    summed = [row for row in rows if row.get("summed") is not None]
    if not summed:
        return None
    least = min(len(row["parties"]) for row in summed)
    needed = plan.privacy.least_sum(plan.parties) if plan.sums_securely else 0
    if not needed or least < needed:
        asked = f"sums of {needed} hospitals or more" if needed else "no secure sums"
        raise ValueError(f"rounds.jsonl tells of sums of {least} hospitals, and the plan asks for {asked}")
    return {
        "rounds": len(summed),
        "least": least,
        "clipped_share": float(max(row["summed"]["clipped_share"] for row in summed)),
    }


def _rounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rounds of the section."""
    return [
        {
            "round": row["round"],
            "val_accuracy": row["val"]["accuracy"],
            "val_auc": row["val"]["auc"],
            "val_loss": row["val"]["loss"],
            # Under differential privacy no training loss leaves a hospital.
            "train_loss": row["train"].get("loss"),
            **{name: row[name] for name in _ROUND_FIELDS},
            "clipped": row.get("clipped", {}),
        }
        for row in rows
    ]
