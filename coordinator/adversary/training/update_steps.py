"""From a reply to the gradients behind it, and from images to the reply that they would give.

What an update shows depends on the optimiser and on the number of local steps, both public with the plan:

- one step of SGD, momentum or not: (before − after) / lr less the weight decay is the gradient, exactly, times what
  clipping made of it; its scale never matters here. Weights travel in float32, so a small learning rate leaves the
  gradient behind the rounding of the weights: `rounding` says by how much;
- one step of AdamW: g / (|g| + 1e-8), so the signs, and magnitudes of the very smallest gradients alone;
- several steps: a weighted sum of gradients at weights that moved in between. Over one and the same image the solve
  of update_solve stays exact, but for what decay makes of that movement; update_candidates does not.

Two things are exact whatever the optimiser and the steps: an image found can be trained on as the hospital does, and
the update that comes out compared with the one seen (`replay`). Nothing counts as found without that, or without the
test of update_candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coordinator.adversary.training.observation import Observed, Update
from coordinator.exchange.plan import Plan
from coordinator.model.vit import build_model, pack, shared_names, unpack

#: An update within this distance of the one seen, as a share of its length, confirms an image: float rounding leaves
#: 2e-5 to 2e-4 between two trainings on the same images, a few signs of AdamW more.
CONFIRMED = 0.02


@dataclass(frozen=True)
class Step:
    """An update as gradients, by names of weights in timm's state.

    values: float64, the gradient; a sum over `steps` of them; or signs. rounding: the standard deviation of the
    error that float32 weights leave in one value.
    """

    values: Mapping[str, np.ndarray]
    rounding: Mapping[str, float]
    steps: int
    signs: bool


@dataclass(frozen=True)
class Seen:
    """One update with the model as it was sent. start: float32, all weights of the model, those of the stem too."""

    plan: Plan
    update: Update
    model: nn.Module
    start: np.ndarray
    names: tuple[str, ...]
    step: Step

    @property
    def stem_moved(self) -> bool:
        """Whether the update shows what the stem learnt."""
        return self.plan.stem != "private" and not self.plan.stem_frozen


def as_input(images: np.ndarray) -> torch.Tensor:
    """[n, h, w, c] gray levels → float32 [n, c, h, w] as the common ViT reads them: v / 127.5 − 1."""
    chw = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return chw.div(127.5).sub(1.0)


def model_of(observed: Observed) -> nn.Module:
    """The plan's model; what does not travel is as the plan's public weights or seed give it."""
    plan = observed.plan
    if plan.stem != "private" and plan.share == "all":
        # Where all travels, nothing of the public weights is left to need.
        plan = plan.model_copy(update={"weights": ""})
    model = build_model(plan, observed.classes)
    for block in getattr(model, "blocks", []):
        if hasattr(block, "attn"):
            block.attn.fused_attn = False  # the fused kernel has no second derivative
    return model


def see(observed: Observed, update: Update, model: nn.Module) -> Seen:
    """Loads what was sent into `model`, made by model_of, and reads the update. Raises ValueError for another length.

    Under `private` the stem stays as it is in `model`: the hospital's own in round 1, or where stems are frozen.
    """
    names = shared_names(model, observed.plan)
    unpack(model, update.before, names)
    return Seen(
        observed.plan,
        update,
        model,
        pack(model),
        tuple(names),
        gradients(model, names, observed.plan, update),
    )


def local_steps(plan: Plan, images: int) -> int:
    """Optimiser steps of a round in a hospital of so many images."""
    return math.ceil(images / plan.batch) * plan.local_epochs


def learning_rate(plan: Plan, step: int, total: int) -> float:
    """The public schedule, that of coordinator/model/training.py: linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    return plan.lr * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, total))))


def _rates(plan: Plan, update: Update) -> list[float]:
    steps = local_steps(plan, update.images)
    first = (update.round - 1) * steps
    return [learning_rate(plan, first + i, plan.rounds * steps) for i in range(steps)]


def gradients(model: nn.Module, names: list[str], plan: Plan, update: Update) -> Step:
    """The gradients behind an update; weights decay under both optimisers in the same way."""
    rates = _rates(plan, update)
    momentum = plan.momentum if plan.optimizer == "sgd" else 0.0
    lr = carried = 0.0
    for rate in rates:  # momentum carries every gradient, decay included, into the steps after it
        carried = momentum * carried + 1.0
        lr += rate * carried
    values, rounding, at = {}, {}, 0
    state = model.state_dict()
    for name in names:
        size = state[name].numel()
        before = update.before[at : at + size].astype(np.float64)
        after = update.after[at : at + size]
        value = (before - after) / lr - plan.weight_decay * before
        values[name] = value.reshape(tuple(state[name].shape))
        steps = (np.spacing(np.abs(after)).astype(np.float64) ** 2).mean()
        if plan.wire == "bfloat16":  # 16 bits fewer of the difference
            moved = np.abs(after - update.before[at : at + size])
            steps += ((np.spacing(moved).astype(np.float64) * 2**16) ** 2).mean()
        rounding[name] = float(np.sqrt(steps / 12) / lr)
        at += size
    return Step(values, rounding, len(rates), plan.optimizer == "adamw")


def labels_to_try(step: Step, classes: int) -> list[int]:
    """The label of a single image, which the gradient of the head's bias shows: only its own class is pulled up."""
    bias = step.values.get("head.bias")
    return list(range(classes)) if bias is None else [int(bias.argmin())]


def replay(seen: Seen, images: torch.Tensor, labels: list[int]) -> float:
    """How far the update of these images is from the one seen, as a share of its length; 0 where they are its images.

    images: float32 [b, c, h, w] as the model reads them, all that the hospital trained on; b is at most a batch.
    Trains as coordinator/model/training.py does, all images in every step.
    """
    plan, model = seen.plan, seen.model
    unpack(model, seen.start)
    settings = {"lr": plan.lr, "weight_decay": plan.weight_decay}
    optimizer: torch.optim.Optimizer
    if plan.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), momentum=plan.momentum, **settings)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **settings)
    target = torch.tensor(labels)
    trained = [w for w in model.parameters() if w.requires_grad]
    first = [w.detach().clone() for w in trained]
    model.train()
    for lr in _rates(plan, seen.update):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = nn.functional.cross_entropy(model(images), target, label_smoothing=plan.label_smoothing)
        if plan.proximal:
            away = sum(((w - f) ** 2).sum() for w, f in zip(trained, first, strict=True))
            loss = loss + plan.proximal / 2 * away
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
    moved = pack(model, seen.names) - seen.update.before
    unpack(model, seen.start)
    whole = seen.update.after - seen.update.before
    return float(np.linalg.norm(moved - whole) / max(float(np.linalg.norm(whole)), 1e-30))
