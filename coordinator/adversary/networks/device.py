"""Run networks on one device: place networks and images there, take steps, and decode images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from coordinator.model.model_input import to_model_input
from crypto.arrays import AnyArray, Images, Int64Array

Network = TypeVar("Network", bound=nn.Module)

#: Images that a trained network decodes at a time. Set by hand, to bound memory.
_IMAGES_AT_A_TIME = 128


def training_device() -> torch.device:
    """Return the device of every training: the first CUDA device, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Draw from the seed within the context; torch's own generator is unchanged after it.

    Build networks inside, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def move_to_device(network: Network) -> Network:
    """Return the same network on the training device, channels last.

    With channels last, convolutions on a CPU take two thirds of the time.
    """
    # torch's stubs lack an overload with a device and a memory format.
    return network.to(training_device(), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def images_to_device(images: AnyArray) -> torch.Tensor:
    """Return images [n, h, w, c], uint8 or float32, on the device; `take_batch` scales a batch at a time."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(training_device())


def take_batch(images: torch.Tensor, rows: Int64Array) -> torch.Tensor:
    """Return the rows int64 [r] of images [n, h, w, c] in 0…255 as model input, float32 [r, c, h, w] in -1…1."""
    return to_model_input(images[torch.from_numpy(rows).to(images.device)])


def take_step(
    optimiser: torch.optim.Optimizer, loss: torch.Tensor, weights: Sequence[torch.Tensor] | None = None
) -> None:
    """Take one optimiser step down a loss, with gradients for these weights alone, or for all that it depends on."""
    optimiser.zero_grad()
    loss.backward(inputs=weights)  # type: ignore[no-untyped-call] # torch leaves it untyped
    optimiser.step()


def decode_images(network: nn.Module, images: AnyArray, lowest: float = -1.0) -> Images:
    """Return what a trained network makes of images.

    Args:
        network: a network whose outputs range from `lowest` to 1.
        images: [n, h, w, c] in 0…255.
        lowest: the output that stands for black.

    Returns:
        uint8 [n, h, w, c].
    """
    network.eval()
    parts = []
    with torch.no_grad():
        for first in range(0, len(images), _IMAGES_AT_A_TIME):
            batch = images_to_device(images[first : first + _IMAGES_AT_A_TIME])
            outputs = network(to_model_input(batch))
            levels = outputs.sub(lowest).mul(255.0 / (1.0 - lowest)).round().clamp(0, 255).to(torch.uint8)
            parts.append(levels.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)
