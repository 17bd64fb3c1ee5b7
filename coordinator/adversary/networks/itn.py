"""The inverse transformation network (T2): a U-Net learns to decode images that the adversary encrypts itself.

The adversary encrypts public images, each under a fresh key of its own, and the U-Net learns the way back. It never
sees the victim's key. What it makes of the victim's ciphertexts is what all keys have in common. The training needs
no ciphertext. With pairs under the victim's key this would be another attack, of tier T3.

Source: Ito, Kinoshita, Kiya (2020) and Sirichotedumrong and Kiya, arXiv 2010.06198: U-Net of 64 to 1024 channels,
sigmoid, mean squared error, SGD, 200 epochs of batches of 128. All of these are taken over.

Ours: how the U-Net goes up (nearest neighbour and a convolution, as in the U-Net code in common use), and fresh
keys at every epoch.

The published SSIM near zero says nothing about the attack. The network of the released code is not a U-Net. It puts a
sigmoid on a tanh, so its outputs lie in .27 to .73, and it fits these to pictures in -1…1. Here output and target are
both in 0…1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.networks import device, training_loop
from coordinator.adversary.networks.training_loop import OnEpoch, Progress, TrainingConfig
from coordinator.adversary.time_budget import Budget
from coordinator.model.model_input import to_model_input
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.plural import counted
from crypto.scheme import load
from crypto.spec import SchemeSpec

#: The published training.
PUBLISHED = TrainingConfig(epochs=200, batch_size=128)
#: SGD's settings, from the source.
_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.1, 0.9, 5e-4
#: The learning rate falls by this factor after these epochs, as in the source.
_RATE_FACTOR, _MILESTONES = 0.2, (60, 120, 160)
#: Sides are multiples of this: the U-Net halves the picture four times.
_MULTIPLE = 16


class UNet(nn.Module):
    """A U-Net with outputs in 0…1, for pictures whose sides are multiples of 16.

    Args:
        channels: of the pictures.
        width: channels of the first level; every level below has twice as many.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 16 * width]
        self.down = nn.ModuleList(
            _double_convolution(ins, outs) for ins, outs in zip([channels, *widths], widths, strict=False)
        )
        self.wider = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), *_convolution(2 * outs, outs))
            for outs in widths[:-1]
        )
        self.up = nn.ModuleList(_double_convolution(2 * outs, outs) for outs in widths[:-1])
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, c, h, w] to the same shape, in 0…1."""
        levels = [self.down[0](images)]
        for layer in list(self.down)[1:]:
            levels.append(layer(functional.max_pool2d(levels[-1], 2)))
        features = levels.pop()
        for wider, up in zip(reversed(self.wider), reversed(self.up), strict=True):
            features = up(torch.cat([levels.pop(), wider(features)], 1))
        return torch.sigmoid(self.last(features))


def _convolution(ins: int, outs: int) -> list[nn.Module]:
    """Return a convolution of 3×3 with batch norm and ReLU."""
    return [nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]


def _double_convolution(ins: int, outs: int) -> nn.Sequential:
    """Return two such convolutions."""
    return nn.Sequential(*_convolution(ins, outs), *_convolution(outs, outs))


def seal_under_fresh_keys(images: Images, spec: SchemeSpec, seed: int, epoch: int, first: int) -> AnyArray:
    """Encrypt images, each under a key of its own, and return them in the plain shape.

    The keys are the adversary's. They follow from the seed, the epoch and the place in the epoch, so they are secret
    from nobody, and a resumed training uses the same ones.

    Args:
        images: uint8 [n, *image_shape].
        spec: the public description of the scheme.
        seed: of the training.
        epoch: of the training.
        first: the place of the first image in the epoch.

    Returns:
        The ciphertexts [n, *image_shape].
    """
    options = {name: value for name, value in spec.options.items() if name != "nonce"}
    nonce = hashlib.sha256(f"{seed} {epoch}".encode()).hexdigest()[:32]
    image_keys = replace(spec, key_scope="image", options={**options, "nonce": nonce})
    key = SecretKey(hashlib.sha256(f"the keys of an adversary, {seed}".encode()).digest())
    sealed = load(image_keys).cipher(key).encrypt(images, first)
    return training_loop.to_plain_shape(spec, sealed)


@dataclass(frozen=True)
class _Batch:
    """Some images of an epoch: its number, the place of the first image in it, and their rows, int64 [b]."""

    epoch: int
    first: int
    rows: Int64Array


def train(
    public: Images,
    spec: SchemeSpec,
    config: TrainingConfig = PUBLISHED,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch = training_loop.ignore,
    width: int = 64,
) -> tuple[UNet, Progress]:
    """Train a U-Net on plain images alone.

    Args:
        public: plain images, uint8 [m, *image_shape].
        spec: the public description of the scheme.
        config: epochs, batch size and seed.
        budget: the time that the training may take; None for no limit.
        checkpoint: a file to write. If it exists, the training continues from it.
        on_epoch: called with the network and its progress after every epoch.
        width: channels of the U-Net's first level.

    Returns:
        The network, and how far it came.

    Raises:
        CipherwardError: there are fewer images than a batch holds, or the U-Net cannot take such pictures.
    """
    check_size(spec)
    size = config.batch_size
    if len(public) < size:
        raise CipherwardError(
            f"{counted(len(public), 'plain image makes', 'plain images make')} no batch of {size}",
            f"give at least {size} public images",
        )
    with device.seeded_torch(config.seed):
        network = device.move_to_device(UNet(spec.image_shape[2], width)).train()
    optimiser = torch.optim.SGD(
        network.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
    )
    rates = torch.optim.lr_scheduler.MultiStepLR(
        optimiser, milestones=list(_MILESTONES), gamma=_RATE_FACTOR
    )
    plain = device.images_to_device(public)

    def batches(rng: np.random.Generator, epoch: int) -> list[_Batch]:
        order = rng.permutation(len(public))
        return [_Batch(epoch, i, order[i : i + size]) for i in range(0, len(order) - size + 1, size)]

    def step(batch: _Batch) -> dict[str, float]:
        sealed = seal_under_fresh_keys(public[batch.rows], spec, config.seed, batch.epoch, batch.first)
        targets = device.take_batch(plain, batch.rows).add(1.0).div(2.0)
        outputs = network.train()(to_model_input(device.images_to_device(sealed)))
        loss = functional.mse_loss(outputs, targets)
        device.take_step(optimiser, loss)
        return {"squared_error": loss.item()}

    progress = training_loop.train(
        {"network": network, "optimiser": optimiser, "rates": rates},
        config,
        batches,
        step,
        budget or Budget(float("inf")),
        {"attack": "itn", "width": width, **training_loop.training_identity(spec, public)},
        checkpoint,
        lambda progress: on_epoch(network, progress),
        rates.step,
    )
    return network, progress


def check_size(spec: SchemeSpec) -> None:
    """Raise CipherwardError if the U-Net cannot take pictures of this size."""
    height, width = spec.image_shape[:2]
    if height % _MULTIPLE or width % _MULTIPLE:
        raise CipherwardError(
            f"the U-Net of the ITN attack cannot take pictures of {height}×{width}",
            f"both sides must be multiples of {_MULTIPLE}",
        )


def attack(knowledge: Knowledge) -> Guess:
    """Guess the rows' images by a trained network.

    Without enough public images, or if nothing was trained, the guess is the ciphertext's picture, with a note.
    """
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    spec = pool.spec
    check_size(spec)
    note = training_loop.missing_data(knowledge, 0, PUBLISHED.batch_size)
    sealed = pool.images(rows)
    if note:
        return Guess(load(spec).picture(sealed), note=note, idle=True)
    network, progress = train(np.asarray(knowledge.public), spec, budget=knowledge.budget)
    if progress.is_untrained:
        return Guess(load(spec).picture(sealed), note=progress.note, idle=True)
    images = device.decode_images(network, training_loop.to_plain_shape(spec, sealed), lowest=0.0)
    return Guess(images, note=progress.note)
