"""Help for the tests of trained attacks: layers in words, sealed and public pictures, a small training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coordinator.adversary.networks import device, training_loop
from coordinator.adversary.networks.training_loop import Progress, TrainingConfig
from coordinator.adversary.time_budget import Budget
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec
from tests.support.small_pictures import waves

LE = describe("le", (32, 32, 3), 4)
KEY = SecretKey(bytes([3]) * 32)


def layers(network: nn.Module) -> list[str]:
    """Return each layer without parts in words: its kind, channels in and out, kernel, stride."""
    words = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            words.append(
                f"conv {layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}/{layer.stride[0]}"
            )
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            words.append(f"bn {layer.num_features}")
        elif isinstance(layer, nn.LeakyReLU):
            words.append(f"leaky {layer.negative_slope}")
        elif isinstance(layer, nn.ReLU | nn.PixelShuffle | nn.Tanh | nn.Sigmoid | nn.MaxPool2d):
            words.append(type(layer).__name__)
    return words


def size(network: nn.Module) -> int:
    """Return the number of weights."""
    return sum(p.numel() for p in network.parameters())


def sealed_and_public(n: int, side: int, scheme: str = "le") -> tuple[AnyArray, Images, SchemeSpec]:
    """Return n ciphertexts under KEY, n other plain images, and the scheme."""
    plain = waves(2 * n, side, seed=4)
    spec = describe(scheme, plain.shape[1:], 4)
    return load(spec).cipher(KEY).encrypt(plain[:n]), plain[n:], spec


class SmallTraining:
    """A small regression with Adam and batch norm: what it computes depends on every step before.

    Attributes:
        steps: how many were taken.
        stop_after: raise KeyboardInterrupt at the step after so many; -1 for never.
        orders: the order of the rows in every epoch.
    """

    CONFIG = TrainingConfig(epochs=3, batch_size=4, seed=5)
    DATA = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))

    def __init__(self, config: TrainingConfig = CONFIG, **options: Any) -> None:
        self.config, self.options = config, options
        with device.seeded_torch(config.seed):
            self.network = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=0.05)
        self.rates = torch.optim.lr_scheduler.MultiStepLR(self.optimiser, [1], 0.1)
        self.steps, self.stop_after = 0, -1
        self.orders: list[Int64Array] = []

    def batches(self, rng: np.random.Generator, _: int) -> list[Int64Array]:
        """Return the batches of an epoch."""
        order = rng.permutation(16)
        self.orders.append(order)
        return [order[i : i + 4] for i in range(0, 16, 4)]

    def step(self, rows: Int64Array) -> Mapping[str, float]:
        """Take a step, or stop."""
        if self.steps == self.stop_after:
            raise KeyboardInterrupt
        targets = self.DATA[rows].sum(1, keepdim=True)
        loss = (self.network(self.DATA[rows]) - targets).square().mean()
        device.take_step(self.optimiser, loss)
        self.steps += 1
        return {"loss": loss.item()}

    def run(self, checkpoint: Path | None = None, budget: float = 60.0, **options: Any) -> Progress:
        """Train, with the options of `training_loop.train`."""
        parts: dict[str, training_loop.Stateful] = {
            "network": self.network,
            "optimiser": self.optimiser,
            "rates": self.rates,
        }
        options = {
            "identity": {"of": "a test"},
            "advance_rates": self.rates.step,
            **self.options,
            **options,
        }
        return training_loop.train(
            parts, self.config, self.batches, self.step, Budget(budget), checkpoint=checkpoint, **options
        )

    @property
    def weights(self) -> AnyArray:
        """The network's whole state, flat."""
        return torch.cat([w.detach().flatten() for w in self.network.state_dict().values()]).numpy()
