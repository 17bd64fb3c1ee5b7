"""Choose the epoch of an unpaired training without truth: by the patches of its pictures, beside public ones.

An adversary has no plain image to score a decoder with. It has public plain images, and what the decoder makes of the
pool. Both are cut to small patches, most of which lie across the borders of blocks: a decoder whose blocks are wrong,
of another sign or do not join has other patches than real pictures. The Fréchet distance between two sets of patches,
each taken for Gaussian, is what the two means and the two covariances say of that:

    d² = |m₁ - m₂|² + tr(C₁ + C₂ - 2·(C₁·C₂)^½), divided by tr(C₂) of the public patches

It is 0 for patches alike in both, and 1 for pictures of the right mean without any contrast.

Source: the distance is that of Dowson and Landau 1982, which Heusel et al. 2017 take of a network's features; here it
is taken of pixels, because no network for the audited pictures is at hand. The choice of an epoch by it is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from crypto.arrays import Float64Array, Images

#: Side of a patch and step between patches, in pixels. Set once: 3 does not divide blocks of 4, 8 or 16, so that
#: their borders lie anywhere in a patch, and 75 values in colour are few enough for a covariance.
_SIDE, _STEP = 5, 3
#: At most so many pictures on either side: 81 patches each at 32×32. Set once.
_PICTURES = 500

Decode = Callable[[nn.Module], Images]


def patches_of(images: Images) -> Float64Array:
    """Return the patches of images uint8 [n, h, w, c], float64 [n·p, side·side·c]; all pixels of smaller images."""
    height, width = (min(_SIDE, size) for size in images.shape[1:3])
    windows = np.lib.stride_tricks.sliding_window_view(images[:_PICTURES], (height, width), axis=(1, 2))
    chosen = windows[:, ::_STEP, ::_STEP]
    return chosen.reshape(-1, int(np.prod(chosen.shape[3:]))).astype(np.float64)


def patch_distance(images: Images, public: Images) -> float:
    """Return how far the patches of pictures are from those of public ones: 0 alike, 1 as far as flat gray.

    Args:
        images: uint8 [n, h, w, c].
        public: uint8 [m, h, w, c].
    """
    here, there = patches_of(images), patches_of(public)
    first, second = np.cov(here, rowvar=False), np.cov(there, rowvar=False)
    apart = float(((here.mean(0) - there.mean(0)) ** 2).sum())
    # The roots of C₁·C₂ are those of the symmetric R·C₁·R with R² = C₂.
    values, axes = np.linalg.eigh(second)
    root = (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ first @ root), 0.0)).sum()
    squared = apart + float(np.trace(first) + np.trace(second)) - 2.0 * float(shared)
    return max(0.0, squared) / max(float(np.trace(second)), 1e-9)


@dataclass
class BestEpoch:
    """The generator of the epoch whose pictures have the patches of public ones. A checkpoint holds it.

    Attributes:
        decode: What a generator makes of the pool, as the attack would hand it over.
        public: Public plain images, uint8 [m, h, w, c].
        epoch: The best epoch so far; 0 before the first.
        distance: Its distance.
        distances: Those of all epochs, by their numbers.
        weights: Its generator's state.
    """

    decode: Decode
    public: Images
    epoch: int = 0
    distance: float = float("inf")
    distances: dict[int, float] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def consider(self, generator: nn.Module, epoch: int) -> None:
        """Measure the generator of an epoch, and keep it if none was nearer."""
        distance = patch_distance(self.decode(generator), self.public)
        self.distances[epoch] = round(distance, 5)
        if distance < self.distance:
            self.epoch, self.distance = epoch, distance
            self.weights = {name: value.clone() for name, value in generator.state_dict().items()}

    def restore(self, generator: nn.Module) -> None:
        """Give a generator the weights of the best epoch; leave it as it is if no epoch was whole."""
        if self.epoch:
            generator.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        names = ("epoch", "distance", "distances", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)
