"""Training a network for an attack: on one device, within a budget, resumed after a kill.

An attack says what it trains (networks and optimisers), which batches an epoch has and what a step is; the rest is
here. Batches are drawn from (seed, epoch) alone and the state is kept with the place in the epoch, so a training
that was stopped anywhere goes on as if it had not been: on a CPU to the last bit.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from coordinator.adversary.contract import Budget, Knowledge
from crypto.errors import CipherwardError
from crypto.files import write_atomic
from crypto.scheme import load
from crypto.spec import SchemeSpec

Batch = TypeVar("Batch")
_KEEP_EVERY = 60.0  # seconds between checkpoints within an epoch
_AT_ONCE = 128  # pictures that a trained network makes at a time


class Stateful(Protocol):
    """A network, an optimiser or a schedule of learning rates."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass(frozen=True)
class Course:
    """How long and on how many images a step, and the seed of weights and batches."""

    epochs: int
    batch: int
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a training came. losses: the mean of each over the last whole epoch."""

    epochs: int
    of: int
    steps: int
    losses: Mapping[str, float]
    diverged: bool = False

    @property
    def untrained(self) -> bool:
        """Whether nothing came of it: no step was taken, or the weights are no numbers."""
        return not self.steps or self.diverged

    @property
    def note(self) -> str:
        """What a reader of the guess must know of it; nothing after a whole course."""
        if self.diverged:
            return f"the training diverged after {self.steps} steps"
        if self.epochs < self.of:
            return f"truncated: {self.epochs} of {self.of} epochs, {self.steps} steps"
        return ""


def device() -> torch.device:
    """Where everything is trained: the first CUDA device, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def weights_from(seed: int) -> Iterator[None]:
    """Within it, torch draws from the seed; outside, its generator is as it was. Build networks here, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def placed(network: nn.Module) -> nn.Module:
    """The network itself, on the device, channels last: convolutions on a CPU take two thirds of the time."""
    return network.to(device(), memory_format=torch.channels_last)


def on_device(images: np.ndarray) -> torch.Tensor:
    """[n, h, w, c] as it is, uint8 or float32, on the device: it is scaled a batch at a time."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device())


def scaled(images: torch.Tensor) -> torch.Tensor:
    """[n, h, w, c] in 0…255 → float32 [n, c, h, w] in -1…1, channels last in memory, as `placed` networks are."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0)


def chosen(images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Of [n, h, w, c] in 0…255 on the device, these rows, int64 [r] → float32 [r, c, h, w] in -1…1."""
    return scaled(images[torch.from_numpy(rows).to(images.device)])


def pictures(network: nn.Module, images: np.ndarray, lowest: float = -1.0) -> np.ndarray:
    """[n, h, w, c] in 0…255 → uint8 [n, h, w, c]: what a trained network, whose range is lowest…1, makes of them."""
    network.eval()
    made = []
    with torch.no_grad():
        for first in range(0, len(images), _AT_ONCE):
            out = network(scaled(on_device(images[first : first + _AT_ONCE])))
            levels = out.sub(lowest).mul(255.0 / (1.0 - lowest)).round().clamp(0, 255).to(torch.uint8)
            made.append(levels.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(made)


def as_input(spec: SchemeSpec, sealed: np.ndarray) -> np.ndarray:
    """Ciphertexts in the plain shape: as they are, values outside 0…255 too, or as the scheme pictures them."""
    same = sealed.shape[1:] == spec.image_shape
    return sealed if same else load(spec).picture(sealed)


def about(spec: SchemeSpec, *images: np.ndarray) -> dict[str, Any]:
    """What a training is about: the scheme, and a digest of each set of images."""
    digests = [hashlib.sha256(np.ascontiguousarray(part).data).hexdigest() for part in images]
    return {"spec": spec.to_json(), "images": digests}


def lacking(knowledge: Knowledge, ciphertexts: int, public: int) -> str:
    """What an attack that wants so many images lacks, or nothing.

    Raises CipherwardError for public images of another shape than the plain ones.
    """
    spec, given = knowledge.pool.spec, knowledge.public
    if given is not None and len(given) and given.shape[1:] != spec.image_shape:
        raise CipherwardError(
            f"public images of {given.shape[1:]} cannot be learnt beside plain ones of {spec.image_shape}",
            "bring the public images to the size and channels of the sealed ones",
        )
    held = 0 if given is None else len(given)
    if held < public:
        return f"needs {public} public images, has {held}"
    if len(knowledge.pool_rows) < ciphertexts:
        return f"needs {ciphertexts} ciphertexts, has {len(knowledge.pool_rows)}"
    return ""


def unpaired(
    generator: np.random.Generator, ciphertexts: int, plain: int, batch: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """One epoch: every ciphertext once, beside plain images drawn without regard to it.

    Pairs of int64 [batch] indices; what does not fill a batch is left for another epoch. Fewer plain images than
    ciphertexts come several times.
    """
    sealed = generator.permutation(ciphertexts)
    rounds = [generator.permutation(plain) for _ in range(math.ceil(ciphertexts / plain))]
    beside = np.concatenate(rounds)[:ciphertexts]
    whole = range(0, ciphertexts - batch + 1, batch)
    return [(sealed[i : i + batch], beside[i : i + batch]) for i in whole]


def train(
    parts: Mapping[str, Stateful],
    course: Course,
    batches: Callable[[np.random.Generator, int], Sequence[Batch]],
    step: Callable[[Batch], Mapping[str, float]],
    budget: Budget,
    identity: Mapping[str, Any],
    checkpoint: Path | None = None,
    told: Callable[[Progress], None] = lambda progress: None,
    ended: Callable[[], None] = lambda: None,
) -> Progress:
    """Takes the steps of a course until it or the budget ends.

    parts: all that a step changes, by name. batches: one epoch's, from a generator and the epoch's number. step:
    changes the parts by one batch and returns its losses; one that is not finite ends the training. identity:
    what the training is about; a checkpoint of another is refused. checkpoint: a file that is written after every
    epoch, every minute and at the end, and gone on from where it exists. told: after every epoch. ended: at every
    epoch's end, for learning rates.
    """
    about = {**identity, "batch": course.batch, "seed": course.seed}
    epoch, place, steps, sums, means = 0, 0, 0, dict[str, float](), dict[str, float]()
    if checkpoint is not None and checkpoint.exists():
        kept = _read(checkpoint, about, parts)
        epoch, place, steps = kept["epoch"], kept["place"], kept["steps"]
        sums, means = kept["sums"], kept["means"]

    def keep() -> None:
        if checkpoint is not None:
            state = {"epoch": epoch, "place": place, "steps": steps, "sums": sums, "means": means}
            states = {name: part.state_dict() for name, part in parts.items()}
            write_atomic(
                checkpoint, lambda path: torch.save({"about": about, **state, "parts": states}, path)
            )

    kept_at = time.monotonic()
    while epoch < course.epochs:
        todo = batches(np.random.default_rng([course.seed, epoch]), epoch)
        while place < len(todo):
            if budget.left() <= 0:
                keep()
                return Progress(epoch, course.epochs, steps, means)
            losses = step(todo[place])
            steps, place = steps + 1, place + 1
            if not all(map(math.isfinite, losses.values())):
                return Progress(epoch, course.epochs, steps, means, diverged=True)
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
            if time.monotonic() - kept_at > _KEEP_EVERY:
                keep()
                kept_at = time.monotonic()
        means = {name: value / len(todo) for name, value in sums.items()}
        epoch, place, sums = epoch + 1, 0, {}
        ended()
        keep()
        told(Progress(epoch, course.epochs, steps, means))
    return Progress(epoch, course.epochs, steps, means)


def _read(path: Path, about: Mapping[str, Any], parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Puts a checkpoint's states into the parts and returns the rest of it."""
    try:
        kept: dict[str, Any] = torch.load(path, map_location=device(), weights_only=True)
        same = kept["about"] == about
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
    if not same:
        raise CipherwardError(f"{path} is of another training", "choose another file, or remove it")
    for name, part in parts.items():
        part.load_state_dict(kept["parts"][name])
    return kept
