"""A round of training under differential privacy: DP-SGD (Abadi et al. 2016, arXiv 1607.00133) by Opacus.

In each step every unit (a patient, or an image) is taken by itself with the same probability. Its images' gradients
are summed up, scaled down to the plan's max_grad_norm, added over the units and noised. Optimizer, learning rate,
weight decay and FedProx's term work on the noised sum, which is post-processing. `clip` of the plan is not used.

The number of steps, the sampling rate and the divisor of the sum follow from the number of images, which the hospital
states in its introduction, and not from the number of patients. Nothing that depends on the images is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.model_input import to_model_input
from coordinator.model.optimizer import build_optimizer, learning_rate, set_rate
from coordinator.model.private_layers import require_private_layers, tokens_as_layer
from coordinator.model.training import (
    AugmentableImages,
    LabelledImages,
    accelerator,
    image_weights,
)
from crypto.arrays import Int64Array, Rows
from crypto.errors import CipherwardError
from parties.training.privacy_accounting import Mechanism, noise_multiplier, quiet, require_opacus
from parties.training.private_noise import PrivateRandom

if TYPE_CHECKING:
    from opacus import GradSampleModule

    from parties.training.private_optimizer import PrivateOptimizer

#: Gradients of single images that are held at once: 2^26 float32 numbers are 256 MB.
_MOST_GRADIENTS = 1 << 26


@dataclass(frozen=True, eq=False)
class PrivateRound:
    """How a hospital trains in one round under differential privacy.

    Attributes:
        mechanism: noise, sampling rate and steps of this round.
        units: the unit of each image, int64 [n], from 0.
        divisor: what the noised sum is divided by: the number of images that a step takes on average.
    """

    mechanism: Mechanism
    units: Int64Array
    divisor: float


def plan_round(
    plan: Plan,
    units: Int64Array,
    known_noise: Callable[[float, int], float | None] = lambda _rate, _steps: None,
) -> PrivateRound:
    """Return how a hospital trains in each round, with the noise that keeps the plan's bound over all rounds.

    Args:
        plan: its `privacy` is on.
        units: the unit of each training image, int64 [n].
        known_noise: returns the noise multiplier for a sampling rate and the steps of a round, if an earlier round of
            this plan had them.

    Raises:
        CipherwardError: if the plan's delta is not below 1 / units, or if Opacus is not installed.
    """
    epsilon, delta = plan.privacy.bound
    images, count = len(units), len(np.unique(units))
    if delta * count >= 1:
        raise CipherwardError(
            f"privacy.delta {delta:g} is not below 1 / {count}, the number of {plan.privacy.unit}s here: "
            "one of them could be sent as it is",
            f"ask for a plan with a privacy.delta below {1 / count:.2g}, such as {0.1 / count:.0e}",
            f"privacy.delta {delta:g} is too large for this hospital; ask it for one that it accepts",
        )
    rate, steps = 1.0 / plan.steps_per_epoch(images), plan.steps_per_round(images)
    noise = known_noise(rate, steps) or noise_multiplier(epsilon, delta, rate, steps * plan.rounds)
    return PrivateRound(Mechanism(noise, rate, steps), units, images * rate)


def train_privately(
    model: nn.Module,
    data: LabelledImages,
    plan: Plan,
    round_: int,
    private: PrivateRound,
    proximal: float = 0.0,
) -> None:
    """Train a model in place for one round under differential privacy.

    Args:
        model: trained in place. It is on the CPU again afterwards.
        data: the hospital's images. The plan's `augment` needs AugmentableImages; each image is altered once a step.
        plan: all settings; its `privacy` is on.
        round_: the round, from 1.
        private: from `plan_round`.
        proximal: the weight mu of FedProx's term mu / 2 · ‖w − w_received‖².

    Raises:
        CipherwardError: if Opacus is not installed, or if it cannot take the gradients of this model image by image.
    """
    require_opacus()
    require_private_layers(model, plan)
    model.to(accelerator()).train()
    with quiet(), tokens_as_layer(model):
        wrapped, optimizer = _open_privately(model, plan, private, proximal)
        loss = _SummedLoss.of(wrapped, data, plan)
        most = max(1, _MOST_GRADIENTS // max(1, sum(w.numel() for w in optimizer.params)))
        steps = private.mechanism.steps
        try:
            for step in range((round_ - 1) * steps, round_ * steps):
                set_rate(optimizer, learning_rate(plan, step, plan.rounds * steps))
                _take_step(
                    optimizer, loss, private.units, private.mechanism.sample_rate, min(most, plan.batch)
                )
        finally:
            wrapped.to_standard_module()
    model.zero_grad(set_to_none=True)
    model.cpu()


def _open_privately(
    model: nn.Module, plan: Plan, private: PrivateRound, proximal: float
) -> tuple[GradSampleModule, PrivateOptimizer]:
    """Return the model with Opacus' hooks, and the optimizer that clips and adds noise."""
    from opacus import GradSampleModule
    from opacus.grad_sample import register_grad_sampler
    from opacus.grad_sample.layer_norm import compute_layer_norm_grad_sample

    from coordinator.model.torchvision_fix import timm
    from parties.training.private_optimizer import PrivateOptimizer

    # Opacus knows torch's own class only, and would take timm's subclass by a slower general way.
    register_grad_sampler(timm.layers.LayerNorm)(compute_layer_norm_grad_sample)
    try:
        wrapped = GradSampleModule(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise CipherwardError(
            f"privacy does not go with {plan.model}: {str(error)[:200]}",
            "choose one of timm's vit_* models",
        ) from None
    optimizer = PrivateOptimizer(
        build_optimizer(model, plan),
        noise_multiplier=private.mechanism.noise_multiplier,
        max_grad_norm=plan.privacy.max_grad_norm,
        divisor=private.divisor,
        random=PrivateRandom(),
    )
    received = [w.detach().clone() for w in optimizer.params] if proximal else []

    def add_proximal_term(_optimizer: object) -> None:
        for weight, start in zip(optimizer.params, received, strict=True):
            weight.grad += proximal * (weight.detach() - start)

    if proximal:
        optimizer.attach_step_hook(add_proximal_term)
    return wrapped, optimizer


@dataclass(frozen=True)
class _SummedLoss:
    """The loss of images, summed up: per-sample gradients are those of its terms."""

    run: nn.Module
    data: LabelledImages
    plan: Plan
    labels: torch.Tensor
    weights: torch.Tensor
    views: np.random.Generator

    @classmethod
    def of(cls, run: nn.Module, data: LabelledImages, plan: Plan) -> _SummedLoss:
        """Return the plan's loss on these images. Views are drawn from the operating system's entropy."""
        labels = torch.from_numpy(np.array(data.labels))
        return cls(run, data, plan, labels, image_weights(plan, labels), np.random.default_rng())

    def backward(self, rows: Rows) -> None:
        """Take the gradients of these images; each is altered once if the plan asks for it."""
        if self.plan.augment == "none":
            images = self.data.rows(rows)
        else:
            images = cast(AugmentableImages, self.data).views(rows, self.plan.augment, self.views)
        device = next(self.run.parameters()).device
        losses = nn.functional.cross_entropy(
            self.run(to_model_input(images).to(device)),
            self.labels[rows].to(device),
            label_smoothing=self.plan.label_smoothing,
            reduction="none",
        )
        loss = (losses * self.weights[rows].to(device)).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it


def _take_step(
    optimizer: PrivateOptimizer, loss: _SummedLoss, units: Int64Array, rate: float, most: int
) -> None:
    """Sample units, add up their clipped gradients in passes of at most `most` images, and step."""
    sampled = optimizer.random.sample(int(units.max()) + 1, rate)
    rows = np.flatnonzero(sampled[units])
    rows = rows[np.argsort(units[rows], kind="stable")]
    if not len(rows):
        optimizer.take_no_images()
        optimizer.step()
    for start in range(0, len(rows), most):
        stop = min(start + most, len(rows))
        is_last = stop == len(rows)
        goes_on = not is_last and units[rows[stop]] == units[rows[stop - 1]]
        optimizer.set_units(units[rows[start:stop]], bool(goes_on))
        loss.backward(rows[start:stop])
        optimizer.signal_skip_step(not is_last)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    optimizer.zero_grad(set_to_none=True)
