"""The GAN attack (T2): a generator opens ciphertexts so that a discriminator takes the results for plain images.

Ciphertexts of one key on one side, public plain images on the other; no pair of them is known. The generator treats
all blocks alike, so it fits schemes with one key for all blocks that leave the blocks in place.

Source: Sirichotedumrong and Kiya, arXiv 2010.06198, and the code released by Ito after Sirichotedumrong's
(learnable_encryption_robustness), for 32×32 RGB and blocks of 4: 50,000 ciphertexts against the same 50,000 images,
plain and in another order; 25 epochs of batches of 64. Published median SSIM: LE .66, PE .12, ELE and EtC .095. Taken
over: layers, initial weights, losses, optimisers, the order of the updates. Ours: blocks of another side B, with B²c
for 48 and 32·B² for 512; pictures above 32×32, where the discriminator judges every place of its last map; guesses
with batch norm's running statistics (the released code takes those of the test batch); an epoch's last, incomplete
batch is left out; and `toned`: the discriminator hardly minds a loss of contrast, and a long training fades, but what
the adversary holds in public says how light and how varied each colour of such pictures is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.networks import training_loop
from coordinator.adversary.networks.training_loop import Course, Progress
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec

PUBLISHED = Course(epochs=25, batch=64)
LEAST_SIDE = 24  # below, the discriminator's last map is smaller than its pooling window
_TONES = 2000  # most images on either side that say what tones are usual
_RATE, _BETAS = 2e-4, (0.5, 0.999)


def generator_of(spec: SchemeSpec) -> nn.Sequential:
    """[n, c, h, w] in -1…1 → the same: the paper's network for PE, or the one for blocks, untrained."""
    channels, block = spec.image_shape[2], spec.block
    if spec.name == "pe":
        widths = [channels, 64, 128, 256]
        layers: list[nn.Module] = []
        for ins, outs in itertools.pairwise(widths):
            layers += [nn.Conv2d(ins, outs, 1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, nn.Conv2d(256, channels, 1), nn.Tanh())
    values, features = block**2 * channels, 32
    wide = features * block**2
    return nn.Sequential(
        nn.Conv2d(channels, values, block, stride=block),
        nn.BatchNorm2d(values),
        nn.ReLU(inplace=True),
        nn.Conv2d(values, values, 1),
        nn.BatchNorm2d(values),
        nn.ReLU(inplace=True),
        nn.Conv2d(values, wide, 1),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
        nn.PixelShuffle(block),
        nn.Conv2d(features, channels, 1),
        nn.Tanh(),
    )


def discriminator_of(channels: int, width: int = 64) -> nn.Sequential:
    """[n, c, h, w] in -1…1 → [n, 1, y, x] in 0…1, how likely it is plain; one place at 32×32. Untrained."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 1, 4, bias=False),
        nn.MaxPool2d(3),
        nn.Sigmoid(),
    )


def _initial(layer: nn.Module) -> None:
    """The source's (DCGAN's) initial weights: convolutions N(0, .02), batch norm N(1, .02) and 0."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def cross_entropy(judged: torch.Tensor, plain: bool) -> torch.Tensor:
    """Mean of -log(judged) for plain images, of -log(1 - judged) for made ones; logs no less than -100."""
    wanted = torch.full_like(judged, float(plain))
    return functional.binary_cross_entropy(judged, wanted)


def train(
    sealed: np.ndarray,
    public: np.ndarray,
    spec: SchemeSpec,
    course: Course = PUBLISHED,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    told: Callable[[nn.Module, Progress], None] = lambda generator, progress: None,
) -> tuple[nn.Module, Progress]:
    """(the generator, how far it came), from ciphertexts [n, *image_shape] and plain images uint8 [m, *image_shape].

    Goes on from the checkpoint where that file exists. told: after every epoch. Raises CipherwardError for fewer
    images than a batch, and for pictures that the discriminator cannot take.
    """
    check_size(spec)
    if min(len(sealed), len(public)) < course.batch:
        raise CipherwardError(
            f"{len(sealed)} ciphertexts and {len(public)} plain images make no batch of {course.batch}"
        )
    with training_loop.weights_from(course.seed):
        generator, discriminator = generator_of(spec), discriminator_of(spec.image_shape[2])
        for network in (generator, discriminator):
            training_loop.placed(network.apply(_initial)).train()
    by_generator = torch.optim.Adam(generator.parameters(), lr=_RATE, betas=_BETAS)
    by_discriminator = torch.optim.Adam(discriminator.parameters(), lr=_RATE, betas=_BETAS)
    ciphertexts, plain = training_loop.on_device(sealed), training_loop.on_device(public)

    def step(batch: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        inputs, real = training_loop.chosen(ciphertexts, batch[0]), training_loop.chosen(plain, batch[1])
        made = generator.train()(inputs)
        loss = cross_entropy(discriminator(real), True) + cross_entropy(discriminator(made.detach()), False)
        by_discriminator.zero_grad()
        loss.backward()
        by_discriminator.step()
        deceived = cross_entropy(discriminator(made), True)
        by_generator.zero_grad()
        deceived.backward(inputs=list(generator.parameters()))
        by_generator.step()
        return {"discriminator": loss.item(), "generator": deceived.item()}

    progress = training_loop.train(
        {
            "generator": generator,
            "discriminator": discriminator,
            "by_generator": by_generator,
            "by_discriminator": by_discriminator,
        },
        course,
        lambda draw, _: training_loop.unpaired(draw, len(sealed), len(public), course.batch),
        step,
        budget or Budget(float("inf")),
        {"attack": "gan", **training_loop.about(spec, sealed, public)},
        checkpoint,
        lambda progress: told(generator, progress),
    )
    return generator, progress


def toned(images: np.ndarray, made: np.ndarray, public: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, c]: images with each colour stretched as takes the pictures `made` to the public ones'
    mean and standard deviation. made, public: uint8 [m, h, w, c], what the generator makes of a pool, plain ones.
    """
    axes = (0, 1, 2)
    stretch = public.std(axes) / np.maximum(made.std(axes), 1.0)
    levels = (images - made.mean(axes)) * stretch + public.mean(axes)
    return levels.round().clip(0, 255).astype(np.uint8)


def check_size(spec: SchemeSpec) -> None:
    """Raises CipherwardError for pictures that the discriminator cannot take."""
    if min(spec.image_shape[:2]) < LEAST_SIDE:
        height, width = spec.image_shape[:2]
        raise CipherwardError(
            f"the discriminator of the GAN attack cannot take pictures of {height}×{width}",
            f"both sides are at least {LEAST_SIDE} pixels",
        )


def attack(knowledge: Knowledge) -> Guess:
    """What the generator makes of the rows to guess. Without enough images, the ciphertext's picture and a note."""
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    spec = pool.spec
    check_size(spec)
    note = training_loop.lacking(knowledge, PUBLISHED.batch, PUBLISHED.batch)
    sealed = pool.images(rows)
    images = load(spec).picture(sealed)
    idle = bool(note)
    if not idle:
        seen = training_loop.as_input(spec, pool.images(np.asarray(knowledge.pool_rows, np.int64)))
        generator, progress = train(seen, np.asarray(knowledge.public), spec, budget=knowledge.budget)
        note = progress.note
        idle = progress.untrained
        if not idle:
            made = training_loop.pictures(generator, seen[:_TONES])
            images = training_loop.pictures(generator, training_loop.as_input(spec, sealed))
            images = toned(images, made, np.asarray(knowledge.public)[:_TONES])
    return Guess(images, note=note, idle=idle)
