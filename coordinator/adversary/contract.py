"""The contract of every attack: it gets a `Knowledge`, returns a `Guess`, and sees nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from coordinator.adversary.time_budget import Budget, TimeLeft
from coordinator.adversary.training.observation import Observed
from crypto.arrays import AnyArray, Images, Int64Array, Rows
from crypto.kernels.table import Table
from crypto.spec import SchemeSpec

__all__ = ["Attack", "Budget", "Ciphertexts", "Fit", "Guess", "Knowledge", "Recovered", "Recovery", "Tier"]


class Tier(IntEnum):
    """The least knowledge that an attack needs. Each tier includes the ones below it, except T5."""

    T0 = 0  #: one ciphertext and the algorithm, never the key
    T1 = 1  #: a pool of ciphertexts under one key
    T2 = 2  #: T1 and public plain images
    T3 = 3  #: pairs of plain images and their ciphertexts (known plaintext)
    T4 = 4  #: an oracle that seals images of the adversary's choice (chosen plaintext)
    T5 = 5  #: the weights and updates of a training


class Ciphertexts(Protocol):
    """Sealed images under one scheme and one key, in a fixed row order (coordinator/exchange/pool.py)."""

    @property
    def spec(self) -> SchemeSpec:
        """The scheme's public description."""

    def __len__(self) -> int: ...

    def images(self, rows: Rows) -> AnyArray:
        """Return the sealed images [r, *sealed_shape] of these rows, int64 [r]."""


@dataclass(frozen=True)
class Knowledge:
    """What an adversary holds under a ciphertext-only attack: no key, no plain image, no truth.

    Attributes:
        pool: the ciphertexts collected so far, with the public scheme description.
        pool_rows: int64 [n], the rows of the pool whose statistics the attack may use; n is the pool size reported.
        rows: int64 [r], the rows of the pool whose plain images the attack guesses.
        budget: the time the attack may take.
        public: None, or uint8 [m, *image_shape], plain images that anybody may have (T2). None of them is in the
            pool, except for `reidentify`, whose gallery it is. An attack gains more from images of the pool's own
            source than from others: whoever makes a Knowledge says which kind beside every figure.
        known: None, or (uint8 [m, *image_shape], [m, *sealed_shape]): plain images and their ciphertexts under the
            pool's key (T3).
        oracle: None, or a function that seals chosen plain images under the pool's key (T4): uint8
            [m, *image_shape] to [m, *sealed_shape].
        labels: None, or int64 [len(pool)], the class of every image of the pool. Labels travel in clear.
        observed: None, or what the cloud saw of a training (T5): plan, weights and updates.
    """

    pool: Ciphertexts
    pool_rows: Rows
    rows: Rows
    budget: Budget = field(default_factory=Budget)
    public: Images | None = None
    known: tuple[Images, AnyArray] | None = None
    oracle: Callable[[Images], AnyArray] | None = None
    labels: Int64Array | None = None
    observed: Observed | None = None


@dataclass(frozen=True)
class Fit:
    """How well a result explains what was measured. No truth enters it.

    Attributes:
        value: at most 1; larger is better.
        least: below this the result is not to be believed.
        of: what the value is, in words.
    """

    value: float
    least: float
    of: str

    @property
    def confidence(self) -> float:
        """How far the result is to be believed, 0 to 1, in three digits: the same scale for every attack.

        It is 1 where the result explains all that was measured, and 0 where it explains nothing. It is .5 at `least`,
        so below .5 where the result is not to be believed. Between these points it is linear. It is no probability.
        """
        if self.is_poor:
            return min(0.499, round(0.5 * max(0.0, self.value) / self.least, 3)) if self.value > 0 else 0.0
        return round(0.5 + 0.5 * min(1.0, (self.value - self.least) / (1 - self.least or 1.0)), 3)

    @property
    def is_poor(self) -> bool:
        """Whether the result is not to be believed."""
        return not self.value >= self.least

    def __str__(self) -> str:
        doubt = f", below {self.least:.2f}: attack uncertain" if self.is_poor else ""
        return f"fit {self.value:.2f}{doubt} ({self.of})"


@dataclass(frozen=True)
class Guess:
    """An attack's answer. The runner adds the attack's name, its tier, the rows and the seconds.

    Attributes:
        images: uint8 [r, h, w, c], a guess of the plain image of every row in `Knowledge.rows`.
        key: None, or the recovered key as arrays. `gather` (int32 [units]) and `mask` (uint8, optional) are the flat
            table that opens any image of the pool (`Table.flat`). Further names are the scheme's own parts, such
            as K1 and K2 of block_pixel_shuffle.
        note: what a reader must know, such as "nothing identifiable". An attack out of time says `truncated`.
        fits: how well what the attack found explains what it measured. A poor one says "attack uncertain": the guess
            says nothing about the scheme's strength, unless it opens images.
        idle: True if the attack returns the ciphertext's picture untried, because it lacks what it needs or knows no
            way into the scheme. An idle attack says nothing about the scheme's strength.
    """

    images: Images
    key: Mapping[str, AnyArray] | None = None
    note: str = ""
    idle: bool = False
    fits: tuple[Fit, ...] = ()

    @property
    def is_uncertain(self) -> bool:
        """Whether the attack found nothing that fits."""
        return any(fit.is_poor for fit in self.fits)

    @property
    def confidence(self) -> float | None:
        """The least confidence of its fits, 0 to 1; None where it states no fit, or did not attack."""
        return None if self.idle else min((fit.confidence for fit in self.fits), default=None)


@dataclass(frozen=True)
class Recovered:
    """A key recovered from ciphertexts alone.

    Attributes:
        table: opens any image of the pool, [n, *sealed_shape] to [n, *sealed_shape].
        parts: the key under the scheme's own names (`Scheme.parts`), as far as they were recovered.
        notes: what was not finished or cannot be determined.
        fits: how well the key explains what was measured.
    """

    table: Table
    parts: Mapping[str, AnyArray]
    notes: tuple[str, ...]
    fits: tuple[Fit, ...] = ()


Attack = Callable[[Knowledge], Guess]
#: Recover a key from the pool's rows int64 [n]; None if no block of them identifies anything.
Recovery = Callable[[Ciphertexts, Rows, TimeLeft], Recovered | None]
