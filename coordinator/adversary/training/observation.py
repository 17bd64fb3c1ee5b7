"""Read what the cloud sees of a federated training: plan, weights sent out and averaged, and every reply (T5).

Nothing here is secret from the coordinator. Under any stem mode, an adversary inside it holds all of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from coordinator.exchange.plan import FILE, Plan, load_plan
from coordinator.exchange.training_result import read_training
from coordinator.federation.recording import read_summed, read_updates
from crypto.arrays import AnyArray, Float32Array
from crypto.errors import CipherwardError

_TRAIN_AGAIN = "restore the study's folder from a copy, or train again into another one"


@dataclass(frozen=True)
class Update:
    """One reply of a hospital: the weights that were sent to it and those that it sent back.

    Attributes:
        round: of the training, from 1.
        party: the hospital's name.
        before: float32 [parameters], packed as coordinator.model.vit.pack packs the names that travel.
        after: as `before`.
        images: how many images the hospital says it trained on in this round.
        summed: under secure aggregation this is the mean of several hospitals' updates: the images of each. `party`
            then names all of them.
    """

    round: int
    party: str
    before: Float32Array
    after: Float32Array
    images: int
    summed: tuple[int, ...] = ()

    @property
    def most_images(self) -> int:
        """The images of the hospital in it that has the most, which takes the most local steps."""
        return max(self.summed, default=self.images)


@dataclass(frozen=True)
class Observed:
    """A training as the cloud saw it.

    Attributes:
        plan: public, and so are the model that it names and, if it names a weights file, that checkpoint. classes:
        how many. weights: the federation's final weights by name in timm's state, float32; under stem mode
        `private` without the
            stem.
        updates: the recorded replies; none if the coordinator records none.
        keys: the ids of the keys that the hospitals trained under, as far as the training says.
    """

    plan: Plan
    classes: int
    weights: Mapping[str, AnyArray]
    updates: tuple[Update, ...] = ()
    keys: frozenset[str] = frozenset()


def observe(cloud: Path) -> Observed:
    """Read what a finished training left in a study's cloud folder.

    The plan is in that folder, or in the study's folder above it.

    Raises:
        CipherwardError: a file of the training is missing, altered or unreadable.
    """
    cloud = Path(cloud)
    plan_path = cloud / FILE
    # The public weights that the plan names may be elsewhere. Attacks then continue without them.
    plan = load_plan(plan_path if plan_path.is_file() else cloud.resolve().parent / FILE)
    training = read_training(cloud)
    try:
        classes = len(training["classes"])
    except (KeyError, TypeError):
        raise CipherwardError(f"{cloud / 'training.json'} names no classes", _TRAIN_AGAIN) from None
    path = cloud / "model.safetensors"
    try:
        weights = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CipherwardError(
            f"the model {path} cannot be read: {type(error).__name__}", _TRAIN_AGAIN
        ) from None
    summed = read_summed(cloud)
    updates = [
        Update(round_, party, before, after, images, tuple(summed.get(round_, {}).values()))
        for round_, before, replies in read_updates(cloud)
        for party, (after, images) in replies.items()
    ]
    for update in updates:
        if update.before.shape != update.after.shape:
            raise CipherwardError(
                f"round {update.round}: {update.party}'s update has another length than what was sent",
                "the recorded updates do not belong together: train again in another folder",
            )
    return Observed(plan, classes, weights, tuple(updates), _key_ids(training))


def _key_ids(training: Mapping[str, Any]) -> frozenset[str]:
    """Return the key ids in training.json, of the hospitals that gave one."""
    parties = training.get("parties")
    keys = set()
    for party in parties if isinstance(parties, list) else []:
        try:
            keys.add(str(party["splits"]["train"]["key_id"]))
        except (KeyError, TypeError):
            continue  # a central training has none
    return frozenset(keys)
