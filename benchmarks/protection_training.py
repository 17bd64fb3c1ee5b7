"""The trainings of benchmarks/protection.py: hospitals that train under a protection, and what the cloud then holds.

Every hospital trains on plain images. Under the stem modes `private` and `plain` the cloud sees what it would see of
a training on plain images, up to float rounding (tests/parties/training/test_stem_federation.py).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from benchmarks.secure_sum import run_round
from coordinator.adversary.training.observation import Update
from coordinator.exchange.plan import Plan
from coordinator.federation.recording import sum_name
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import pack, unpack
from crypto.arrays import Float32Array
from crypto.identity import Identity
from parties.training.private_training import PrivateRound, plan_round, train_privately

HOSPITALS, DELTA = 3, 1e-4
PARTIES = tuple(f"hospital-{i}" for i in range(HOSPITALS))


@dataclass(frozen=True)
class Protection:
    """A protection of the hospitals' updates.

    Attributes:
        name: in words.
        sums: whether the cloud learns sums only.
        epsilon: of DP-SGD in every hospital; None: without.
    """

    name: str
    sums: bool = False
    epsilon: float | None = None

    def plan(self, norm: float = 1.0, **settings: Any) -> Plan:
        """Return a plan of three hospitals under this protection.

        Args:
            norm: of an image's gradient at most, under DP-SGD.
            settings: of the plan.
        """
        privacy: dict[str, Any] = {"secure_aggregation": self.sums}
        if self.epsilon is not None:
            privacy |= {"epsilon": self.epsilon, "delta": DELTA, "unit": "image", "max_grad_norm": norm}
        common = {"study": "protection", "counts": (9, 9, 9), "stem": "plain", "warmup_steps": 0}
        common |= {"optimizer": "sgd", "weight_decay": 0.0, "parties": HOSPITALS, "privacy": privacy}
        return Plan.model_validate(common | settings)


PROTECTIONS = (
    Protection("nothing"),
    Protection("secure aggregation", True),
    *(Protection(f"DP, ε = {e}", False, e) for e in (8, 3, 1)),
    *(Protection(f"both, ε = {e}", True, e) for e in (8, 3, 1)),
)


@dataclass(frozen=True)
class CloudView:
    """One round as the cloud sees it.

    Attributes:
        updates: each hospital's; under secure aggregation their mean alone.
        mean: the new weights, float32 [parameters].
        seconds: of a core: the slowest hospital and the cloud, one after the other.
        traffic: bytes to and from all hospitals, weights as float32.
    """

    updates: tuple[Update, ...]
    mean: Float32Array
    seconds: float
    traffic: int


@functools.lru_cache(maxsize=32)
def _plan_private(plan_json: str, images: int) -> PrivateRound:
    """Return the noise of a plan in a hospital with so many images. To compute it takes seconds."""
    return plan_round(Plan.model_validate_json(plan_json), np.arange(images))


@functools.lru_cache(maxsize=1)
def _identities() -> tuple[Identity, ...]:
    return tuple(Identity.generate(name) for name in PARTIES)


def train_round(
    model: nn.Module, plan: Plan, hospitals: Sequence[PlainImages], start: Float32Array, round_: int = 1
) -> CloudView:
    """Train hospitals with equally many images for one round.

    Args:
        model: whose weights all travel; changed in place.
        plan: from `Protection.plan`.
        hospitals: their plain images.
        start: the weights that they are sent, float32 [parameters].
        round_: from 1.
    """
    after, seconds = [], []
    for index, data in enumerate(hospitals):
        unpack(model, start)
        private = _plan_private(plan.model_dump_json(), len(data.labels)) if plan.privacy.is_on else None
        begun = time.process_time()
        if private is not None:
            train_privately(model, data, plan, round_, private)
        else:
            train_locally(model, data, plan, round_, PARTIES[index])
        after.append(pack(model))
        seconds.append(time.process_time() - begun)
    counts = tuple(len(data.labels) for data in hospitals)
    traffic = 2 * 4 * start.size * len(hospitals)
    if not plan.sums_securely:
        updates = tuple(
            Update(round_, PARTIES[i], start, weights, counts[i]) for i, weights in enumerate(after)
        )
        return CloudView(updates, np.mean(after, axis=0, dtype=np.float32), max(seconds), traffic)
    costs, mean = run_round(_identities(), [weights - start for weights in after], 0)
    update = Update(round_, sum_name(PARTIES), start, start + mean, sum(counts), counts)
    return CloudView(
        (update,),
        update.after,
        max(seconds) + costs.hospital_seconds + costs.cloud_seconds,
        traffic + costs.extra_up + costs.extra_down,
    )
