"""A tiny network whose gradients are known, and canaries: images that each move a weight of their own.

An image of the network is one bright pixel on a black ground; black is 0 for the model. Its gradient is in the column
of its pixel alone, so that what a training released says of every canary how much it moved.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.training import PlainImages
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from parties.training.privacy_accounting import Mechanism
from parties.training.private_training import PrivateRound, train_privately
from tests.support.local_training import plan

#: What one gray level of `to_model_input` maps to 0.
_ZERO = 127.5


class Linear(nn.Module):
    """One linear layer on the pixels, without bias, from zero."""

    def __init__(self, pixels: int, classes: int = 2) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(pixels, classes, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.flatten(images))
        return logits


def private_plan(**changes: object) -> Plan:
    """Return a plan with differential privacy for each image, of plain SGD with a rate that never decays to zero."""
    privacy = {"epsilon": 1.0, "delta": 1e-5, "unit": "image"}
    settings: dict[str, object] = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    return plan(**settings | {"rounds": 1000, "privacy": privacy} | changes)


def canary_images(pixels: int, brightness: float = 100.0) -> Float32Array:
    """Return one image for each pixel, float32 [pixels, 1, pixels, 1]: that pixel bright, all others zero."""
    images = np.full((pixels, 1, pixels, 1), _ZERO, np.float32)
    images[np.arange(pixels), 0, np.arange(pixels), 0] += brightness * _ZERO
    return images


def release(
    included: BoolArray, mechanism: Mechanism, p: Plan, train: Callable[..., None] = train_privately
) -> Float64Array:
    """Train on the included canaries, and return how far each canary's weight moved its way, float64 [canaries].

    The divisor and the number of steps do not depend on how many canaries are included.
    """
    pixels = len(included)
    model = Linear(pixels)
    labels: Int64Array = np.zeros(pixels, np.int64)
    data = PlainImages(canary_images(pixels)[included], labels[included])
    private = PrivateRound(mechanism, np.arange(int(included.sum())), pixels * mechanism.sample_rate)
    train(model, data, p, 1, private)
    weight = model.head.weight.detach().double().numpy()
    return np.asarray(weight[0] - weight[1])
