"""Encrypted queries: the provider's model classifies sealed images and never receives a plain one.

Under stem mode `learn` the model reads ciphertext, so the provider can answer. Under `private` and `plain` only a
hospital can: the saved model has no stem, or a stem for plain images, and reading sealed images needs a stem in the
coordinates of the hospital's key. Source: Qi et al. 2022, section on inference. Whoever answers learns the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from coordinator.exchange.model_choice import check_model_args
from coordinator.model.belonging import Belonging, read_belonging
from coordinator.model.model_size import require_in_file
from coordinator.model.training import PlainImages, predict_probabilities
from coordinator.model.vit import create_model, load_state
from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from crypto.files import parse_json
from crypto.sets.dataset import SealedDataset

SCHEMA = "cipherward.answers/1"


@dataclass(frozen=True)
class ServedModel:
    """A saved model, ready to answer.

    Attributes:
        model: the network, with its weights.
        belonging: the classes in the order of the outputs, and the images that it reads.
    """

    model: nn.Module
    belonging: Belonging

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the outputs."""
        return self.belonging.classes


def open_model(path: Path) -> ServedModel:
    """Open a study's model.safetensors that reads ciphertext.

    Raises:
        CipherwardError: if the file is not such a model, and if the provider cannot answer under its stem mode.
    """
    belonging = read_belonging(path)
    metadata = belonging.metadata
    if belonging.stem != "learn":
        raise CipherwardError(
            f"a model of stem {belonging.stem} cannot read sealed images without a hospital's key",
            "ask the hospital: cipherward-party classify HOSPITAL IMAGE … --model FILE --plan PLAN",
        )
    try:
        args, name = dict(parse_json(metadata["model_args"])), metadata["model"]
        height, width = (int(side) for side in args.pop("img_size"))
        channels = int(metadata["in_chans"])
    except (KeyError, TypeError, ValueError) as error:
        raise CipherwardError(
            f"{path} is not a model of Cipherward: {type(error).__name__}",
            "name a study's cloud/model.safetensors",
        ) from None
    check_model_args(args)
    settings = {"num_classes": len(belonging.classes), "in_chans": channels, "img_size": (height, width)}
    # The file's own words could stand for any size, and building it takes the memory.
    require_in_file(lambda: create_model(name, {**settings, **args}), path)
    model = create_model(name, {**settings, **args})
    load_state(model, load_file(str(path)), path)
    return ServedModel(model, belonging)


def answer_query(served: ServedModel, sealed: SealedDataset) -> dict[str, Any]:
    """Return the content of answers.json: for every image of a sealed set its class, and all class probabilities.

    Raises:
        CipherwardError: if scheme, key or classes of the images are not those of the model, if a shard was altered,
            and if the model's outputs are not finite.
    """
    served.belonging.require_match(sealed.spec, sealed.key_id, sealed.classes)
    sealed.check_digests()
    answers = classify_images(served.model, np.asarray(sealed.images(0, len(sealed))), served.classes)
    return {"schema": SCHEMA, "query": sealed.digest, "classes": served.classes, "answers": answers}


def classify_images(model: nn.Module, images: AnyArray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each image its class, the probability of that class, and all probabilities in class order.

    Raises:
        CipherwardError: if an output is not finite. The first class would be the answer to every image.
    """
    scores = predict_probabilities(model, PlainImages(images, np.zeros(len(images), np.int64)))
    if not np.isfinite(scores).all():
        raise CipherwardError(
            "the model's outputs for these images are not finite numbers",
            "its training diverged, or its file is damaged: fetch it again, or train with a lower lr",
        )
    return [
        {
            "class": classes[int(row.argmax())],
            "probability": round(float(row.max()), 4),
            "probabilities": [round(float(p), 4) for p in row],
        }
        for row in scores
    ]
