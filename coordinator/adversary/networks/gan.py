"""The GAN attack on learnable image encryption (T2): a generator decodes ciphertexts into plausible plain images.

The adversary holds ciphertexts under one key and public plain images, and knows no pair of the two. A discriminator
learns to tell the generator's images from plain ones, and the generator learns to deceive it. The generator treats
all blocks alike. So it fits schemes with one key for all blocks that leave the blocks in place.

Source: Sirichotedumrong and Kiya, arXiv 2010.06198, and the code released by Ito after Sirichotedumrong's
(learnable_encryption_robustness), for 32×32 RGB and blocks of 4: 50,000 ciphertexts against the same 50,000 images,
plain and in another order; 25 epochs of batches of 64. Published median SSIM: LE .66, PE .12, ELE and EtC .095.

Taken over: layers, initial weights, losses, optimisers, the order of the updates.

Ours:

- blocks of another side B, with B²c features for 48 and 32·B² for 512;
- pictures above 32×32, where the discriminator judges every place of its last map;
- guesses with batch norm's running statistics (the released code takes those of the test batch);
- an epoch's last, incomplete batch is left out;
- `match_tones`: long trainings fade (below), and half of them end in the negative: LE inverts pixels at random, and
  nothing in the training tells a picture from its negative. The adversary's public images say how light and how
  varied each colour of such pictures is, and where in a picture it is mostly light;
- the epoch is chosen (epoch_choice.py) by the patches of the pictures in these tones, beside public ones.

Why pictures fade. The source's discriminator has convolutions without biases, leaky ReLUs and a maximum, all of which
scale with their input: for any weights, its logit of a picture at α times its contrast about mid-gray is α times that
of the picture. Flat mid-gray gets a logit of 0, a likelihood of exactly 1/2, and no training of the discriminator
changes that. Where it takes generated pictures for such, their logit is negative, and the generator gains by less
contrast, down to a loss of ln 2 = .693. That is what the trainings did: the generator's loss stays at .70 to .73 from
the 4th epoch on, while the discriminator's falls from 1.22 to .80 and SSIM from .77 to .30. So contrast carries no
information about the key: what was learnt of it is still there, and comes back with the tones of public images.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.networks import device, training_loop
from coordinator.adversary.networks.epoch_choice import BestEpoch
from coordinator.adversary.networks.training_loop import OnEpoch, Progress, TrainingConfig
from coordinator.adversary.time_budget import Budget
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec

#: The published training.
PUBLISHED = TrainingConfig(epochs=25, batch_size=64)
#: On smaller pictures the discriminator's last map is smaller than its pooling window.
MIN_SIDE = 24
#: At most so many images on either side say what tones are usual. Set by hand; not tuned further.
_TONE_IMAGES = 2000
#: Adam's settings, from the source.
_RATE, _BETAS = 2e-4, (0.5, 0.999)


def build_generator(spec: SchemeSpec) -> nn.Sequential:
    """Return the untrained generator: the paper's network for PE, its network for blocks under any other scheme.

    It maps float32 [n, c, h, w] in -1…1 to the same shape and range.
    """
    channels, block = spec.image_shape[2], spec.block
    if spec.name == "pe":
        widths = [channels, 64, 128, 256]
        layers: list[nn.Module] = []
        for ins, outs in itertools.pairwise(widths):
            layers += [nn.Conv2d(ins, outs, 1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, nn.Conv2d(256, channels, 1), nn.Tanh())
    values, features = block**2 * channels, 32
    shuffled = features * block**2
    return nn.Sequential(
        nn.Conv2d(channels, values, block, stride=block),
        nn.BatchNorm2d(values),
        nn.ReLU(inplace=True),
        nn.Conv2d(values, values, 1),
        nn.BatchNorm2d(values),
        nn.ReLU(inplace=True),
        nn.Conv2d(values, shuffled, 1),
        nn.BatchNorm2d(shuffled),
        nn.ReLU(inplace=True),
        nn.PixelShuffle(block),
        nn.Conv2d(features, channels, 1),
        nn.Tanh(),
    )


def build_discriminator(channels: int, width: int = 64) -> nn.Sequential:
    """Return the untrained discriminator. Its outputs say how likely an image is plain.

    It maps float32 [n, c, h, w] in -1…1 to [n, 1, y, x] in 0…1, with a single place at 32×32.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 1, 4, bias=False),
        nn.MaxPool2d(3),
        nn.Sigmoid(),
    )


def init_weights(layer: nn.Module) -> None:
    """Draw the source's (DCGAN's) initial weights: convolutions N(0, .02), batch norm N(1, .02) with bias 0."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def cross_entropy(likelihoods: torch.Tensor, is_plain: bool) -> torch.Tensor:
    """Return the mean of -log(likelihood) for plain images, of -log(1 - likelihood) for generated ones.

    Logarithms are no less than -100.
    """
    targets = torch.full_like(likelihoods, float(is_plain))
    return functional.binary_cross_entropy(likelihoods, targets)


@dataclass(frozen=True)
class _Players:
    """Generator and discriminator, each with its optimiser."""

    generator: nn.Sequential
    discriminator: nn.Sequential
    by_generator: torch.optim.Adam
    by_discriminator: torch.optim.Adam

    def step(self, inputs: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        """Update the discriminator, then the generator, by one batch, and return their losses."""
        generated = self.generator.train()(inputs)
        loss = cross_entropy(self.discriminator(real), True)
        loss = loss + cross_entropy(self.discriminator(generated.detach()), False)
        device.take_step(self.by_discriminator, loss)
        deception = cross_entropy(self.discriminator(generated), True)
        device.take_step(self.by_generator, deception, list(self.generator.parameters()))
        return {"discriminator": loss.item(), "generator": deception.item()}


def _players(spec: SchemeSpec, seed: int) -> _Players:
    """Return untrained networks, on the device, with their optimisers."""
    with device.seeded_torch(seed):
        generator, discriminator = build_generator(spec), build_discriminator(spec.image_shape[2])
        for network in (generator, discriminator):
            device.move_to_device(network.apply(init_weights)).train()
    return _Players(
        generator,
        discriminator,
        torch.optim.Adam(generator.parameters(), lr=_RATE, betas=_BETAS),
        torch.optim.Adam(discriminator.parameters(), lr=_RATE, betas=_BETAS),
    )


def train(
    sealed: AnyArray,
    public: Images,
    spec: SchemeSpec,
    config: TrainingConfig = PUBLISHED,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch = training_loop.ignore,
    best: BestEpoch | None = None,
) -> tuple[nn.Module, Progress]:
    """Train a generator on ciphertexts and plain images.

    Args:
        sealed: ciphertexts [n, *image_shape].
        public: plain images, uint8 [m, *image_shape].
        spec: the public description of the scheme.
        config: epochs, batch size and seed.
        budget: the time that the training may take; None for no limit.
        checkpoint: a file to write. If it exists, the training continues from it.
        on_epoch: called with the generator and its progress after every epoch.
        best: keeps the generator of the epoch whose pictures have the patches of public ones.

    Returns:
        The generator as the training left it, and how far it came.

    Raises:
        CipherwardError: there are fewer images than a batch holds, or the discriminator cannot take such pictures.
    """
    check_size(spec)
    training_loop.check_batch(config, sealed, public)
    players = _players(spec, config.seed)
    ciphertexts, plain = device.images_to_device(sealed), device.images_to_device(public)

    def step(batch: tuple[Int64Array, Int64Array]) -> dict[str, float]:
        inputs = device.take_batch(ciphertexts, batch[0])
        return players.step(inputs, device.take_batch(plain, batch[1]))

    def end_epoch() -> None:
        if best is not None:
            best.consider(players.generator, len(best.distances) + 1)

    parts: dict[str, training_loop.Stateful] = dict(vars(players))
    choice = {} if best is None else {"epoch": "by patches"}
    progress = training_loop.train(
        parts if best is None else {**parts, "best": best},
        config,
        lambda rng, _: training_loop.unpaired_batches(rng, len(sealed), len(public), config.batch_size),
        step,
        budget or Budget(float("inf")),
        {"attack": "gan", **choice, **training_loop.training_identity(spec, sealed, public)},
        checkpoint,
        lambda progress: on_epoch(players.generator, progress),
        end_epoch,
    )
    return players.generator, progress


def match_tones(images: Images, generated: Images, public: Images) -> Images:
    """Return images with the tones of public pictures, as positives.

    Each colour is stretched by what takes the mean and the standard deviation of the generated pictures to those of
    the public ones. All are inverted if the mean picture of the generated ones is light where that of the public ones
    is dark.

    Args:
        images: uint8 [n, h, w, c].
        generated: uint8 [m, h, w, c], what the generator makes of a pool.
        public: uint8 [m, h, w, c], plain images.
    """
    axes = (0, 1, 2)
    stretch = public.std(axes) / np.maximum(generated.std(axes), 1.0)
    means = [pictures.mean(0) - pictures.mean(axes) for pictures in (generated, public)]
    if (stretch * means[0] * means[1]).sum() < 0:
        stretch = -stretch
    levels = (images - generated.mean(axes)) * stretch + public.mean(axes)
    result: Images = levels.round().clip(0, 255).astype(np.uint8)
    return result


def choose_epoch(pool_images: AnyArray, public: Images) -> BestEpoch:
    """Return what chooses the epoch of a training on these images: by its pictures in the tones of public ones."""
    few, shown = pool_images[:_TONE_IMAGES], public[:_TONE_IMAGES]

    def decode(generator: nn.Module) -> Images:
        generated = device.decode_images(generator, few)
        return match_tones(generated, generated, shown)

    return BestEpoch(decode, shown)


def check_size(spec: SchemeSpec) -> None:
    """Raise CipherwardError if the discriminator cannot take pictures of this size."""
    if min(spec.image_shape[:2]) < MIN_SIDE:
        height, width = spec.image_shape[:2]
        raise CipherwardError(
            f"the discriminator of the GAN attack cannot take pictures of {height}×{width}",
            f"both sides are at least {MIN_SIDE} pixels",
        )


def attack(knowledge: Knowledge) -> Guess:
    """Guess the rows' images by a trained generator.

    Without enough images, or if nothing was trained, the guess is the ciphertext's picture, with a note.
    """
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    spec = pool.spec
    check_size(spec)
    note = training_loop.missing_data(knowledge, PUBLISHED.batch_size, PUBLISHED.batch_size)
    sealed = pool.images(rows)
    if note:
        return Guess(load(spec).picture(sealed), note=note, idle=True)
    pool_images = training_loop.to_plain_shape(spec, pool.images(np.asarray(knowledge.pool_rows, np.int64)))
    public = np.asarray(knowledge.public)
    best = choose_epoch(pool_images, public)
    generator, progress = train(pool_images, public, spec, budget=knowledge.budget, best=best)
    if progress.is_untrained and not best.epoch:
        return Guess(load(spec).picture(sealed), note=progress.note, idle=True)
    best.restore(generator)  # of a training that diverged later, too
    generated = device.decode_images(generator, pool_images[:_TONE_IMAGES])
    images = device.decode_images(generator, training_loop.to_plain_shape(spec, sealed))
    chosen = f"epoch {best.epoch} of {progress.epochs} chosen by its patches" if best.epoch else ""
    note = "; ".join(filter(None, (progress.note, chosen)))
    return Guess(match_tones(images, generated, public[:_TONE_IMAGES]), note=note)
