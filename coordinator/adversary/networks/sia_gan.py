"""SIA-GAN, an attack on learnable image encryption (T2, with the pool's labels): one small network for every block.

The generator is trained against a discriminator, as in the GAN attack. A block's own network can learn a key that
differs from block to block. It cannot move blocks. For schemes that move blocks of more than 4 pixels, a learnable
permutation of the blocks follows (`SoftPermutation`).

Source: Madono, Tanaka, Onishi, Ogawa, "SIA-GAN: Scrambling Inversion Attack Using Generative Adversarial Network",
IEEE Access 9 (2021), and the authors' code, for CIFAR-10 at 32×32: 100 epochs of batches of 64. Published LPIPS
(lower means a better attack): LE .091, PE .163, ELE .148, EtC .207.

Taken over: layers, hinge loss, the code's classifier loss, optimisers. Where paper and code differ, we follow the
code: no batch norm before the tanh, no activation between the discriminator's last convolution and attention.

Ours: a small classifier in place of a ShakeDrop PyramidNet-110; torch's spectral norm in the discriminator, where the
code divides the weights in place; one network for all blocks where a network for each would hold too many weights;
`SoftPermutation`.

Left out: the code's total variation of the features, which the paper does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.networks import device, training_loop
from coordinator.adversary.networks.sia_networks import Discriminator, Generator, build_classifier
from coordinator.adversary.networks.training_loop import OnEpoch, Progress, TrainingConfig
from coordinator.adversary.time_budget import Budget
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec

#: The published training.
PUBLISHED = TrainingConfig(epochs=100, batch_size=64)
#: The discriminator halves the picture three times.
MIN_SIDE = 8
#: Adam's settings, from the source.
_BETAS = (0.0, 0.9)
_GENERATOR_RATE, _DISCRIMINATOR_RATE = 1e-4, 4e-4
#: Schemes that move blocks, but get no permutation. Why value_shuffle was left out is not recorded.
_WITHOUT_PERMUTATION = {"value_shuffle"}
#: The source's blocks. Its generator has no permutation.
_PAPER_BLOCK = 4
#: Above so many weights all blocks share one network. 196 blocks of 16×16 would have 616 million. Set by hand.
_MAX_BLOCK_WEIGHTS = 1 << 26


def hinge_loss(plain_scores: torch.Tensor, generated_scores: torch.Tensor) -> torch.Tensor:
    """Return the discriminator's loss.

    It is the mean of max(0, 1 - score) over plain images plus the mean of max(0, 1 + score) over generated ones.
    """
    return functional.relu(1.0 - plain_scores).mean() + functional.relu(1.0 + generated_scores).mean()


def build_generator(spec: SchemeSpec) -> Generator:
    """Return the untrained generator for a scheme."""
    height, width, channels = spec.image_shape
    block = 1 if spec.name == "pe" else spec.block
    cells = (height // block, width // block)
    per_block = cells[0] * cells[1] * 16 * block**4 * channels <= _MAX_BLOCK_WEIGHTS
    return Generator(channels, block, cells, per_block, moves_blocks(spec))


def moves_blocks(spec: SchemeSpec) -> bool:
    """Return whether the generator learns where blocks belong; as in the paper, it does not at the paper's size."""
    has_permutation = load(spec).moves_blocks and spec.name not in _WITHOUT_PERMUTATION
    return has_permutation and spec.block > _PAPER_BLOCK


@dataclass(frozen=True)
class _Players:
    """Generator, discriminator and classifier, with the optimisers of the first two.

    The generator's optimiser trains the classifier, too, if there are labels.
    """

    generator: Generator
    discriminator: Discriminator
    classifier: nn.Sequential
    by_generator: torch.optim.Adam
    by_discriminator: torch.optim.Adam

    def step(
        self, inputs: torch.Tensor, real: torch.Tensor, labels: torch.Tensor | None
    ) -> dict[str, float]:
        """Update the discriminator, then the generator, by one batch, and return their losses.

        Args:
            inputs: ciphertexts, float32 [b, c, h, w].
            real: plain images, float32 [b, c, h, w].
            labels: the classes of the ciphertexts, int64 [b], or None for the adversarial loss alone.
        """
        generated = self.generator.train()(inputs)
        loss = hinge_loss(self.discriminator(real), self.discriminator(generated.detach()))
        device.take_step(self.by_discriminator, loss)
        deception = -self.discriminator(generated).mean()
        losses = {"discriminator": loss.item(), "generator": deception.item()}
        if labels is not None:
            classification = functional.cross_entropy(self.classifier(generated), labels)
            losses["classifier"] = classification.item()
            deception = deception + classification
        # The discriminator gets no gradient from the generator's loss.
        device.take_step(self.by_generator, deception, self.by_generator.param_groups[0]["params"])
        return losses


def _players(spec: SchemeSpec, seed: int, classes: int, width: int) -> _Players:
    """Return untrained networks, on the device, with their optimisers; classes 0 stands for no labels."""
    with device.seeded_torch(seed):
        generator = build_generator(spec)
        discriminator = Discriminator(spec.image_shape, width)
        classifier = build_classifier(spec.image_shape[2], max(classes, 1))
        for network in (generator, discriminator, classifier):
            device.move_to_device(network).train()
    weights = [*generator.parameters(), *(classifier.parameters() if classes else ())]
    return _Players(
        generator,
        discriminator,
        classifier,
        torch.optim.Adam(weights, lr=_GENERATOR_RATE, betas=_BETAS),
        torch.optim.Adam(discriminator.parameters(), lr=_DISCRIMINATOR_RATE, betas=_BETAS),
    )


def train(
    sealed: AnyArray,
    public: Images,
    labels: Int64Array | None,
    spec: SchemeSpec,
    config: TrainingConfig = PUBLISHED,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch = training_loop.ignore,
    width: int = 1024,
) -> tuple[Generator, Progress]:
    """Train a generator on ciphertexts, their labels and plain images.

    Args:
        sealed: ciphertexts [n, *image_shape].
        public: plain images, uint8 [m, *image_shape].
        labels: the classes of the ciphertexts, int64 [n], or None for the adversarial loss alone.
        spec: the public description of the scheme.
        config: epochs, batch size and seed.
        budget: the time that the training may take; None for no limit.
        checkpoint: a file to write. If it exists, the training continues from it.
        on_epoch: called with the generator and its progress after every epoch.
        width: the channels of the discriminator's last convolution.

    Returns:
        The generator, and how far it came.

    Raises:
        CipherwardError: there are fewer images than a batch holds, or the discriminator cannot take such pictures.
    """
    check_size(spec)
    training_loop.check_batch(config, sealed, public)
    classes = 0 if labels is None else int(labels.max()) + 1
    players = _players(spec, config.seed, classes, width)
    ciphertexts, plain = device.images_to_device(sealed), device.images_to_device(public)
    truth = None
    if labels is not None:
        truth = torch.from_numpy(np.asarray(labels, np.int64)).to(ciphertexts.device)

    def step(batch: tuple[Int64Array, Int64Array]) -> dict[str, float]:
        inputs = device.take_batch(ciphertexts, batch[0])
        batch_labels = None if truth is None else truth[torch.from_numpy(batch[0])]
        return players.step(inputs, device.take_batch(plain, batch[1]), batch_labels)

    identity = {"attack": "sia_gan", "classes": classes, "width": width}
    progress = training_loop.train(
        vars(players),
        config,
        lambda rng, _: training_loop.unpaired_batches(rng, len(sealed), len(public), config.batch_size),
        step,
        budget or Budget(float("inf")),
        {**identity, **training_loop.training_identity(spec, sealed, public)},
        checkpoint,
        lambda progress: on_epoch(players.generator, progress),
    )
    return players.generator, progress


def check_size(spec: SchemeSpec) -> None:
    """Raise CipherwardError if the discriminator cannot take pictures of this size."""
    if min(spec.image_shape[:2]) < MIN_SIDE:
        height, width = spec.image_shape[:2]
        raise CipherwardError(
            f"the discriminator of SIA-GAN cannot take pictures of {height}×{width}",
            f"both sides are at least {MIN_SIDE} pixels",
        )


def attack(knowledge: Knowledge) -> Guess:
    """Guess the rows' images by a trained generator.

    Without enough images, or if nothing was trained, the guess is the ciphertext's picture, with a note.
    """
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    spec, pool_rows = pool.spec, np.asarray(knowledge.pool_rows, np.int64)
    check_size(spec)
    note = training_loop.missing_data(knowledge, PUBLISHED.batch_size, PUBLISHED.batch_size)
    sealed = pool.images(rows)
    if note:
        return Guess(load(spec).picture(sealed), note=note, idle=True)
    labels = None if knowledge.labels is None else np.asarray(knowledge.labels, np.int64)[pool_rows]
    pool_images = training_loop.to_plain_shape(spec, pool.images(pool_rows))
    generator, progress = train(
        pool_images, np.asarray(knowledge.public), labels, spec, budget=knowledge.budget
    )
    notes = [
        progress.note,
        "no labels: the adversarial loss alone" if labels is None else "",
        "" if generator.per_block else "one network for all blocks",
    ]
    if progress.is_untrained:
        images = load(spec).picture(sealed)
    else:
        images = device.decode_images(generator, training_loop.to_plain_shape(spec, sealed))
    return Guess(images, note="; ".join(filter(None, notes)), idle=progress.is_untrained)
