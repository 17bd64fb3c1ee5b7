"""Flower's aggregation strategies by name, and the part of their state that must survive a kill.

    fedavg     the mean, weighted by number of images (McMahan et al. 2017)
    fedprox    the same; hospitals add a proximal term to their loss (Li et al. 2020)
    fedadam    Adam on the mean update, with step size `server_lr` (Reddi et al. 2021)
    fedmedian  the median of every weight; the numbers of images do not count (Yin et al. 2018)
    krum       the one reply that is nearest to its neighbours (Blanchard et al. 2017)

Krum does not average: even with `malicious: 0`, a round ends with the weights of one hospital. It is sound with at
least 2 · malicious + 3 replies. Flower's Krum runs with fewer, so the plan requires a quorum of that size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, Krum
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.serverapp.strategy.strategy import Strategy
from torch import nn

from coordinator.exchange.plan import Plan
from crypto.arrays import AnyArray, Float32Array
from crypto.errors import CipherwardError


class KrumOfUpdates(Krum):  # type: ignore[misc]  # flwr is not typed for mypy here
    """Flower's Krum, with distances between updates and not between whole models.

    Flower takes ‖x‖² + ‖y‖² − 2x·y in float32. The squared norm of a ViT's weights is in the thousands, and the
    rounding of such numbers is larger than the distances after a round of small steps: any reply could then be the
    nearest.
    """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Keep the weights that replies are compared with, and make the round's messages."""
        self._before = arrays["model"].numpy()
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the weights and metrics of the reply whose update is nearest to its neighbours."""
        whole = list(replies)
        updates = [
            RecordDict({"arrays": ArrayRecord({"model": Array(_vector(reply) - self._before)})})
            for reply in whole
        ]
        [chosen] = select_multikrum(updates, self.num_malicious_nodes, self.num_nodes_to_select)
        nearest = next(reply for reply, update in zip(whole, updates, strict=True) if update is chosen)
        result: tuple[ArrayRecord | None, MetricRecord | None] = super().aggregate_train(
            server_round, [nearest]
        )
        return result


def _vector(reply: Message) -> Float32Array:
    """Return the weights of a reply, float32 [parameters]."""
    vector: Float32Array = next(iter(reply.content.array_records.values()))["model"].numpy()
    return vector


STRATEGIES = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedmedian": FedMedian,
    "krum": KrumOfUpdates,
}
#: FedAdam's first and second moments: attributes that hold dictionaries by array name.
_MOMENTS = ("m_t", "v_t")


def build_strategy(plan: Plan) -> Strategy:
    """Return the plan's Flower strategy, which selects every party that is connected."""
    options: dict[str, dict[str, Any]] = {
        "fedprox": {"proximal_mu": plan.proximal_mu},
        "fedadam": {"eta": plan.server_lr},
        "krum": {"num_malicious_nodes": plan.malicious},
    }
    # The round loop handles quorum and waiting: Flower's own minimum has no deadline.
    strategy: Strategy = STRATEGIES[plan.strategy](
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        **options.get(plan.strategy, {}),
    )
    return strategy


def takes_mean(plan: Plan) -> bool:
    """Say whether the plan's strategy uses nothing of the replies but their mean."""
    return plan.strategy in ("fedavg", "fedprox", "fedadam")


def get_moments(strategy: Strategy) -> dict[str, AnyArray]:
    """Return what a strategy carries from round to round: float [parameters] by name, empty for most strategies."""
    moments = {name: getattr(strategy, name, None) or {} for name in _MOMENTS}
    return {name: arrays["model"] for name, arrays in moments.items() if "model" in arrays}


def set_moments(strategy: Strategy, moments: Mapping[str, AnyArray]) -> None:
    """Give a strategy the moments that `get_moments` returned."""
    for name, vector in moments.items():
        if hasattr(strategy, name):
            setattr(strategy, name, {"model": vector})


def require_aggregatable(model: nn.Module, names: Sequence[str], plan: Plan) -> None:
    """Raise CipherwardError if FedAdam would step on statistics of batch normalisation, which are not weights."""
    statistics = {name for name, _ in model.named_buffers()} & set(names)
    if plan.strategy == "fedadam" and statistics:
        raise CipherwardError(
            f"fedadam: {plan.model} has batch normalisation, and Adam would treat its statistics as weights",
            "choose fedavg, or a model without batch normalisation",
        )
