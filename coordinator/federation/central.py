"""Central training: the provider trains alone, on all sealed images that the hospitals handed over.

The framework of Qi et al. 2022 and of Al Amin et al. 2024 (one provider, no federation). Its rounds are passes of
`local_epochs` over the whole pool by the lines that train in a hospital, so that what a federation differs by
is the federation alone. It writes the files that a federation writes: rounds.jsonl, checkpoint.safetensors,
model.safetensors and training.json.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import rows_of
from coordinator.federation.rounds import State
from coordinator.model.metrics import pooled, tables
from coordinator.model.training import Images, measure, probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, save_model, unpack
from crypto.errors import CipherwardError
from crypto.files import append_line, disk_errors, only_one, write_json
from crypto.sets.dataset import SealedDataset, same_but_nonce

SPLITS = ("train", "val", "test")
_PARTY = "provider"  # its own name in the order of the images


@dataclass(frozen=True)
class Together:
    """Sealed sets read as one, row after row. Their keys may differ: the pool of an attack's may not."""

    parts: tuple[SealedDataset, ...]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int64 [n]"""
        return np.concatenate([p.labels for p in self.parts])

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """int64 [r] → [r, *sealed_shape]"""
        return rows_of(self.parts, rows)


def read_hospitals(folders: Sequence[Path], plan: Plan) -> list[dict[str, SealedDataset]]:
    """The sealed sets of every hospital by split, each shard's digest checked.

    folders: each holds train/, val/ and test/. Raises CipherwardError for sets that do not belong together, that
    were sealed otherwise than the plan says, and for an altered shard.
    """
    found = [{split: SealedDataset.open(Path(folder) / split) for split in SPLITS} for folder in folders]
    if not found:
        raise CipherwardError("no sealed images to train on", "name the hospitals' folders of sealed sets")
    first, asked = found[0]["train"], plan.describe()
    if len({s["train"].digest for s in found}) < len(found):
        raise CipherwardError("a hospital's sealed sets are named twice", "name each folder once")
    for sets in found:
        for sealed in sets.values():
            if not same_but_nonce(sealed.spec, asked):
                raise CipherwardError(
                    f"{sealed.folder} was not sealed as the plan says: {sealed.spec.name}, "
                    f"{sealed.spec.image_shape}, blocks of {sealed.spec.block}",
                    "seal with the plan's settings, or plan for these",
                )
            if sealed.classes != first.classes:
                raise CipherwardError(
                    f"{sealed.folder} and {first.folder} do not fit together: their classes differ",
                    "seal with the same class folders everywhere",
                )
            sealed.check_digests()
    return found


def train_centrally(
    plan: Plan, folders: Sequence[Path], cloud: Path, log: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Trains to the last round, from the checkpoint where there is one; returns what training.json holds.

    Raises CipherwardError as `read_hospitals` does, and where the checkpoint is another model's.
    """
    use_all_cores()
    hospitals = read_hospitals(folders, plan)
    with disk_errors(cloud):
        cloud.mkdir(parents=True, exist_ok=True)
    with only_one(cloud):
        return _train(plan, hospitals, cloud, log)


def _train(
    plan: Plan, hospitals: Sequence[Mapping[str, SealedDataset]], cloud: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    train, val = (Together(tuple(h[split] for h in hospitals)) for split in ("train", "val"))
    classes = hospitals[0]["train"].classes
    model = build_model(plan, len(classes))
    checkpoint = cloud / "checkpoint.safetensors"
    first = pack(model)
    state = State.load(checkpoint) if checkpoint.exists() else State(0, first, first, 0, -1.0)
    if state.weights.shape != first.shape:
        raise CipherwardError(f"{checkpoint} is of another model", "remove it to train anew")
    began = time.perf_counter()
    while state.round < plan.rounds:
        started = time.perf_counter()
        unpack(model, state.weights)
        done = train_locally(model, train, plan, state.round + 1, _PARTY)
        figures = _figures(probabilities(model, val), val)
        state.round, state.weights = state.round + 1, pack(model)
        if figures["accuracy"] >= state.best_val:
            state.best, state.best_round, state.best_val = state.weights, state.round, figures["accuracy"]
        row = {
            "round": state.round,
            "parties": [_PARTY],
            "absent": [],
            "refused": {},
            "bytes_down": 0,
            "bytes_up": 0,
            "aggregated": True,
            "train": {"loss": done["loss"]},
            "val": figures,
            "seconds": time.perf_counter() - started,
        }
        append_line(cloud / "rounds.jsonl", json.dumps(row))
        state.save(checkpoint)
        log(f"round {state.round} of {plan.rounds}: val accuracy {figures['accuracy']:.3f}")
    unpack(model, state.best)
    names = [f"hospital-{i}" for i in range(len(hospitals))]
    rows = []
    parts = []
    for name, sets in zip(names, hospitals, strict=True):
        test = sets["test"]
        scores = probabilities(model, test)
        rows.append({"party": name, "num-examples": len(test), **_figures(scores, test)})
        parts.append(tables(scores, np.asarray(test.labels)))
    training = {
        "best_round": state.best_round,
        "val_accuracy": state.best_val,
        "test": {"mean": _mean(rows), "parties": rows, **pooled(parts)},
        "seconds": time.perf_counter() - began,
        "model_sha256": save_model(model, plan, classes, cloud / "model.safetensors", state.best_round),
        "classes": classes,
        "parties": [{"party": name} for name in names],
    }
    write_json(cloud / "training.json", training)
    return training


def _figures(scores: np.ndarray, data: Images) -> dict[str, Any]:
    """Accuracy, loss and AUC; no AUC where a class is absent."""
    seen = dict(measure(scores, np.asarray(data.labels)))
    return {**seen, "auc": seen["auc"] if np.isfinite(seen["auc"]) else None}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means by number of images; AUC over the hospitals where it is defined."""
    mean: dict[str, float | None] = {}
    for what in ("accuracy", "loss", "auc"):
        known = [(r["num-examples"], r[what]) for r in rows if r[what] is not None]
        total = sum(n for n, _ in known)
        mean[what] = sum(n * v for n, v in known) / total if total else None
    return mean
