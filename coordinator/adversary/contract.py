"""What an adversary holds, and what it hands back. An attack sees a Knowledge and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from coordinator.adversary.training.observation import Observed
from crypto.kernels.table import Table
from crypto.spec import SchemeSpec


class Ciphertexts(Protocol):
    """Sealed images under one scheme and one key, in a fixed row order (coordinator/exchange/pool.py)."""

    @property
    def spec(self) -> SchemeSpec: ...

    def __len__(self) -> int: ...

    def images(self, rows: np.ndarray) -> np.ndarray:
        """int64 [r] → uint8 [r, h, w, c], the sealed images of these rows."""


@dataclass(frozen=True)
class Budget:
    """How long one attack may take; a truncated attack hands back its best guess and says so."""

    seconds: float = 600.0
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.seconds - (time.monotonic() - self.started))


@dataclass(frozen=True)
class Knowledge:
    """Ciphertext-only knowledge: no key, no plain image, no truth.

    pool: the ciphertexts collected so far, with the public scheme description.
    seen: int64 [n], the pool rows whose statistics the attack may use; n is the pool size reported.
    rows: int64 [r], the pool rows whose plain images it is to guess.
    public: None, or uint8 [m, *image_shape], plain images that anybody may have (T2); none of them is in the
        pool, but for reidentify, whose gallery it is. Whether they come from the pool's own source or from
        another decides how much they help: whoever makes a Knowledge says which beside every figure.
    known: None, or (uint8 [m, *image_shape], [m, *sealed_shape]), plain images and how they were sealed under
        the pool's key (T3).
    oracle: None, or what seals plain images of the adversary's own choice under the pool's key (T4): uint8
        [m, *image_shape] → [m, *sealed_shape].
    labels: None, or int64 [len(pool)], the class of every image of the pool; they travel in clear.
    observed: None, or what the cloud saw of a training (T5): plan, weights and updates.
    """

    pool: Ciphertexts
    seen: np.ndarray
    rows: np.ndarray
    budget: Budget = field(default_factory=Budget)
    public: np.ndarray | None = None
    known: tuple[np.ndarray, np.ndarray] | None = None
    oracle: Callable[[np.ndarray], np.ndarray] | None = None
    labels: np.ndarray | None = None
    observed: Observed | None = None


@dataclass(frozen=True)
class Guess:
    """An attack's answer.

    images: uint8 [r, h, w, c], a guess of the plain image of every row of `rows`.
    tier: the least knowledge the attack needs (T0 one ciphertext, T1 a pool, T2 public plain images too, T3 known
        pairs, T4 chosen plain images, T5 weights or updates of a training).
    key: None, or the recovered key as arrays. `gather` (int32 [units]) and `mask` (uint8, optional) are
        the flat table that opens any image of the pool (crypto.kernels.executors.Table.flat); further names are the
        scheme's own parts, such as K1 and K2 of block_pixel_shuffle.
    note: anything a reader must know, such as "nothing identifiable"; of a guess out of time it says `truncated`.
    idle: whether the ciphertext's picture is handed back untried, because the attack lacks what it needs or knows no
        way into the scheme: that is no resistance of the scheme's.
    """

    attack: str
    tier: str
    images: np.ndarray
    rows: np.ndarray
    key: Mapping[str, np.ndarray] | None
    seconds: float
    note: str = ""
    idle: bool = False


@dataclass(frozen=True)
class Recovered:
    """A key that was found from ciphertexts alone.

    table: opens any image of the pool, [n, *sealed_shape] to [n, *sealed_shape].
    parts: the key under the scheme's own names (`Scheme.parts`), as far as those were found.
    notes: what went unfinished or cannot be told.
    """

    table: Table
    parts: Mapping[str, np.ndarray]
    notes: tuple[str, ...]


Attack = Callable[[Knowledge], Guess]
