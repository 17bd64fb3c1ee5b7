"""Local training and prediction on labelled images, sealed or plain: hospitals and the cloud run the same code."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.attention import fast_attention
from coordinator.model.augmentation import alter
from coordinator.model.model_input import to_model_input
from coordinator.model.optimizer import build_optimizer, frozen_encoder, learning_rate, set_rate
from crypto.arrays import AnyArray, Float32Array, Int64Array, Rows
from crypto.cores import threads
from crypto.errors import CipherwardError


class LabelledImages(Protocol):
    """Labelled images by row: a SealedDataset, or PlainImages."""

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""

    def rows(self, rows: Rows) -> AnyArray:
        """Return the images of these rows: int64 [r] → [r, h, w, c]."""


class AugmentableImages(LabelledImages, Protocol):
    """Images that can be augmented: plain images, or sealed images where their key is."""

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        """Return the images of these rows, each altered before it was sealed: int64 [r] → [r, h, w, c].

        `augment` is the plan's (coordinator/model/augmentation.py).
        """


@dataclass(frozen=True)
class PlainImages:
    """Images in memory.

    Attributes:
        images: uint8 [n, h, w, c]. Ciphertexts in memory may be float32.
        labels: int64 [n].
    """

    images: AnyArray
    labels: Int64Array

    def rows(self, rows: Rows) -> AnyArray:
        """Return the images of these rows: int64 [r] → [r, h, w, c]."""
        return self.images[rows]

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        """Return the images of these rows, altered at random as the plan says: int64 [r] → [r, h, w, c]."""
        return alter(self.images[rows], augment, random)


def use_all_cores() -> int:
    """Let torch use as many threads as this process may have, and return their number."""
    usable = threads()
    torch.set_num_threads(usable)
    return usable


def accelerator() -> torch.device:
    """Return CUDA if torch can see it, else the CPU. Models stay on the CPU except while they train or predict."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def image_weights(plan: Plan, labels: torch.Tensor) -> torch.Tensor:
    """Return how much each image of a hospital counts in the loss, float32 [n] with mean 1.

    Under class_weights `balanced` an image of class c counts n / (k · n_c), so that each of the k classes that the
    hospital has counts the same.
    """
    if plan.class_weights == "none":
        return torch.ones(len(labels))
    counts = torch.bincount(labels)
    return len(labels) / (torch.count_nonzero(counts) * counts[labels]).float()


@dataclass(frozen=True)
class _ProximalTerm:
    """FedProx's term mu / 2 · ‖w − w_received‖² over the trained weights (Li et al. 2020)."""

    mu: float
    weights: list[nn.Parameter]
    received: list[torch.Tensor]

    @classmethod
    def of(cls, model: nn.Module, mu: float) -> _ProximalTerm:
        """Return the term around the model's present weights."""
        weights = [w for w in model.parameters() if w.requires_grad]
        return cls(mu, weights, [w.detach().clone() for w in weights] if mu else [])

    def add_to(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss with the term added to it."""
        if not self.mu:
            return loss
        squares = [((w - r) ** 2).sum() for w, r in zip(self.weights, self.received, strict=True)]
        return loss + self.mu / 2 * sum(squares)


def train_locally(
    model: nn.Module, data: LabelledImages, plan: Plan, round_: int, party: str, proximal: float = 0.0
) -> dict[str, float]:
    """Train a model in place for one round: `local_epochs` passes over a party's images.

    The order of the images depends on the plan's seed, the round and the party's name only. The optimizer starts
    afresh each round, as in federated averaging.

    Args:
        model: trained in place. It is on the CPU again afterwards.
        data: the party's images. The plan's `augment` needs AugmentableImages.
        plan: all settings.
        round_: the round, from 1.
        party: the party's name.
        proximal: the weight mu of FedProx's term mu / 2 · ‖w − w_received‖² over the trained weights (Li et al.
            2020), which is part of the mean loss.

    Returns:
        `loss` (the mean over images), `steps` and `images`.

    Raises:
        CipherwardError: if the plan asks for `compile` on a machine that has no compiler for it.
    """
    labels = torch.from_numpy(np.array(data.labels))
    count = len(labels)
    steps_per_round = plan.steps_per_round(count)
    order = np.random.default_rng([plan.seed, round_, zlib.crc32(party.encode())])
    # Separate streams: the order of the images is the same with augmentation or mixing as without.
    augmentation = np.random.default_rng([plan.seed, round_, zlib.crc32(party.encode()), 1])
    mixing = np.random.default_rng([plan.seed, round_, zlib.crc32(party.encode()), 2])
    device = accelerator()
    model.to(device).train()
    optimizer = build_optimizer(model, plan, round_)
    term = _ProximalTerm.of(model, proximal)
    run = torch.compile(model) if plan.compile else model
    torch.manual_seed(int(order.integers(2**31)))
    step, summed_loss = (round_ - 1) * steps_per_round, 0.0
    loss_of = _Loss(labels.to(device), image_weights(plan, labels).to(device), plan.label_smoothing)
    with frozen_encoder(model, plan, round_), fast_attention(model, plan.precision, device):
        for _ in range(plan.local_epochs):
            for rows in np.array_split(order.permutation(count), plan.steps_per_epoch(count)):
                set_rate(optimizer, learning_rate(plan, step, plan.rounds * steps_per_round))
                images = to_model_input(_batch(data, plan, rows, augmentation)).to(device)
                images, mix = mix_pairs(images, plan.mixup, mixing)
                with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                    logits = _logits(run, images)
                loss = term.add_to(loss_of(logits.float(), rows, mix))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
                optimizer.step()
                summed_loss += float(loss.detach()) * len(rows)
                step += 1
    model.cpu()
    images_seen = count * plan.local_epochs
    return {
        "loss": summed_loss / images_seen,
        "steps": float(steps_per_round),
        "images": float(images_seen),
    }


@dataclass(frozen=True)
class Mix:
    """How the images of a step were mixed: each is `share` of itself, and the rest is its partner.

    Attributes:
        share: between 0 and 1.
        partners: int64 [n], the place in the step of each image's partner.
    """

    share: float
    partners: Int64Array


def mix_pairs(
    images: torch.Tensor, alpha: float, random: np.random.Generator
) -> tuple[torch.Tensor, Mix | None]:
    """Return the images of a step mixed in pairs (Zhang et al. 2018, mixup), and how; as they are if alpha is 0.

    A mixture of two images sealed by a linear scheme under one key is the sealed mixture of both, so this works on
    ciphertext too.

    Args:
        images: float32 [n, c, h, w].
        alpha: both parameters of the Beta distribution from which the share is drawn, one for all images of the step.
        random: the stream that is drawn from.
    """
    if not alpha:
        return images, None
    mix = Mix(float(random.beta(alpha, alpha)), random.permutation(len(images)))
    return mix.share * images + (1 - mix.share) * images[mix.partners], mix


@dataclass(frozen=True)
class _Loss:
    """The mean loss of a step's images. labels: int64 [n]; weights: float32 [n], what each image counts."""

    labels: torch.Tensor
    weights: torch.Tensor
    label_smoothing: float

    def __call__(self, logits: torch.Tensor, rows: Int64Array, mix: Mix | None) -> torch.Tensor:
        """Return the loss of these rows; that of a mixture is the mixture of its images' losses."""
        loss = self._mean(logits, rows)
        if mix is None:
            return loss
        return mix.share * loss + (1 - mix.share) * self._mean(logits, rows[mix.partners])

    def _mean(self, logits: torch.Tensor, rows: Int64Array) -> torch.Tensor:
        losses = nn.functional.cross_entropy(
            logits, self.labels[rows], label_smoothing=self.label_smoothing, reduction="none"
        )
        return (losses * self.weights[rows]).mean()


def _batch(data: LabelledImages, plan: Plan, rows: Rows, random: np.random.Generator) -> AnyArray:
    """Return the images of one step, augmented if the plan asks for it."""
    if plan.augment == "none":
        return data.rows(rows)
    return cast(AugmentableImages, data).views(rows, plan.augment, random)


def _logits(run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Run a model; turn a failure of torch.compile into a CipherwardError."""
    try:
        return run(images)
    # `torch._dynamo` loads when it is named, and this line is reached only if the model fails.
    except torch._dynamo.exc.TorchDynamoException as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise CipherwardError(
            f"torch.compile does not work here: {type(error).__name__}: {line}", "set compile to false"
        ) from None


@torch.inference_mode()
def predict_probabilities(model: nn.Module, data: LabelledImages, batch: int = 128) -> Float32Array:
    """Return the softmax outputs of all images in the order of their rows, float32 [n, classes]."""
    device = accelerator()
    model.to(device).eval()
    parts = []
    for start in range(0, len(data.labels), batch):
        rows = np.arange(start, min(start + batch, len(data.labels)))
        parts.append(torch.softmax(model(to_model_input(data.rows(rows)).to(device)), 1).cpu().numpy())
    model.cpu()
    return np.concatenate(parts)
