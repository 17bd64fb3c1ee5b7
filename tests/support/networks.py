"""What the tests of trained attacks share: a network's layers in words, and pictures that are sealed and public."""

from __future__ import annotations

import numpy as np
from torch import nn

from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support.small_pictures import waves

LE = describe("le", (32, 32, 3), 4)
KEY = SecretKey(bytes([3]) * 32)


def layers(network: nn.Module) -> list[str]:
    """Each layer without parts: its kind, channels in and out, kernel, stride."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            found.append(
                f"conv {layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}/{layer.stride[0]}"
            )
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            found.append(f"bn {layer.num_features}")
        elif isinstance(layer, nn.LeakyReLU):
            found.append(f"leaky {layer.negative_slope}")
        elif isinstance(layer, nn.ReLU | nn.PixelShuffle | nn.Tanh | nn.Sigmoid | nn.MaxPool2d):
            found.append(type(layer).__name__)
    return found


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def sealed_and_public(n: int, side: int, scheme: str = "le") -> tuple[np.ndarray, np.ndarray, object]:
    plain = waves(2 * n, side, seed=4)
    spec = describe(scheme, plain.shape[1:], 4)
    return load(spec).cipher(KEY).encrypt(plain[:n]), plain[n:], spec
