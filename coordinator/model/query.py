"""The encrypted query: a provider's model names the classes of sealed images. It never sees a plain one.

Under stem mode `learn` the model reads ciphertext, so that the provider can answer; under `private` and `plain` only
a hospital can, because the model lacks, or reads without, a stem in its key's coordinates. Source: Qi et al. 2022,
section on inference; whoever answers also learns the answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from coordinator.model.training import PlainImages, probabilities
from coordinator.model.vit import load_state, timm_model
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset

SCHEMA = "cipherward.answers/1"


@dataclass(frozen=True)
class Served:
    """A saved model, ready to answer. scheme: what its images are sealed with; shape: of a sealed image."""

    model: nn.Module
    classes: list[str]
    scheme: str
    shape: tuple[int, int, int]


def open_model(path: Path) -> Served:
    """The model of a model.safetensors that reads ciphertext.

    Raises CipherwardError where it is no such file, and where its stem mode leaves the provider unable to answer.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = dict(file.metadata() or {})
        args, classes = json.loads(about["model_args"]), json.loads(about["classes"])
        stem, channels = about["stem"], int(about["in_chans"])
        height, width = args.pop("img_size")
    except FileNotFoundError:
        raise CipherwardError(f"no model at {path}") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CipherwardError(
            f"{path} is not a model of ours: {type(error).__name__}",
            "name a study's cloud/model.safetensors",
        ) from None
    if stem != "learn":
        raise CipherwardError(
            f"a model of stem {stem} cannot read sealed images without a hospital's key",
            "ask the hospital: cipherward-party classify HOSPITAL IMAGE … --model FILE --plan PLAN",
        )
    settings = {"num_classes": len(classes), "in_chans": channels, "img_size": (height, width), **args}
    model = timm_model(about["model"], settings)
    load_state(model, load_file(str(path)), path)
    return Served(model, classes, about["scheme"], (height, width, channels))


def answer(served: Served, sealed: SealedDataset) -> dict[str, Any]:
    """What answers.json holds: for every row of a sealed set its class, and the probability of each class.

    Raises CipherwardError for images of another scheme or shape than the model's, and for an altered shard.
    """
    if (sealed.spec.name, sealed.sealed_shape) != (served.scheme, served.shape):
        raise CipherwardError(
            f"{sealed.folder} holds {sealed.spec.name} images of {sealed.sealed_shape}, "
            f"the model reads {served.scheme} of {served.shape}",
            "seal the query as the training images were sealed",
        )
    sealed.check_digests()
    found = predictions(served.model, np.asarray(sealed.images(0, len(sealed))), served.classes)
    return {"schema": SCHEMA, "query": sealed.digest, "classes": served.classes, "answers": found}


def predictions(model: nn.Module, images: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One entry an image: its class, that class's probability, and all probabilities in the order of the classes."""
    scores = probabilities(model, PlainImages(images, np.zeros(len(images), np.int64)))
    return [
        {
            "class": classes[int(row.argmax())],
            "probability": round(float(row.max()), 4),
            "probabilities": [round(float(p), 4) for p in row],
        }
        for row in scores
    ]
