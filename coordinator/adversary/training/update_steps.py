"""Turn a hospital's update into the gradients behind it, and replay training on images to compare updates (T5).

What an update shows depends on the optimiser and on the number of local steps. Both are public with the plan:

- One step of SGD, with or without momentum: (before − after) / lr less the weight decay is the gradient, exactly,
  times
  what clipping made of it. Its scale never matters here. Weights travel in float32, so a small learning rate hides
  the gradient behind the rounding of the weights. `rounding` says by how much.
- One step of AdamW: g / (|g| + 1e-8). This shows the signs, and the magnitudes of the very smallest gradients alone.
- Several steps: a weighted sum of gradients at weights that moved in between. Over one and the same image the solve
  of
  update_solve stays exact, except for what decay makes of that movement; update_candidates does not.
- Under secure aggregation: the weighted mean of several hospitals' updates. If each took one step of SGD, it is a
  weighted sum of their gradients, and update_candidates works as on one large batch.

One test is exact whatever the optimiser and the steps: train on a recovered image as the hospital does, and compare
the resulting update with the observed one (`replay_distance`). Nothing counts as found without that test, or
without the test of update_candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coordinator.adversary.training.observation import Observed, Update
from coordinator.exchange.plan import Plan
from coordinator.model.optimizer import (
    build_optimizer,
    frozen_encoder,
    learning_rate,
    rate_scales,
    set_rate,
)
from coordinator.model.shares import shared_names
from coordinator.model.vit import build_model, pack, unpack
from crypto.arrays import Float32Array, Float64Array

#: A relative distance of two updates up to this confirms an image. Float rounding leaves 2e-5 to 2e-4 between two
#: trainings on the same images; a few signs of AdamW leave more.
CONFIRMED_DISTANCE = 0.02


@dataclass(frozen=True)
class UpdateGradients:
    """An update as gradients, by names of weights in timm's state.

    Attributes:
        values: float64 arrays: the gradient, a sum of gradients over `steps`, or signs.
        rounding: the standard deviation of the error that float32 weights leave in one value.
        steps: local optimiser steps.
        signs_only: True if the values are signs of gradients.
    """

    values: Mapping[str, Float64Array]
    rounding: Mapping[str, float]
    steps: int
    signs_only: bool


@dataclass(frozen=True)
class UpdateView:
    """One update together with the model as it was sent.

    Attributes:
        plan: of the training.
        update: the weights that were sent and those that came back.
        model: the plan's model, with the weights that were sent.
        start: float32, all weights of the model, those of the stem included.
        names: the weights that travel.
        gradients: what the update says of the gradients.
    """

    plan: Plan
    update: Update
    model: nn.Module
    start: Float32Array
    names: tuple[str, ...]
    gradients: UpdateGradients

    @property
    def has_stem_update(self) -> bool:
        """Whether the update shows what the stem learnt."""
        return self.plan.stem != "private" and not self.plan.stem_frozen


def build_plan_model(observed: Observed) -> nn.Module:
    """Return the plan's model. Weights that do not travel come from the plan's public weights or its seed."""
    plan = observed.plan
    if plan.stem != "private" and plan.share == "all":
        # All weights travel, so none of the public ones are needed.
        plan = plan.model_copy(update={"weights": ""})
    model = build_model(plan, observed.classes)
    for block in getattr(model, "blocks", []):
        if hasattr(block, "attn"):
            block.attn.fused_attn = False  # the fused kernel has no second derivative
    return model


def read_update(observed: Observed, update: Update, model: nn.Module) -> UpdateView:
    """Load the weights that were sent into a model, and read the update.

    Under stem mode `private` the stem stays as it is in the model. That is the hospital's own stem in round 1, or
    where stems are frozen.

    Args:
        observed: the training.
        update: one of its updates.
        model: the result of `build_plan_model`; changed in place.

    Raises:
        ValueError: the update has another length than the weights that travel.
    """
    names = shared_names(model, observed.plan)
    unpack(model, update.before, names)
    return UpdateView(
        observed.plan,
        update,
        model,
        pack(model),
        tuple(names),
        infer_gradients(model, names, observed.plan, update),
    )


def _learning_rates(plan: Plan, update: Update) -> list[float]:
    """Return the learning rate of every local step of an update."""
    steps = plan.steps_per_round(update.most_images)
    first = (update.round - 1) * steps
    return [learning_rate(plan, first + i, plan.rounds * steps) for i in range(steps)]


def infer_gradients(model: nn.Module, names: list[str], plan: Plan, update: Update) -> UpdateGradients:
    """Return the gradients behind an update. Weights decay under both optimisers in the same way."""
    rates, scales = _learning_rates(plan, update), rate_scales(model, plan, update.round)
    momentum = plan.momentum if plan.optimizer == "sgd" else 0.0
    total_rate = carried = 0.0
    for rate in rates:  # momentum carries every gradient, decay included, into the steps after it
        carried = momentum * carried + 1.0
        total_rate += rate * carried
    values: dict[str, Float64Array] = {}
    rounding: dict[str, float] = {}
    state = model.state_dict()
    start = 0
    for name in names:
        stop = start + state[name].numel()
        before, after = update.before[start:stop], update.after[start:stop]
        exact = before.astype(np.float64)
        start, rate = stop, total_rate * scales.get(name, 1.0)
        if not rate:
            continue  # frozen in this round: it tells nothing
        value = (exact - after) / rate - plan.weight_decay * exact
        values[name] = value.reshape(tuple(state[name].shape))
        rounding[name] = _weight_rounding(plan, before, after) / rate
    return UpdateGradients(values, rounding, len(rates), plan.optimizer == "adamw")


def _weight_rounding(plan: Plan, before: Float32Array, after: Float32Array) -> float:
    """Return the standard deviation of the rounding of weights that travelled."""
    variance = (np.spacing(np.abs(after)).astype(np.float64) ** 2).mean()
    if plan.wire == "bfloat16":  # 16 bits fewer of the difference
        moved = np.abs(after - before)
        variance += ((np.spacing(moved).astype(np.float64) * 2**16) ** 2).mean()
    # A value that is rounded to a grid has a variance of one twelfth of the grid's step squared.
    return float(np.sqrt(variance / 12))


def labels_to_try(gradients: UpdateGradients, classes: int) -> list[int]:
    """Return the possible labels of a single image.

    The gradient of the head's bias shows the label, because it pulls up that class alone. Without it, all are
    possible.
    """
    bias = gradients.values.get("head.bias")
    return list(range(classes)) if bias is None else [int(bias.argmin())]


def replay_distance(view: UpdateView, images: torch.Tensor, labels: list[int]) -> float:
    """Return the relative distance between the observed update and the one these images would cause (0 = identical).

    It trains as coordinator/model/training.py does, with all images in every step, and then restores the model.

    Args:
        view: the observed update.
        images: float32 [b, c, h, w] as the model reads them, all that the hospital trained on; b is at most a batch.
        labels: their classes.
    """
    model = view.model
    unpack(model, view.start)
    _train_on(view, images, labels)
    replayed = pack(model, view.names) - view.update.before
    unpack(model, view.start)
    observed = view.update.after - view.update.before
    return float(np.linalg.norm(replayed - observed) / max(float(np.linalg.norm(observed)), 1e-30))


def _train_on(view: UpdateView, images: torch.Tensor, labels: list[int]) -> None:
    """Train the model in place for one round, as the hospital would on these images."""
    plan, model = view.plan, view.model
    optimizer = build_optimizer(model, plan, view.update.round)
    target = torch.tensor(labels)
    trained = [w for w in model.parameters() if w.requires_grad]
    first = [w.detach().clone() for w in trained]
    model.train()
    with frozen_encoder(model, plan, view.update.round):
        for rate in _learning_rates(plan, view.update):
            set_rate(optimizer, rate)
            loss = nn.functional.cross_entropy(model(images), target, label_smoothing=plan.label_smoothing)
            if plan.proximal:
                distances = [((w - f) ** 2).sum() for w, f in zip(trained, first, strict=True)]
                loss = loss + plan.proximal / 2 * sum(distances)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
            optimizer.step()
