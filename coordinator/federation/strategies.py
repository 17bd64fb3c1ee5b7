"""Flower's strategies by name, and what of them must survive a kill.

    fedavg     the mean by number of images (McMahan et al. 2017)
    fedprox    the same; hospitals add a proximal term to their loss (Li et al. 2020)
    fedadam    Adam on the mean update, at `server_lr` (Reddi et al. 2021)
    fedmedian  the median of every weight; numbers of images do not count (Yin et al. 2018)
    krum       the one reply nearest to its neighbours (Blanchard et al. 2017)

Krum averages nothing: with `malicious: 0`, too, a round ends with one hospital's weights. It is sound with
2 · malicious + 3 replies or more; Flower's goes on with fewer, so the plan sees to it that a quorum is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, Krum
from flwr.serverapp.strategy.strategy import Strategy
from torch import nn

from coordinator.exchange.plan import Plan
from crypto.errors import CipherwardError

STRATEGIES = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedmedian": FedMedian,
    "krum": Krum,
}
_MOMENTS = ("m_t", "v_t")  # FedAdam's, dictionaries by array


def strategy_of(plan: Plan) -> Strategy:
    """The plan's Flower strategy, asking every party that is there."""
    own: dict[str, dict[str, Any]] = {
        "fedprox": {"proximal_mu": plan.proximal_mu},
        "fedadam": {"eta": plan.server_lr},
        "krum": {"num_malicious_nodes": plan.malicious},
    }
    # Quorum and waiting are the round loop's: Flower's own minimum has no deadline.
    built: Strategy = STRATEGIES[plan.strategy](
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        **own.get(plan.strategy, {}),
    )
    return built


def moments_of(strategy: Strategy) -> dict[str, np.ndarray]:
    """What a strategy carries from round to round: float [parameters] by name; nothing for most."""
    held = {name: getattr(strategy, name, None) or {} for name in _MOMENTS}
    return {name: arrays["model"] for name, arrays in held.items() if "model" in arrays}


def put_moments(strategy: Strategy, moments: Mapping[str, np.ndarray]) -> None:
    """Hands back what `moments_of` gave."""
    for name, vector in moments.items():
        if hasattr(strategy, name):
            setattr(strategy, name, {"model": vector})


def averageable(model: nn.Module, names: Sequence[str], plan: Plan) -> None:
    """Raises CipherwardError where Adam would step on statistics, which are no weights."""
    statistics = {name for name, _ in model.named_buffers()} & set(names)
    if plan.strategy == "fedadam" and statistics:
        raise CipherwardError(
            f"fedadam: {plan.model} has batch normalisation, whose statistics Adam would take for weights",
            "choose fedavg, or a model without it",
        )
