"""Reference figures for the federation's accuracy, measured where the plain images are.

- plain: the same training on plain images, in one process: with the same parties (or the provider alone), rounds,
  steps and seed. In a study of several hospitals only a simulation can run it, because nobody has all plain images.
  It trains the weights that the plan trains, adapters included, and adds FedProx's term if the plan's strategy is
  FedProx. It averages the whole model, whatever the stem mode: the difference from `private` is the price of stems
  that stay in the hospitals. It averages in float32 and by FedAvg, whatever the plan's wire and strategy, so the
  comparison includes the effect of those.
- wrong key: the final model on test images that were sealed under other keys than the training's. Under stem modes
  `private` and `plain` the model is the first hospital's, with the stem in the coordinates of its own key, and the
  test images of all hospitals are sealed under other keys.
- a linear model on pixels, and the nearest neighbour on histograms: what can be done without a Vision Transformer.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from scipy.special import stdtrit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.console import Log
from coordinator.exchange.plan import Plan, require_rounds
from coordinator.exchange.statement import plan_digest
from coordinator.model.metrics import measure
from coordinator.model.training import (
    LabelledImages,
    PlainImages,
    predict_probabilities,
    train_locally,
    use_all_cores,
)
from coordinator.model.vit import build_model, pack, unpack
from crypto.arrays import AnyArray, Float32Array, Float64Array
from crypto.errors import CipherwardError
from crypto.files import parse_json, write_bytes
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.tensor_file import tensor_bytes
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows
from parties.training.stem_file import load_final_model

#: Larger images are reduced to this side for the linear model. Set once, not tuned.
_THUMBNAIL_SIDE = 64
#: Images that are in memory at a time while they are compared with those of a checkpoint.
_DIGEST_ROWS = 256
#: What trains a model in place, given the party's name and the round.
LocalTraining = Callable[[nn.Module, str, int], None]


def read_plain_images(place: Place, split: str) -> PlainImages:
    """Read a hospital's plain images of a split: those that it sealed, in the same order."""
    sealed = place.sealed(split)
    return PlainImages(plain_rows(place, split, np.arange(len(sealed))), np.array(sealed.labels))


def concatenate(parts: Sequence[PlainImages]) -> PlainImages:
    """Return the images of all parts, one part after the other."""
    return PlainImages(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def average(weights: Sequence[Float32Array], sizes: Sequence[int]) -> Float32Array:
    """Return the mean of weight vectors by number of images, float32 [parameters] (FedAvg, McMahan et al. 2017)."""
    total = np.zeros_like(weights[0], np.float64)
    for vector, size in zip(weights, sizes, strict=True):
        total += vector.astype(np.float64) * (size / sum(sizes))
    return total.astype(np.float32)


def train_plain(
    plan: Plan,
    parties: Sequence[tuple[str, LabelledImages]],
    val: PlainImages,
    classes: int,
    checkpoint: Path,
    log: Log = lambda _: None,
    train: LocalTraining | None = None,
) -> tuple[nn.Module, list[float], float]:
    """Train by federated averaging on plain or sealed images, without Flower.

    Training continues from the checkpoint of an interrupted run of the same plan on the same images.

    Args:
        plan: all settings.
        parties: name and training images of each party.
        val: the images that select the best round.
        classes: the number of classes.
        checkpoint: the file that is read, and written after each round.
        log: takes one line for each round.
        train: trains a party's model in place for one round, given model, party and round. None: as hospitals do.

    Returns:
        The model of the best round, the accuracy on val by round, and the seconds of training.

    Raises:
        CipherwardError: if the checkpoint is unreadable.
    """
    model = build_model(plan, classes, plain=True)
    weights = best = pack(model)
    images = _digest([*parties, ("val", val)])
    about: dict[str, Any] = {"plan": plan.model_dump_json(), "images": images, "val": [], "seconds": 0.0}
    if checkpoint.exists():
        try:
            with safe_open(str(checkpoint), framework="numpy") as file:
                stored = parse_json(file.metadata()["about"])
                if (stored["plan"], stored.get("images")) == (about["plan"], images):
                    about, weights, best = stored, file.get_tensor("weights"), file.get_tensor("best")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CipherwardError(
                f"the checkpoint {checkpoint} cannot be read: {type(error).__name__}",
                "remove it to start anew",
            ) from None
    for round_ in range(len(about["val"]) + 1, plan.rounds + 1):
        started = time.perf_counter()
        updates = []
        for name, data in parties:
            unpack(model, weights)
            if train is None:
                train_locally(model, data, plan, round_, name, plan.proximal)
            else:
                train(model, name, round_)
            updates.append(pack(model))
        weights = average(updates, [len(data.labels) for _, data in parties])
        unpack(model, weights)
        accuracy = measure(predict_probabilities(model, val), val.labels)["accuracy"]
        if accuracy >= max(about["val"], default=-1.0):
            best = weights
        about["val"].append(accuracy)
        about["seconds"] += time.perf_counter() - started
        log(f"plain round {round_} of {plan.rounds}: val accuracy {accuracy:.3f}")
        _save_checkpoint(checkpoint, weights, best, about)
    unpack(model, best)
    return model, about["val"], about["seconds"]


def _digest(parts: Sequence[tuple[str, LabelledImages]]) -> str:
    """Return one digest of all names, images and labels, hex."""
    digest = hashlib.blake2b(digest_size=32)
    for name, part in parts:
        digest.update(f"{name} {len(part.labels)} ".encode())
        digest.update(np.ascontiguousarray(part.labels, np.int64).data)
        for start in range(0, len(part.labels), _DIGEST_ROWS):
            rows = np.arange(start, min(start + _DIGEST_ROWS, len(part.labels)))
            digest.update(np.ascontiguousarray(part.rows(rows)).data)
    return digest.hexdigest()


def _save_checkpoint(
    path: Path, weights: Float32Array, best: Float32Array, about: Mapping[str, Any]
) -> None:
    tensors = {"weights": weights, "best": best}
    metadata = {"about": json.dumps(about, sort_keys=True)}
    write_bytes(path, tensor_bytes(tensors, metadata))


def measure_wrong_keys(model: nn.Module, place: Place, test: PlainImages, keys: int) -> dict[str, Any]:
    """Measure the accuracy on test images that are sealed under fresh keys.

    Args:
        model: reads images sealed under the training's key.
        place: gives the scheme.
        test: plain test images.
        keys: the number of fresh keys.

    Returns:
        `mean`, `low` and `high` (a 95 % Student interval over the keys), and `each` accuracy.
    """
    spec = place.sealed("test").spec
    accuracies = []
    for _ in range(keys):
        sealed = load(spec).cipher(SecretKey.generate()).encrypt(test.images)
        scores = predict_probabilities(model, PlainImages(sealed, test.labels))
        accuracies.append(measure(scores, test.labels)["accuracy"])
    mean = float(np.mean(accuracies))
    standard_error = float(np.std(accuracies, ddof=1) / np.sqrt(keys)) if keys > 1 else 0.0
    reach = float(stdtrit(keys - 1, 0.975)) * standard_error if keys > 1 else 1.0
    return {"mean": mean, "low": max(0.0, mean - reach), "high": min(1.0, mean + reach), "each": accuracies}


def linear_accuracy(train: PlainImages, test: PlainImages) -> float:
    """Return the accuracy of logistic regression on pixels, after at most 200 steps.

    Images larger than 64×64 are reduced to that size.
    """
    train_pixels, test_pixels = _flat_pixels(train.images), _flat_pixels(test.images)
    with warnings.catch_warnings():
        # A reference that stops early is still a reference, and the warning would appear in the study's log.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=0.01, max_iter=200).fit(train_pixels, train.labels)
    return float(model.score(test_pixels, test.labels))


def histogram_accuracy(train: PlainImages, test: PlainImages) -> float:
    """Return the accuracy of one nearest neighbour on 64-bin histograms, which every permutation of pixels keeps."""
    # Imported here, because Flower's bundle holds this module and no scoring.
    from parties.scoring.measures import histograms

    model = KNeighborsClassifier(1, metric="manhattan")
    model.fit(histograms(train.images), train.labels)
    return float(model.score(histograms(test.images), test.labels))


def _flat_pixels(images: AnyArray) -> Float64Array:
    """Return gray pixels in [-1, 1], float64 [n, pixels], of at most 64×64 pixels per image."""
    gray = images.mean(axis=3).astype(np.uint8)
    if gray.shape[1] > _THUMBNAIL_SIDE:
        size = (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
        gray = np.stack([np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BOX)) for i in gray])
    pixels: Float64Array = gray.reshape(len(gray), -1).astype(np.float64) / 127.5 - 1
    return pixels


def run_baseline(
    plan: Plan, places: Sequence[Place], model_file: Path | None, log: Log = lambda _: None
) -> dict[str, Any]:
    """Measure all reference figures that the plan asks for. The result contains numbers, and the plan's digest.

    Args:
        plan: the study's plan.
        places: the hospitals.
        model_file: the federation's final model, for the wrong keys. None: wrong keys are not measured.
        log: takes one line for each figure.
    """
    require_rounds(plan)
    use_all_cores()
    classes = places[0].sealed("train").classes
    trains = [(p.settings.party, read_plain_images(p, "train")) for p in places]
    train = concatenate([data for _, data in trains])
    val = concatenate([read_plain_images(p, "val") for p in places])
    test = concatenate([read_plain_images(p, "test") for p in places])
    figures: dict[str, Any] = {
        "plan_sha256": plan_digest(plan),
        "linear_accuracy": linear_accuracy(train, test),
        "histogram_accuracy": histogram_accuracy(train, test),
        "plain": None,
        "wrong_key": None,
    }
    log(f"linear model on pixels {figures['linear_accuracy']:.3f}")
    log(f"nearest neighbour on histograms {figures['histogram_accuracy']:.3f}")
    if model_file is not None and plan.wrong_keys:
        model = load_final_model(plan, places[0], len(classes), model_file)
        figures["wrong_key"] = measure_wrong_keys(model, places[0], test, plan.wrong_keys)
        log(f"wrong keys {figures['wrong_key']['mean']:.3f}")
    if plan.baseline:
        if plan.train == "central":
            trains = [("provider", train)]
        checkpoint = places[0].private / "baseline.safetensors"
        model, by_round, seconds = train_plain(plan, trains, val, len(classes), checkpoint, log)
        hits = int((predict_probabilities(model, test).argmax(1) == test.labels).sum())
        figures["plain"] = {
            "accuracy": rate_of(hits, len(test.labels)).to_json(),
            "rounds": by_round,
            "seconds": seconds,
        }
        log(f"plain test accuracy {hits / len(test.labels):.3f}")
    return figures
