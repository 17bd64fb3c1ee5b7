"""Training and evaluation on labelled images, sealed or plain, in hospitals and in the cloud: the same lines."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from coordinator.exchange.plan import Plan
from crypto.cores import cores
from crypto.errors import CipherwardError


class Images(Protocol):
    """Labelled images by row: a SealedDataset, or PlainImages."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]"""

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """int64 [r] → uint8 [r, h, w, c]"""


class Varied(Images, Protocol):
    """Images of which fresh views can be had: plain ones, or sealed ones where their key is."""

    def views(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """int64 [r] → [r, h, w, c]: as `rows`, each image altered at random before it was sealed."""


@dataclass(frozen=True)
class PlainImages:
    """Images in memory. images: uint8 [n, h, w, c]; labels: int64 [n]."""

    images: np.ndarray
    labels: np.ndarray

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]

    def views(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return flip_shift(self.images[rows], random)


def flip_shift(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[n, h, w, c] → each image mirrored left to right by a coin's toss and moved by up to an eighth of its sides.

    What enters at an edge repeats the edge.
    """
    n, height, width, _ = images.shape
    mirrored = random.integers(0, 2, (n,))
    down = random.integers(-(height // 8), height // 8 + 1, n)
    right = random.integers(-(width // 8), width // 8 + 1, n)
    views = np.empty_like(images)
    for i, image in enumerate(images):
        rows = np.clip(np.arange(height) - down[i], 0, height - 1)
        columns = np.clip(np.arange(width) - right[i], 0, width - 1)
        views[i] = image[rows[:, None], columns[::-1] if mirrored[i] else columns]
    return views


def use_all_cores() -> int:
    """Sets torch to every core this process may use; returns their number."""
    # Ray hands an actor its cores through this variable.
    usable = int(os.environ.get("OMP_NUM_THREADS") or cores())
    torch.set_num_threads(usable)
    return usable


def as_input(images: np.ndarray) -> torch.Tensor:
    """[n, h, w, c] gray levels → float32 [n, c, h, w]: mean and deviation one half, as timm's ViTs.

    uint8 comes out in [-1, 1]; float32 ciphertexts may go beyond.
    """
    chw = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return chw.div(127.5).sub_(1.0)


def optimizer_of(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), plan.lr, weight_decay=plan.weight_decay)


def rate(plan: Plan, step: int, total: int) -> float:
    """The learning rate of a step of all rounds: linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    return plan.lr * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, total))))


def accelerator() -> torch.device:
    """CUDA where torch sees it, else the CPU. Models live on the CPU, and move only to train and to be asked."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def image_weights(plan: Plan, labels: torch.Tensor) -> torch.Tensor:
    """float32 [n], mean 1: what each of a hospital's images counts.

    `balanced`: n / (k · n_c) for an image of class c, so that each of the k classes held weighs the same.
    """
    if plan.class_weights == "none":
        return torch.ones(len(labels))
    counts = torch.bincount(labels)
    return len(labels) / (torch.count_nonzero(counts) * counts[labels]).float()


def train_locally(
    model: nn.Module, data: Images, plan: Plan, round_: int, party: str, proximal: float = 0.0
) -> dict[str, float]:
    """`local_epochs` passes over images, in place; returns mean loss, steps and images.

    The order of images depends on the plan's seed, the round and the party's name alone. The optimiser
    starts afresh each round, as in federated averaging. proximal: the weight mu of FedProx's term
    mu / 2 · ‖w − w_received‖² over the trained weights (Li et al. 2020), which the mean loss holds, too. Raises
    CipherwardError where `compile` is asked of a machine that has no compiler for it.
    """
    labels = torch.from_numpy(np.array(data.labels))
    count = len(labels)
    per_epoch = math.ceil(count / plan.batch)
    per_round = per_epoch * plan.local_epochs
    order = np.random.default_rng([plan.seed, round_, zlib.crc32(party.encode())])
    # A stream of its own: the order of the images is the same with views as without.
    chance = np.random.default_rng([plan.seed, round_, zlib.crc32(party.encode()), 1])
    device = accelerator()
    model.to(device).train()
    optimizer = optimizer_of(model, plan)
    trained = [w for w in model.parameters() if w.requires_grad]
    first = [w.detach().clone() for w in trained] if proximal else []
    run = torch.compile(model) if plan.compile else model
    torch.manual_seed(int(order.integers(2**31)))
    step, losses = (round_ - 1) * per_round, 0.0
    weights = image_weights(plan, labels)
    for _ in range(plan.local_epochs):
        for rows in np.array_split(order.permutation(count), per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = rate(plan, step, plan.rounds * per_round)
            images = data.rows(rows) if plan.augment == "none" else cast(Varied, data).views(rows, chance)
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                logits = _logits(run, as_input(images).to(device))
            each = nn.functional.cross_entropy(
                logits.float(),
                labels[rows].to(device),
                label_smoothing=plan.label_smoothing,
                reduction="none",
            )
            loss = (each * weights[rows].to(device)).mean()
            if proximal:
                away = sum(((w - f) ** 2).sum() for w, f in zip(trained, first, strict=True))
                loss = loss + proximal / 2 * away
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
            optimizer.step()
            losses += float(loss.detach()) * len(rows)
            step += 1
    model.cpu()
    images_seen = count * plan.local_epochs
    return {"loss": losses / images_seen, "steps": float(per_round), "images": float(images_seen)}


def _logits(run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    try:
        return run(images)
    except torch._dynamo.exc.TorchDynamoException as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise CipherwardError(
            f"torch.compile does not work here: {type(error).__name__}: {line}", "set compile to false"
        ) from None


@torch.inference_mode()
def probabilities(model: nn.Module, data: Images, batch: int = 128) -> np.ndarray:
    """float32 [n, classes]: softmax outputs in row order."""
    device = accelerator()
    model.to(device).eval()
    parts = []
    for start in range(0, len(data.labels), batch):
        rows = np.arange(start, min(start + batch, len(data.labels)))
        parts.append(torch.softmax(model(as_input(data.rows(rows)).to(device)), 1).cpu().numpy())
    model.cpu()
    return np.concatenate(parts)


def measure(scores: np.ndarray, labels: np.ndarray) -> Mapping[str, float]:
    """Accuracy, cross-entropy and one-versus-rest AUC (macro) of softmax outputs [n, classes].

    AUC is NaN where a class is absent from the labels: it is not defined there. Raises CipherwardError where the
    outputs are not numbers: the training diverged.
    """
    if not np.isfinite(scores).all():
        raise CipherwardError("training diverged: the model's outputs are no numbers", "set a lower lr")
    right = scores[np.arange(len(labels)), labels]
    present = np.unique(labels)
    auc = float("nan")
    if len(present) == scores.shape[1]:
        s = scores.astype(np.float64)
        s /= s.sum(1, keepdims=True)
        auc = float(roc_auc_score(labels, s[:, 1] if s.shape[1] == 2 else s, multi_class="ovr"))
    return {
        "accuracy": float((scores.argmax(1) == labels).mean()),
        "loss": float(-np.log(np.maximum(right, 1e-12)).mean()),
        "auc": auc,
    }
