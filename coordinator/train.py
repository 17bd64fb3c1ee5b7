"""Training and evaluation on labelled images, sealed or plain, in hospitals and in the cloud: the same lines."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from coordinator.plan import Plan


class Images(Protocol):
    """Labelled images by row: a SealedDataset, or PlainImages."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]"""

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """int64 [r] → uint8 [r, h, w, c]"""


@dataclass(frozen=True)
class PlainImages:
    """Images in memory. images: uint8 [n, h, w, c]; labels: int64 [n]."""

    images: np.ndarray
    labels: np.ndarray

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


def use_all_cores() -> int:
    """Sets torch to every core this process may use; returns their number."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Ray hands an actor its cores through this variable.
    cores = int(os.environ.get("OMP_NUM_THREADS") or usable)
    torch.set_num_threads(cores)
    return cores


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


def train_locally(model: nn.Module, data: Images, plan: Plan, round_: int, party: str) -> dict[str, float]:
    """`local_epochs` passes over images, in place; returns mean loss, steps and images.

    The order of images depends on the plan's seed, the round and the party's name alone. The optimiser
    starts afresh each round, as in federated averaging.
    """
    labels = torch.from_numpy(np.array(data.labels))
    count = len(labels)
    per_epoch = math.ceil(count / plan.batch)
    per_round = per_epoch * plan.local_epochs
    order = np.random.default_rng([plan.seed, round_, zlib.crc32(party.encode())])
    optimizer = optimizer_of(model, plan)
    model.train()
    torch.manual_seed(int(order.integers(2**31)))
    step, losses = (round_ - 1) * per_round, 0.0
    for _ in range(plan.local_epochs):
        for rows in np.array_split(order.permutation(count), per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = rate(plan, step, plan.rounds * per_round)
            logits = model(as_input(data.rows(rows)))
            loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=plan.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
            optimizer.step()
            losses += float(loss.detach()) * len(rows)
            step += 1
    images = count * plan.local_epochs
    return {"loss": losses / images, "steps": float(per_round), "images": float(images)}


@torch.inference_mode()
def probabilities(model: nn.Module, data: Images, batch: int = 128) -> np.ndarray:
    """float32 [n, classes]: softmax outputs in row order."""
    model.eval()
    parts = []
    for start in range(0, len(data.labels), batch):
        rows = np.arange(start, min(start + batch, len(data.labels)))
        parts.append(torch.softmax(model(as_input(data.rows(rows))), 1).numpy())
    return np.concatenate(parts)


def measure(scores: np.ndarray, labels: np.ndarray) -> Mapping[str, float]:
    """Accuracy, cross-entropy and one-versus-rest AUC (macro) of softmax outputs [n, classes].

    AUC is NaN where a class is absent from the labels: it is not defined there.
    """
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
