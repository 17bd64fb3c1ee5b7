"""What an adversary holds, and what it hands back. An attack sees a Knowledge and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from crypto.spec import SchemeSpec


class Ciphertexts(Protocol):
    """Sealed images under one scheme and one key, in a fixed row order (coordinator/pool.py)."""

    spec: SchemeSpec

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
    """

    pool: Ciphertexts
    seen: np.ndarray
    rows: np.ndarray
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Guess:
    """An attack's answer.

    images: uint8 [r, h, w, c], a guess of the plain image of every row of `rows`.
    tier: the least knowledge the attack needs (T0 one ciphertext, T1 a pool).
    key: None, or the recovered key as arrays. `gather` (int32 [units]) and `mask` (uint8, optional) are
        the table that opens any image of the pool; further names are the scheme's own parts, such as
        K1 and K2 of block_pixel_shuffle.
    note: anything a reader must know, such as a truncation or "nothing identifiable".
    """

    attack: str
    tier: str
    images: np.ndarray
    rows: np.ndarray
    key: Mapping[str, np.ndarray] | None
    seconds: float
    note: str = ""


Attack = Callable[[Knowledge], Guess]
