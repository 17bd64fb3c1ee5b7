"""What the cloud sees of a training: the plan, the weights that it sends out and averages, and every reply.

Nothing here is secret from the coordinator: under any stem mode, this is what an adversary inside it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.plan import Plan


@dataclass(frozen=True)
class Update:
    """One reply of a hospital: the weights that were sent to it and those that it sent back.

    before, after: float32 [parameters], packed as coordinator.models.pack packs the names that travel.
    images: how many images the hospital says it trained on in this round.
    """

    round: int
    party: str
    before: np.ndarray
    after: np.ndarray
    images: int


@dataclass(frozen=True)
class Observed:
    """A training as the cloud saw it.

    plan: public, and so are the model that it names and, where it names a weights file, that checkpoint.
    classes: how many. weights: the federation's final weights by name in timm's state, float32; under stem mode
    `private` without the stem. updates: the replies that were kept; none where the coordinator keeps none.
    """

    plan: Plan
    classes: int
    weights: Mapping[str, np.ndarray]
    updates: tuple[Update, ...] = ()
