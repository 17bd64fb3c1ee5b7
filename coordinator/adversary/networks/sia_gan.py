"""SIA-GAN (T2, with the pool's labels): a generator with a small network for every block, against a discriminator.

A block's own network can learn a key that differs from block to block. It cannot move blocks; for schemes that do,
with blocks of more than 4 pixels, a learnable permutation of the blocks follows (`Places`).

Source: Madono, Tanaka, Onishi, Ogawa, "SIA-GAN: Scrambling Inversion Attack Using Generative Adversarial Network",
IEEE Access 9 (2021), and the authors' code, for CIFAR-10 at 32×32: 100 epochs of batches of 64. Published LPIPS,
lower being the better attack: LE .091, PE .163, ELE .148, EtC .207. Taken over: layers, hinge loss, the code's
classifier loss, optimisers. Where paper and code differ, the code counts: no batch norm before the tanh, no
activation between the discriminator's last convolution and attention. Ours: a small classifier in place of a
ShakeDrop PyramidNet-110; torch's spectral norm in the discriminator, where the code divides the weights in place; one
network for all blocks where a network for each would hold too many weights; `Places`. Left out: the code's total
variation of the features, which the paper does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.networks import training_loop
from coordinator.adversary.networks.sia_networks import Discriminator, Generator, classifier_of
from coordinator.adversary.networks.training_loop import Course, Progress
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec

PUBLISHED = Course(epochs=100, batch=64)
LEAST_SIDE = 8  # the discriminator halves three times
_BETAS = (0.0, 0.9)
_GENERATOR_RATE, _DISCRIMINATOR_RATE = 1e-4, 4e-4
_MOVES_BLOCKS = {"block_pixel_shuffle", "block_pixel", "etc", "ele"}
_PAPER_BLOCK = 4
_MOST_WEIGHTS = 1 << 26  # of the blocks' own networks; 196 blocks of 16×16 would have 616 million


def hinge(judged_plain: torch.Tensor, judged_made: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss: mean of max(0, 1 - judged) of plain images, of max(0, 1 + judged) of made ones."""
    return functional.relu(1.0 - judged_plain).mean() + functional.relu(1.0 + judged_made).mean()


def generator_of(spec: SchemeSpec) -> Generator:
    """The generator for a scheme, untrained."""
    height, width, channels = spec.image_shape
    block = 1 if spec.name == "pe" else spec.block
    cells = (height // block, width // block)
    own = cells[0] * cells[1] * 16 * block**4 * channels <= _MOST_WEIGHTS
    return Generator(channels, block, cells, own, moves_blocks(spec))


def moves_blocks(spec: SchemeSpec) -> bool:
    """Whether the generator for a scheme learns where blocks belong: not at the paper's size, where it did not."""
    return spec.name in _MOVES_BLOCKS and spec.block > _PAPER_BLOCK


def train(
    sealed: np.ndarray,
    public: np.ndarray,
    labels: np.ndarray | None,
    spec: SchemeSpec,
    course: Course = PUBLISHED,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    told: Callable[[nn.Module, Progress], None] = lambda generator, progress: None,
    width: int = 1024,
) -> tuple[Generator, Progress]:
    """(the generator, how far it came), from ciphertexts [n, *image_shape] with int64 [n] labels, and uint8
    [m, *image_shape] plain images.

    Without labels the adversarial loss stands alone. Goes on from the checkpoint where that file exists. told:
    after every epoch. width: the discriminator's last channels. Raises CipherwardError for fewer images than a
    batch, and for pictures that the discriminator cannot take.
    """
    check_size(spec)
    if min(len(sealed), len(public)) < course.batch:
        raise CipherwardError(
            f"{len(sealed)} ciphertexts and {len(public)} plain images make no batch of {course.batch}"
        )
    channels = spec.image_shape[2]
    classes = 0 if labels is None else int(labels.max()) + 1
    with training_loop.weights_from(course.seed):
        generator = generator_of(spec)
        discriminator = Discriminator(spec.image_shape, width)
        classifier = classifier_of(channels, max(classes, 1))
        for network in (generator, discriminator, classifier):
            training_loop.placed(network).train()
    learnt = [*generator.parameters(), *(classifier.parameters() if classes else ())]
    by_generator = torch.optim.Adam(learnt, lr=_GENERATOR_RATE, betas=_BETAS)
    by_discriminator = torch.optim.Adam(discriminator.parameters(), lr=_DISCRIMINATOR_RATE, betas=_BETAS)
    ciphertexts, plain = training_loop.on_device(sealed), training_loop.on_device(public)
    truth = (
        None if labels is None else torch.from_numpy(np.asarray(labels, np.int64)).to(ciphertexts.device)
    )

    def step(batch: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        inputs, real = training_loop.chosen(ciphertexts, batch[0]), training_loop.chosen(plain, batch[1])
        made = generator.train()(inputs)
        loss = hinge(discriminator(real), discriminator(made.detach()))
        by_discriminator.zero_grad()
        loss.backward()
        by_discriminator.step()
        deceived = -discriminator(made).mean()
        losses = {"discriminator": loss.item(), "generator": deceived.item()}
        if truth is not None:
            told_apart = functional.cross_entropy(classifier(made), truth[torch.from_numpy(batch[0])])
            losses["classifier"] = told_apart.item()
            deceived = deceived + told_apart
        by_generator.zero_grad()
        deceived.backward(inputs=learnt)
        by_generator.step()
        return losses

    progress = training_loop.train(
        {
            "generator": generator,
            "discriminator": discriminator,
            "classifier": classifier,
            "by_generator": by_generator,
            "by_discriminator": by_discriminator,
        },
        course,
        lambda draw, _: training_loop.unpaired(draw, len(sealed), len(public), course.batch),
        step,
        budget or Budget(float("inf")),
        {
            "attack": "sia_gan",
            "classes": classes,
            "width": width,
            **training_loop.about(spec, sealed, public),
        },
        checkpoint,
        lambda progress: told(generator, progress),
    )
    return generator, progress


def check_size(spec: SchemeSpec) -> None:
    """Raises CipherwardError for pictures that the discriminator cannot take."""
    if min(spec.image_shape[:2]) < LEAST_SIDE:
        height, width = spec.image_shape[:2]
        raise CipherwardError(
            f"the discriminator of SIA-GAN cannot take pictures of {height}×{width}",
            f"both sides are at least {LEAST_SIDE} pixels",
        )


def attack(knowledge: Knowledge) -> Guess:
    """What the generator makes of the rows to guess. Without enough images, the ciphertext's picture and a note."""
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    spec, seen = pool.spec, np.asarray(knowledge.pool_rows, np.int64)
    check_size(spec)
    notes = [training_loop.lacking(knowledge, PUBLISHED.batch, PUBLISHED.batch)]
    sealed = pool.images(rows)
    images = load(spec).picture(sealed)
    idle = bool(notes[0])
    if not idle:
        labels = None if knowledge.labels is None else np.asarray(knowledge.labels, np.int64)[seen]
        generator, progress = train(
            training_loop.as_input(spec, pool.images(seen)),
            np.asarray(knowledge.public),
            labels,
            spec,
            budget=knowledge.budget,
        )
        shared = "one network for all blocks" if not generator.own else ""
        notes = [progress.note, "no labels: the adversarial loss alone" if labels is None else "", shared]
        idle = progress.untrained
        if not idle:
            images = training_loop.pictures(generator, training_loop.as_input(spec, sealed))
    note = "; ".join(part for part in notes if part)
    return Guess(images, note=note, idle=idle)
