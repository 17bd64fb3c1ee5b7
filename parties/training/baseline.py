"""What the federation's accuracy is to be read beside, measured where the plain images are.

- plain: the same training on plain images, in one process: same parties, or the provider alone, and same rounds,
  steps and seed. In a
  study of several hospitals only a simulation can run it, because nobody holds all plain images. It trains
  what the plan trains, adapters too, with FedProx's term where the plan's strategy is FedProx. It averages the
  whole model, whatever the stem mode: what `private` differs by is the price of stems that stay. And it averages
  in float32 and by FedAvg, whatever the plan's wire and strategy: what those differ by is in the comparison.
- wrong key: the final model on test images sealed under keys that are not the training's. Under stem modes
  `private` and `plain` that is the model as the first hospital holds it, its stem carried into its own key's
  coordinates, and the test images of all hospitals sealed under other keys.
- linear model on pixels, nearest neighbour on histograms: what no Vision Transformer is needed for.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.training import PlainImages, measure, probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, unpack
from crypto.errors import CipherwardError
from crypto.files import write_bytes
from crypto.key import SecretKey
from crypto.scheme import load
from parties.scoring.measures import histograms, share
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows
from parties.training.stem import final_model

Log = Callable[[str], None]
_THUMB = 64


def read_plain(place: Place, split: str) -> PlainImages:
    """A hospital's plain images of a split: those that it sealed, in the same order."""
    sealed = place.sealed(split)
    return PlainImages(plain_rows(place, split, np.arange(len(sealed))), np.array(sealed.labels))


def together(parts: Sequence[PlainImages]) -> PlainImages:
    return PlainImages(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def average(weights: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """float32 [parameters]: the mean by number of images (McMahan et al. 2017, FedAvg)."""
    total = np.zeros_like(weights[0], np.float64)
    for vector, size in zip(weights, sizes, strict=True):
        total += vector.astype(np.float64) * (size / sum(sizes))
    return total.astype(np.float32)


def train_plain(
    plan: Plan,
    parties: Sequence[tuple[str, PlainImages]],
    val: PlainImages,
    classes: int,
    checkpoint: Path,
    log: Log = lambda line: None,
) -> tuple[nn.Module, list[float], float]:
    """Federated averaging without Flower; returns the model of the best val round, val by round, seconds.

    Continues from the checkpoint of an interrupted run of the same plan.
    """
    model = build_model(plan, classes, plain=True)
    weights = best = pack(model)
    about: dict[str, Any] = {"plan": plan.model_dump_json(), "val": [], "seconds": 0.0}
    if checkpoint.exists():
        try:
            with safe_open(str(checkpoint), framework="numpy") as file:
                stored = json.loads(file.metadata()["about"])
                if stored["plan"] == about["plan"]:
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
            train_locally(model, data, plan, round_, name, plan.proximal)
            updates.append(pack(model))
        weights = average(updates, [len(data.labels) for _, data in parties])
        unpack(model, weights)
        accuracy = measure(probabilities(model, val), val.labels)["accuracy"]
        if accuracy >= max(about["val"], default=-1.0):
            best = weights
        about["val"].append(accuracy)
        about["seconds"] += time.perf_counter() - started
        log(f"plain round {round_} of {plan.rounds}: val accuracy {accuracy:.3f}")
        _save(checkpoint, weights, best, about)
    unpack(model, best)
    return model, about["val"], about["seconds"]


def _save(path: Path, weights: np.ndarray, best: np.ndarray, about: Mapping[str, Any]) -> None:
    tensors = {"weights": weights, "best": best}
    metadata = {"about": json.dumps(about)}
    write_bytes(path, save(tensors, metadata=metadata))


def wrong_keys(model: nn.Module, place: Place, test: PlainImages, keys: int) -> dict[str, Any]:
    """Accuracy on test images sealed under fresh keys: mean with a 95 % Student interval over the keys."""
    spec = place.sealed("test").spec
    each = []
    for _ in range(keys):
        sealed = load(spec).cipher(SecretKey.generate()).encrypt(test.images)
        each.append(
            measure(probabilities(model, PlainImages(sealed, test.labels)), test.labels)["accuracy"]
        )
    mean = float(np.mean(each))
    spread = float(np.std(each, ddof=1) / np.sqrt(keys)) if keys > 1 else 0.0
    reach = float(stats.t.ppf(0.975, keys - 1)) * spread if keys > 1 else 1.0
    return {"mean": mean, "low": max(0.0, mean - reach), "high": min(1.0, mean + reach), "each": each}


def linear_accuracy(train: PlainImages, test: PlainImages) -> float:
    """Logistic regression on pixels, 200 steps at most, images above 64×64 reduced to that."""
    a, b = _flat(train.images), _flat(test.images)
    with warnings.catch_warnings():
        # A reference stopped early is one, too; the library's advice would stand in the study's log.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=0.01, max_iter=200).fit(a, train.labels)
    return float(model.score(b, test.labels))


def histogram_accuracy(train: PlainImages, test: PlainImages) -> float:
    """One nearest neighbour on 64-bin histograms: what every permutation of pixels leaves readable."""
    model = KNeighborsClassifier(1, metric="manhattan")
    model.fit(histograms(train.images), train.labels)
    return float(model.score(histograms(test.images), test.labels))


def _flat(images: np.ndarray) -> np.ndarray:
    gray = images.mean(axis=3).astype(np.uint8)
    if gray.shape[1] > _THUMB:
        size = (_THUMB, _THUMB)
        gray = np.stack([np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BOX)) for i in gray])
    return gray.reshape(len(gray), -1).astype(np.float64) / 127.5 - 1


def run_baseline(
    plan: Plan, places: Sequence[Place], model_file: Path | None, log: Log = lambda line: None
) -> dict[str, Any]:
    """All of them, as the plan asks; numbers only. model_file: the federation's final model, for wrong keys."""
    use_all_cores()
    classes = places[0].sealed("train").classes
    trains = [(p.settings.party, read_plain(p, "train")) for p in places]
    train = together([data for _, data in trains])
    val = together([read_plain(p, "val") for p in places])
    test = together([read_plain(p, "test") for p in places])
    figures: dict[str, Any] = {
        "linear_accuracy": linear_accuracy(train, test),
        "histogram_accuracy": histogram_accuracy(train, test),
        "plain": None,
        "wrong_key": None,
    }
    log(f"linear model on pixels {figures['linear_accuracy']:.3f}")
    log(f"nearest neighbour on histograms {figures['histogram_accuracy']:.3f}")
    if model_file is not None and plan.wrong_keys:
        model = final_model(plan, places[0], len(classes), model_file)
        figures["wrong_key"] = wrong_keys(model, places[0], test, plan.wrong_keys)
        log(f"wrong keys {figures['wrong_key']['mean']:.3f}")
    if plan.baseline:
        if plan.train == "central":
            trains = [("provider", train)]
        checkpoint = places[0].private / "baseline.safetensors"
        model, by_round, seconds = train_plain(plan, trains, val, len(classes), checkpoint, log)
        hits = int((probabilities(model, test).argmax(1) == test.labels).sum())
        figures["plain"] = {
            "accuracy": share(hits, len(test.labels)),
            "rounds": by_round,
            "seconds": seconds,
        }
        log(f"plain test accuracy {hits / len(test.labels):.3f}")
    return figures
