"""How many numbers a model would hold, before any memory is taken for it.

A plan and a saved model come from others, and what they say builds a network: some characters of settings can stand
for terabytes. torch's meta device gives tensors their shapes and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.vit import build_model
from crypto.errors import CipherwardError

#: Parameters of a model that a hospital accepts without a word of its own. A ViT-L has 304 million, and a training of
#: 400 million takes 7 GB and more. Chosen by hand.
MOST_PARAMETERS = 400_000_000


def count_parameters(plan: Plan, classes: int) -> int:
    """Return how many parameters a plan's model has, trained or not.

    Args:
        plan: all settings. Its weights file is not opened.
        classes: outputs of the head.

    Raises:
        CipherwardError: as `build_model` does, but for its weights.
    """
    with torch.device("meta"):
        model = build_model(plan.model_copy(update={"weights": ""}), classes)
    return sum(parameter.numel() for parameter in model.parameters())


def require_in_file(
    build: Callable[[], nn.Module],
    path: Path,
    names_of: Callable[[nn.Module], Collection[str]] = lambda model: model.state_dict(),
) -> None:
    """Refuse a saved model that has more numbers than its file: what the file says of itself would be built.

    Args:
        build: builds the model that the file describes.
        path: the safetensors file.
        names_of: returns the names of the model's tensors that must be in the file; by default all.

    Raises:
        CipherwardError: if the file cannot be read, or holds fewer numbers than these tensors.
    """
    with torch.device("meta"):
        model = build()
    state = model.state_dict()
    needed = sum(state[name].numel() for name in names_of(model))
    try:
        with safe_open(str(path), framework="numpy") as file:
            held = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CipherwardError(
            f"{path} is not a model of Cipherward: {type(error).__name__}",
            "name a study's cloud/model.safetensors",
        ) from None
    if needed > held:
        raise CipherwardError(
            f"{path} describes a model of {needed:,} numbers, and holds {held:,}",
            "it is damaged, or was made to use up this machine's memory: fetch it again",
        )
