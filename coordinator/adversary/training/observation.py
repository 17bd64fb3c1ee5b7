"""What the cloud sees of a training: the plan, the weights that it sends out and averages, and every reply.

Nothing here is secret from the coordinator: under any stem mode, this is what an adversary inside it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from coordinator.exchange.plan import FILE, Plan, plan_in
from coordinator.federation.recording import kept
from crypto.errors import CipherwardError
from crypto.files import read_json


@dataclass(frozen=True)
class Update:
    """One reply of a hospital: the weights that were sent to it and those that it sent back.

    before, after: float32 [parameters], packed as coordinator.model.vit.pack packs the names that travel.
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
    keys: the ids of the keys that the hospitals trained under, as far as the training says.
    """

    plan: Plan
    classes: int
    weights: Mapping[str, np.ndarray]
    updates: tuple[Update, ...] = ()
    keys: frozenset[str] = frozenset()


def observe(cloud: Path) -> Observed:
    """What a finished training left in a study's cloud folder; the plan is there, or in the study's folder above.

    Raises CipherwardError where a file of it is missing, altered or unreadable.
    """
    cloud = Path(cloud)
    beside = cloud / FILE
    # The public weights that it names may be elsewhere: attacks then go on without them.
    plan = plan_in(beside if beside.is_file() else cloud.resolve().parent / FILE)
    training = read_json(cloud / "training.json", "finished training")
    try:
        classes = len(training["classes"])
    except (KeyError, TypeError):
        raise CipherwardError(f"{cloud / 'training.json'} names no classes") from None
    path = cloud / "model.safetensors"
    try:
        weights = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CipherwardError(f"the model {path} cannot be read: {type(error).__name__}") from None
    updates = [
        Update(round_, party, before, after, images)
        for round_, before, replies in kept(cloud)
        for party, (after, images) in replies.items()
    ]
    for update in updates:
        if update.before.shape != update.after.shape:
            raise CipherwardError(
                f"round {update.round}: {update.party}'s update has another length than what was sent",
                "the kept updates do not belong together: train again in another folder",
            )
    return Observed(plan, classes, weights, tuple(updates), _keys(training))


def _keys(training: Mapping[str, Any]) -> frozenset[str]:
    """The key ids in training.json, of the hospitals that gave one."""
    parties = training.get("parties")
    found = set()
    for party in parties if isinstance(parties, list) else []:
        try:
            found.add(str(party["splits"]["train"]["key_id"]))
        except (KeyError, TypeError):
            continue  # a central training has none
    return frozenset(found)
