"""The inverse transformation network (T2): trained to open what the adversary seals itself, under keys of its own.

The adversary seals public images, each under a fresh key, and a U-Net learns the way back. It never sees the victim's
key; what it makes of the victim's ciphertexts is what all keys have in common. No ciphertext is needed to train it.
With pairs under the victim's key it would be an attack of tier T3, and another one.

Source: Ito, Kinoshita, Kiya (2020) and Sirichotedumrong and Kiya, arXiv 2010.06198: U-Net of 64 to 1024 channels,
sigmoid, mean squared error, SGD, 200 epochs of batches of 128. Taken over: those. Ours: how the U-Net goes up
(nearest neighbour and a convolution, as in the U-Net code in common use), and fresh keys at every epoch. The released
code, whose network is no U-Net, puts a sigmoid on a tanh, so that it makes .27 to .73, and fits that to pictures in
-1…1: the published SSIM near zero says nothing of the attack. Here output and target are both in 0…1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.networks import training_loop
from coordinator.adversary.networks.training_loop import Course, Progress
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.spec import SchemeSpec

PUBLISHED = Course(epochs=200, batch=128)
_RATE, _MOMENTUM, _DECAY = 0.1, 0.9, 5e-4
_SLOWER, _AT = 0.2, (60, 120, 160)
_MULTIPLE = 16  # the U-Net halves four times


class UNet(nn.Module):
    """[n, c, h, w] → the same size and channels in 0…1, h and w multiples of 16. width: the first channels."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 16 * width]
        self.down = nn.ModuleList(
            _twice(ins, outs) for ins, outs in zip([channels, *widths], widths, strict=False)
        )
        self.wider = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), *_conv(2 * outs, outs)) for outs in widths[:-1]
        )
        self.up = nn.ModuleList(_twice(2 * outs, outs) for outs in widths[:-1])
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        passed = [self.down[0](images)]
        for layer in list(self.down)[1:]:
            passed.append(layer(functional.max_pool2d(passed[-1], 2)))
        features = passed.pop()
        for wider, up in zip(reversed(self.wider), reversed(self.up), strict=True):
            features = up(torch.cat([passed.pop(), wider(features)], 1))
        return torch.sigmoid(self.last(features))


def _conv(ins: int, outs: int) -> list[nn.Module]:
    return [nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]


def _twice(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(*_conv(ins, outs), *_conv(outs, outs))


def seal_each(images: np.ndarray, spec: SchemeSpec, seed: int, epoch: int, first: int) -> np.ndarray:
    """uint8 [n, *image_shape] → [n, *image_shape], each sealed under a fresh key and brought to the plain shape.

    The keys are the adversary's own, from seed, epoch and the place in the epoch: secret from nobody, and the same
    when a training goes on.
    """
    options = {name: value for name, value in spec.options.items() if name != "nonce"}
    nonce = hashlib.sha256(f"{seed} {epoch}".encode()).hexdigest()[:32]
    own = replace(spec, key_scope="image", options={**options, "nonce": nonce})
    key = SecretKey(hashlib.sha256(f"the keys of an adversary, {seed}".encode()).digest())
    sealed = load(own).cipher(key).encrypt(images, first)
    return training_loop.as_input(spec, sealed)


def train(
    public: np.ndarray,
    spec: SchemeSpec,
    course: Course = PUBLISHED,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    told: Callable[[nn.Module, Progress], None] = lambda network, progress: None,
    width: int = 64,
) -> tuple[UNet, Progress]:
    """(the network, how far it came), from plain images uint8 [m, *image_shape] alone.

    Goes on from the checkpoint where that file exists. told: after every epoch. width: the U-Net's first channels.
    Raises CipherwardError for fewer images than a batch, and for pictures that the U-Net cannot take.
    """
    check_size(spec)
    if len(public) < course.batch:
        raise CipherwardError(f"{len(public)} plain images make no batch of {course.batch}")
    with training_loop.weights_from(course.seed):
        network = UNet(spec.image_shape[2], width)
        training_loop.placed(network).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
    rates = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=list(_AT), gamma=_SLOWER)
    plain = training_loop.on_device(public)

    def batches(draw: np.random.Generator, epoch: int) -> list[tuple[int, int, np.ndarray]]:
        order, size = draw.permutation(len(public)), course.batch
        return [(epoch, i, order[i : i + size]) for i in range(0, len(order) - size + 1, size)]

    def step(batch: tuple[int, int, np.ndarray]) -> dict[str, float]:
        epoch, first, rows = batch
        sealed = seal_each(public[rows], spec, course.seed, epoch, first)
        wanted = training_loop.chosen(plain, rows).add(1.0).div(2.0)
        made = network.train()(training_loop.scaled(training_loop.on_device(sealed)))
        loss = functional.mse_loss(made, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"squared_error": loss.item()}

    progress = training_loop.train(
        {"network": network, "optimiser": optimiser, "rates": rates},
        course,
        batches,
        step,
        budget or Budget(float("inf")),
        {"attack": "itn", "width": width, **training_loop.about(spec, public)},
        checkpoint,
        lambda progress: told(network, progress),
        rates.step,
    )
    return network, progress


def check_size(spec: SchemeSpec) -> None:
    """Raises CipherwardError for pictures that the U-Net cannot take."""
    height, width = spec.image_shape[:2]
    if height % _MULTIPLE or width % _MULTIPLE:
        raise CipherwardError(
            f"the U-Net of the ITN attack cannot take pictures of {height}×{width}",
            f"both sides must be multiples of {_MULTIPLE}",
        )


def attack(knowledge: Knowledge) -> Guess:
    """What the network makes of the rows to guess. Without enough public images, their picture and a note."""
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    spec = pool.spec
    check_size(spec)
    note = training_loop.lacking(knowledge, 0, PUBLISHED.batch)
    sealed = pool.images(rows)
    images = load(spec).picture(sealed)
    idle = bool(note)
    if not idle:
        network, progress = train(np.asarray(knowledge.public), spec, budget=knowledge.budget)
        note = progress.note
        idle = progress.untrained
        if not idle:
            images = training_loop.pictures(network, training_loop.as_input(spec, sealed), lowest=0.0)
    return Guess(images, note=note, idle=idle)
