"""Central training: the provider trains alone, on all sealed images that the hospitals handed over.

This is the framework of Qi et al. 2022 and of Al Amin et al. 2024: one provider, no federation. A round is
`local_epochs` passes over all images, by the code that trains in a hospital, so the federation is the only difference
between the two. The files are those of a federation: rounds.jsonl, checkpoint.safetensors, model.safetensors and
training.json.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from coordinator.exchange.console import Log
from coordinator.exchange.plan import Plan, require_rounds
from coordinator.exchange.pool import rows_of
from coordinator.federation.rounds import State
from coordinator.model.metrics import measure, pool_tables, tabulate
from coordinator.model.training import LabelledImages, predict_probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, save_model, unpack
from crypto.arrays import AnyArray, Float32Array, Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.files import append_line, disk_errors, folder_lock, write_json
from crypto.plural import counted
from crypto.sets.dataset import SealedDataset, equal_except_nonce

SPLITS = ("train", "val", "test")
#: The provider's name in the journal. The order of the images depends on it.
_PARTY = "provider"


@dataclass(frozen=True)
class ConcatenatedSets:
    """Several sealed sets, read as one. Their keys may differ, unlike those of an attack's pool."""

    parts: tuple[SealedDataset, ...]

    @functools.cached_property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""
        return np.concatenate([p.labels for p in self.parts])

    def rows(self, rows: Rows) -> AnyArray:
        """Return the sealed images of these rows: int64 [r] → [r, *sealed_shape]."""
        return rows_of(self.parts, rows)


def open_hospital_sets(folders: Sequence[Path], plan: Plan) -> list[dict[str, SealedDataset]]:
    """Open the sealed sets of every hospital by split, and check the digest of every shard.

    Args:
        folders: one folder per hospital, which contains train/, val/ and test/.
        plan: gives the scheme that all sets must have.

    Raises:
        CipherwardError: if the sets do not belong together, if they or their keys are not as the plan says, and if a
            shard was altered.
    """
    hospitals = [{split: _open_set(Path(folder) / split) for split in SPLITS} for folder in folders]
    if not hospitals:
        raise CipherwardError("no sealed images to train on", "name the hospitals' folders of sealed sets")
    first, spec = hospitals[0]["train"], plan.describe()
    if len({sets["train"].digest for sets in hospitals}) < len(hospitals):
        raise CipherwardError("a hospital's sealed sets are named twice", "name each folder once")
    for sets in hospitals:
        for sealed in sets.values():
            if not equal_except_nonce(sealed.spec, spec):
                raise CipherwardError(
                    f"{sealed.folder} was not sealed as the plan says: {sealed.spec.name}, "
                    f"{sealed.spec.image_shape}, blocks of {sealed.spec.block}",
                    "seal with the plan's settings, or write a plan for these sets",
                )
            if sealed.classes != first.classes:
                raise CipherwardError(
                    f"{sealed.folder} and {first.folder} do not belong together: their classes differ",
                    "seal with the same class folders everywhere",
                )
            sealed.check_digests()
            _check_labels(sealed)
    _check_key_scope([{sealed.key_id for sealed in sets.values()} for sets in hospitals], plan.key_scope)
    return hospitals


def _check_key_scope(key_ids: Sequence[set[str]], scope: str) -> None:
    """Raise CipherwardError if the hospitals' sets were not sealed with keys as the plan says.

    key_ids: the ids of the keys of each hospital's sets. Under scope `image` any will do.
    """
    if scope == "consortium" and len(set().union(*key_ids)) > 1:
        raise CipherwardError(
            "the plan says key_scope consortium, and the hospitals' sets were sealed with several keys",
            "the hospitals of a consortium share one key: cipherward-party share-key, then rotate --key",
        )
    if scope == "party" and (max(map(len, key_ids)) > 1 or len(set().union(*key_ids)) < len(key_ids)):
        raise CipherwardError(
            "the plan says key_scope party, and the hospitals' sets were not sealed with one key each",
            "each hospital makes a key of its own and seals all its sets with it: cipherward-party rotate",
        )


def _open_set(folder: Path) -> SealedDataset:
    """Open a sealed set that has images; raise CipherwardError, which names the folder, if it has none."""
    sealed = SealedDataset.open(folder)
    if not len(sealed):
        raise CipherwardError(f"{folder} holds no images", "seal that split again, with images in it")
    return sealed


def _check_labels(sealed: SealedDataset) -> None:
    """Raise CipherwardError, which names the folder, if a label is no class of the set."""
    labels = np.asarray(sealed.labels)
    wrong = labels[(labels < 0) | (labels >= len(sealed.classes))]
    if len(wrong):
        raise CipherwardError(
            f"{sealed.folder} holds the label {wrong[0]}, and its "
            f"{counted(len(sealed.classes), 'class is', 'classes are')} "
            f"0 to {len(sealed.classes) - 1}",
            "ask that hospital to seal the split again",
        )


def train_centrally(
    plan: Plan, folders: Sequence[Path], cloud: Path, log: Log = lambda _: None
) -> dict[str, Any]:
    """Train to the last round, from the checkpoint if there is one, and return the content of training.json.

    Args:
        plan: all settings.
        folders: the hospitals' folders of sealed sets, as in `open_hospital_sets`.
        cloud: the folder that is written.
        log: takes one line for the weights file and one for each round.

    Raises:
        CipherwardError: as `open_hospital_sets` does, and if the checkpoint belongs to another model.
    """
    require_rounds(plan)
    use_all_cores()
    hospitals = open_hospital_sets(folders, plan)
    model = build_model(plan, len(hospitals[0]["train"].classes), log=log)
    with disk_errors(cloud):
        cloud.mkdir(parents=True, exist_ok=True)
    with folder_lock(cloud):
        return _train(model, plan, hospitals, cloud, log)


def _train(
    model: nn.Module,
    plan: Plan,
    hospitals: Sequence[Mapping[str, SealedDataset]],
    cloud: Path,
    log: Log,
) -> dict[str, Any]:
    """Train a new model to the last round, test the best round, and write the model and training.json."""
    train, val = (ConcatenatedSets(tuple(h[split] for h in hospitals)) for split in ("train", "val"))
    classes = hospitals[0]["train"].classes
    checkpoint = cloud / "checkpoint.safetensors"
    start = pack(model)
    state = State(0, start, start, 0, -1.0, data_digest=_digest_sets(hospitals))
    if checkpoint.exists():
        state = State.load(checkpoint)
        if state.weights.shape != start.shape:
            raise CipherwardError(f"{checkpoint} belongs to another model", "remove it to train anew")
        if state.data_digest != _digest_sets(hospitals):
            raise CipherwardError(
                f"the rounds in {checkpoint} were trained on other sealed sets",
                "name the same folders in the same order to go on; or remove the checkpoint to train anew",
            )
    started = time.perf_counter()
    while state.round < plan.rounds:
        row = _train_round(model, plan, state, train, val)
        append_line(cloud / "rounds.jsonl", json.dumps(row))
        state.save(checkpoint)
        log(f"round {state.round} of {plan.rounds}: val accuracy {row['val']['accuracy']:.3f}")
    unpack(model, state.best)
    names = [f"hospital-{i}" for i in range(len(hospitals))]
    key_ids = {name: sets["train"].key_id for name, sets in zip(names, hospitals, strict=True)}
    path = cloud / "model.safetensors"
    digest = save_model(model, plan, classes, path, state.best_round, key_ids=key_ids)
    training = {
        "best_round": state.best_round,
        "val_accuracy": state.best_val,
        "test": _test(model, {name: sets["test"] for name, sets in zip(names, hospitals, strict=True)}),
        "seconds": time.perf_counter() - started,
        "model_sha256": digest,
        "classes": classes,
        "parties": [{"party": name} for name in names],
    }
    write_json(cloud / "training.json", training)
    return training


def _digest_sets(hospitals: Sequence[Mapping[str, SealedDataset]]) -> str:
    """Return a digest of all sealed sets, in their order: that of the images in a training depends on it."""
    digests = [[sets[split].digest for split in SPLITS] for sets in hospitals]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _train_round(
    model: nn.Module, plan: Plan, state: State, train: LabelledImages, val: LabelledImages
) -> dict[str, Any]:
    """Train the next round, advance `state`, and return the line for rounds.jsonl."""
    started = time.perf_counter()
    unpack(model, state.weights)
    result = train_locally(model, train, plan, state.round + 1, _PARTY)
    figures = _figures(predict_probabilities(model, val), val)
    state.round, state.weights = state.round + 1, pack(model)
    if figures["accuracy"] >= state.best_val:
        state.best, state.best_round, state.best_val = state.weights, state.round, figures["accuracy"]
    return {
        "round": state.round,
        "parties": [_PARTY],
        "absent": [],
        "refused": {},
        "bytes_down": 0,
        "bytes_up": 0,
        "aggregated": True,
        "train": {"loss": result["loss"]},
        "val": figures,
        "seconds": time.perf_counter() - started,
    }


def _test(model: nn.Module, tests: Mapping[str, SealedDataset]) -> dict[str, Any]:
    """Return the figures on every hospital's test set: their mean, a row per hospital, and the pooled tables."""
    rows, parts = [], []
    for name, test in tests.items():
        scores = predict_probabilities(model, test)
        rows.append({"party": name, "num-examples": len(test), **_figures(scores, test)})
        parts.append(tabulate(scores, np.asarray(test.labels)))
    return {"mean": _mean(rows), "parties": rows, **pool_tables(parts)}


def _figures(scores: Float32Array, data: LabelledImages) -> dict[str, Any]:
    """Return accuracy, loss and AUC. AUC is None if a class has no image."""
    figures = dict(measure(scores, np.asarray(data.labels)))
    return {**figures, "auc": figures["auc"] if np.isfinite(figures["auc"]) else None}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return means weighted by number of images. The mean AUC is over the hospitals for which it is defined."""
    mean: dict[str, float | None] = {}
    for name in ("accuracy", "loss", "auc"):
        defined = [(r["num-examples"], r[name]) for r in rows if r[name] is not None]
        total = sum(n for n, _ in defined)
        mean[name] = sum(n * v for n, v in defined) / total if total else None
    return mean
