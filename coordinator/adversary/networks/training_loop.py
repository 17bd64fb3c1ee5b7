"""Train a network for an attack: on one device, within a time budget, and resumed after a kill.

An attack says what it trains (networks and optimisers), which batches an epoch has and what a step does. The rest
is here. Batches are drawn from (seed, epoch) alone, and a checkpoint holds the state together with the place in the
epoch. So a training that was stopped anywhere continues as if it had not been stopped: on a CPU to the last bit.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.networks.device import training_device
from coordinator.adversary.time_budget import Budget
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.errors import CipherwardError
from crypto.files import write_atomic
from crypto.plural import counted
from crypto.scheme import load
from crypto.spec import SchemeSpec

Batch = TypeVar("Batch")

#: Seconds between checkpoints within an epoch: a kill costs at most a minute. Set by hand.
CHECKPOINT_SECONDS = 60.0


class Stateful(Protocol):
    """A network, an optimiser or a schedule of learning rates."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take the state of a checkpoint."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, with how many images a step, and the seed of weights and batches."""

    epochs: int
    batch_size: int
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a training came.

    Attributes:
        epochs: whole epochs that were trained.
        total_epochs: epochs that were planned.
        steps: optimiser steps that were taken.
        losses: the mean of each loss over the last whole epoch.
        diverged: True if a loss was not finite.
    """

    epochs: int
    total_epochs: int
    steps: int
    losses: Mapping[str, float]
    diverged: bool = False

    @property
    def is_untrained(self) -> bool:
        """Whether the training gave nothing: no step was taken, or the weights are not numbers."""
        return not self.steps or self.diverged

    @property
    def note(self) -> str:
        """What a reader of the guess must know of the training. Empty after all epochs."""
        if self.diverged:
            return f"the training diverged after {counted(self.steps, 'step')}"
        if self.epochs < self.total_epochs:
            return f"truncated: {self.epochs} of {counted(self.total_epochs, 'epoch')}, {counted(self.steps, 'step')}"
        return ""


OnEpoch = Callable[[nn.Module, Progress], None]


def ignore(*_: object) -> None:
    """Do nothing: the default of callbacks."""


def to_plain_shape(spec: SchemeSpec, sealed: AnyArray) -> AnyArray:
    """Return ciphertexts in the shape of the plain images.

    They stay as they are where the shapes agree, values outside 0…255 included. Otherwise the scheme pictures them.
    """
    has_plain_shape = sealed.shape[1:] == spec.image_shape
    return sealed if has_plain_shape else load(spec).picture(sealed)


def training_identity(spec: SchemeSpec, *images: AnyArray) -> dict[str, Any]:
    """Return what identifies a training in its checkpoint: the scheme, and a digest of each set of images."""
    digests = [hashlib.sha256(np.ascontiguousarray(part).data).hexdigest() for part in images]
    return {"spec": spec.to_json(), "images": digests}


def missing_data(knowledge: Knowledge, ciphertexts: int, public: int) -> str:
    """Return what a knowledge lacks for an attack that needs so many images of each kind; empty if nothing.

    Raises:
        CipherwardError: the public images have another shape than the plain ones.
    """
    spec, images = knowledge.pool.spec, knowledge.public
    if images is not None and len(images) and images.shape[1:] != spec.image_shape:
        raise CipherwardError(
            f"public images of {images.shape[1:]} do not match plain ones of {spec.image_shape}",
            "bring the public images to the size and channels of the sealed ones",
        )
    count = 0 if images is None else len(images)
    if count < public:
        return f"needs {public} public images, has {count}"
    if len(knowledge.pool_rows) < ciphertexts:
        return f"needs {ciphertexts} ciphertexts, has {len(knowledge.pool_rows)}"
    return ""


def check_batch(config: TrainingConfig, sealed: AnyArray, public: Images) -> None:
    """Raise CipherwardError if there are fewer ciphertexts or public images than a batch holds."""
    if min(len(sealed), len(public)) < config.batch_size:
        raise CipherwardError(
            f"{counted(len(sealed), 'ciphertext')} and {counted(len(public), 'plain image')} make no batch of "
            f"{config.batch_size}",
            f"give at least {config.batch_size} of each, or choose a smaller batch",
        )


def unpaired_batches(
    generator: np.random.Generator, ciphertexts: int, plain: int, batch_size: int
) -> list[tuple[Int64Array, Int64Array]]:
    """Return one epoch: every ciphertext once, beside plain images drawn independently of it.

    What does not fill a batch is left for another epoch. If there are fewer plain images than ciphertexts, the plain
    images come several times.

    Returns:
        Pairs of int64 [batch_size] indices: ciphertexts and plain images.
    """
    sealed_order = generator.permutation(ciphertexts)
    rounds = [generator.permutation(plain) for _ in range(math.ceil(ciphertexts / plain))]
    plain_order = np.concatenate(rounds)[:ciphertexts]
    starts = range(0, ciphertexts - batch_size + 1, batch_size)
    return [(sealed_order[i : i + batch_size], plain_order[i : i + batch_size]) for i in starts]


@dataclass
class _State:
    """Where a training stands; networks and optimisers keep their own state.

    Attributes:
        epoch: whole epochs that were trained.
        place: batches of the running epoch that were trained.
        steps: steps over all epochs.
        sums: the sum of each loss over the running epoch.
        means: the mean of each loss over the last whole epoch.
    """

    epoch: int = 0
    place: int = 0
    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)

    def end_epoch(self, batches: int) -> None:
        """Turn the sums into means over the epoch's batches, and begin the next epoch."""
        self.means = {name: value / batches for name, value in self.sums.items()}
        self.epoch, self.place, self.sums = self.epoch + 1, 0, {}


def train(
    parts: Mapping[str, Stateful],
    config: TrainingConfig,
    batches: Callable[[np.random.Generator, int], Sequence[Batch]],
    step: Callable[[Batch], Mapping[str, float]],
    budget: Budget,
    identity: Mapping[str, Any],
    checkpoint: Path | None = None,
    on_epoch: Callable[[Progress], None] = ignore,
    advance_rates: Callable[[], None] = ignore,
) -> Progress:
    """Train until all epochs are done or the budget ends.

    Args:
        parts: everything that a step changes, by name.
        config: epochs, batch size and seed.
        batches: return the batches of one epoch, from a random generator and the epoch's number.
        step: change the parts by one batch and return its losses. A loss that is not finite ends the training.
        budget: the time that the training may take.
        identity: what the training is about. A checkpoint with another identity is refused.
        checkpoint: a file that is written after every epoch, every minute and at the end. If it exists, the training
            continues from it.
        on_epoch: called after every epoch.
        advance_rates: called at the end of every epoch, before its checkpoint: for learning rates, and whatever else
            the checkpoint must hold.

    Returns:
        How far the training came.

    Raises:
        CipherwardError: the checkpoint cannot be read or belongs to another training.
    """
    about = {**identity, "batch": config.batch_size, "seed": config.seed}
    state = _State()
    if checkpoint is not None and checkpoint.exists():
        state = _load(checkpoint, about, parts)

    def save() -> None:
        if checkpoint is not None:
            _save(checkpoint, about, state, parts)

    def progress(diverged: bool = False) -> Progress:
        return Progress(state.epoch, config.epochs, state.steps, state.means, diverged)

    saved_at = time.monotonic()
    while state.epoch < config.epochs:
        epoch_batches = batches(np.random.default_rng([config.seed, state.epoch]), state.epoch)
        while state.place < len(epoch_batches):
            if not budget.time_left():
                save()
                return progress()
            losses = step(epoch_batches[state.place])
            state.steps, state.place = state.steps + 1, state.place + 1
            if not all(map(math.isfinite, losses.values())):
                return progress(diverged=True)
            state.sums = {name: state.sums.get(name, 0.0) + value for name, value in losses.items()}
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                save()
                saved_at = time.monotonic()
        state.end_epoch(len(epoch_batches))
        advance_rates()
        save()
        on_epoch(progress())
    return progress()


def _save(path: Path, about: Mapping[str, Any], state: _State, parts: Mapping[str, Stateful]) -> None:
    """Write a checkpoint in one go: the identity, the state, and the state of every part."""
    states = {name: part.state_dict() for name, part in parts.items()}
    write_atomic(path, lambda file: torch.save({"about": about, **vars(state), "parts": states}, file))


def _load(path: Path, about: Mapping[str, Any], parts: Mapping[str, Stateful]) -> _State:
    """Put a checkpoint's states into the parts and return where the training stands."""
    try:
        stored: dict[str, Any] = torch.load(path, map_location=training_device(), weights_only=True)
        is_same = stored["about"] == about
    except (
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise CipherwardError(
            f"the checkpoint {path} cannot be read: {type(error).__name__}", "remove it to train anew"
        ) from None
    if not is_same:
        raise CipherwardError(f"{path} is of another training", "choose another file, or remove it")
    for name, part in parts.items():
        part.load_state_dict(stored["parts"][name])
    return _State(**{name: stored[name] for name in vars(_State())})
