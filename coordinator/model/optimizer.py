"""The plan's optimizer, and the learning rate of every weight.

A step's rate is the plan's schedule (linear warm-up, then a cosine to zero) times the scale of the weight:

    layer_decay     each layer has so much of the rate of the layer above it (Clark et al. 2020, ELECTRA;
                    Bao et al. 2022, BEiT); the head's rate is whole
    stem_lr_scale, position_lr_scale
                    patch embedding, positions: so many times the rate that they would otherwise have
    frozen_rounds   in the first rounds only stem and head learn

The adversary reads updates with the same code: rates and scales are public with the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.shares import head_prefixes, in_adapter, in_stem
from crypto.errors import CipherwardError


def learning_rate(plan: Plan, step: int, total: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to zero.

    Args:
        plan: gives the peak rate and the steps of the warm-up.
        step: the number of earlier steps, counted over all rounds.
        total: the number of steps of all rounds.
    """
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    return plan.lr * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, total))))


def rate_scales(model: nn.Module, plan: Plan, round_: int) -> dict[str, float]:
    """Return what the learning rate of each weight is multiplied by in a round; 0 for a weight that is frozen in it.

    Args:
        model: as build_model returns it for this plan.
        plan: gives `layer_decay`, `stem_lr_scale`, `position_lr_scale` and `frozen_rounds`.
        round_: the round, from 1.

    Raises:
        CipherwardError: if the plan asks for `layer_decay`, and the model does not say which layer a weight is in.
    """
    names = [name for name, _ in model.named_parameters()]
    scales = _layer_scales(model, plan.layer_decay, names)
    frozen = _encoder_names(model, names) if round_ <= plan.frozen_rounds else frozenset()
    for name in names:
        if in_stem(name):
            scales[name] *= plan.position_lr_scale if name == "pos_embed" else plan.stem_lr_scale
        elif name in frozen:
            scales[name] = 0.0
    return scales


def _layer_scales(model: nn.Module, decay: float, names: list[str]) -> dict[str, float]:
    """Return decay to the power of the number of layers above each weight's."""
    if decay == 1.0:
        return dict.fromkeys(names, 1.0)
    from coordinator.model.torchvision_fix import timm  # takes more than a second to load

    if not hasattr(model, "group_matcher"):
        raise CipherwardError(
            "layer_decay: this model does not say which layer a weight belongs to",
            "choose one of timm's networks, or leave layer_decay out",
        )
    layers = timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    top = max(layers.values())
    return {name: decay ** (top - layers[name]) for name in names}


def _encoder_names(model: nn.Module, names: list[str]) -> frozenset[str]:
    """Return the weights that belong neither to the stem nor to the head, nor to an adapter."""
    heads = head_prefixes(model)
    return frozenset(n for n in names if not in_stem(n) and not in_adapter(n) and not n.startswith(heads))


def build_optimizer(model: nn.Module, plan: Plan, round_: int = 1) -> torch.optim.Optimizer:
    """Return the plan's optimizer over all weights of the model, in groups of one scale each."""
    scales = rate_scales(model, plan, round_)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        groups.setdefault(scales[name], []).append(weight)
    parts = [{"params": weights, "lr_scale": scale} for scale, weights in groups.items()]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(parts, plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay)
    return torch.optim.AdamW(parts, plan.lr, weight_decay=plan.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of a step: that of each group is its scale times this."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


@contextmanager
def frozen_encoder(model: nn.Module, plan: Plan, round_: int) -> Iterator[None]:
    """Take no gradients, within the block, of weights that are frozen in this round: they cost no time then."""
    scales = rate_scales(model, plan, round_)
    held = [w for name, w in model.named_parameters() if w.requires_grad and not scales[name]]
    for weight in held:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in held:
            weight.requires_grad_(True)
