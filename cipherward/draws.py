"""Draws of an audit: a set of plain images and their ciphertexts under one key, and which of them are what.

Rows and pool are drawn as the suite draws them, from the seed and the draw's number alone: the same images and
ciphertexts are audited alike by this library and by the commands (tests/cipherward/test_equals_commands.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cipherward.settings import Settings
from coordinator.exchange.audit.guesses import audit_rows
from coordinator.exchange.audit.suite1 import MIN_SCORED_ROWS, MIN_SET_IMAGES
from crypto.arrays import AnyArray, Images, Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.plural import agreeing, counted
from crypto.spec import SchemeSpec
from crypto.symmetry import Orbit
from parties.scoring.truth import Truth, assemble_truth, distinct_rows, other_rows

#: Second entry of the seed of a draw's images, as `cipherward-party audit` has it.
_IMAGES_SEED = 3


@dataclass(frozen=True)
class SealedDraw:
    """One key and what it encrypted.

    Attributes:
        name: The draw's name, such as draw-0.
        set_name: The set's name: `audit-N`, or that of a control.
        specs: The schemes that the attacks are told; the first one is the report's.
        plain: uint8 [n, h, w, c].
        labels: The class of each image, int64 [n].
        sealed: Their ciphertexts [n, h, w, c].
        rows: The rows to guess, int64 [r].
        pool_rows: The rows whose ciphertexts the attacks may use, int64 [m].
        key: The true key, where the scheme is one of this program.
        opened: What the true key opens of `rows`, uint8 [r, h, w, c]; None where it is not known.
        oracle: Encrypts images of an attack's choice; None where nobody does.
    """

    name: str
    set_name: str
    specs: tuple[SchemeSpec, ...]
    plain: Images
    labels: Int64Array
    sealed: AnyArray
    rows: Rows
    pool_rows: Rows
    key: SecretKey | None = None
    opened: Images | None = None
    oracle: Callable[[Images], AnyArray] | None = None

    @property
    def spec(self) -> SchemeSpec:
        """The scheme of the report."""
        return self.specs[0]

    def known(self, pairs: int) -> tuple[Images, AnyArray]:
        """Return so many pairs of plain images and ciphertexts, from the pool."""
        rows = self.pool_rows[:pairs]
        return self.plain[rows], self.sealed[rows]


def images_of_draw(settings: Settings, images: int, number: int) -> Rows:
    """Return which images draw `number`, from 1, takes and in which order, int64 [n]."""
    order = np.random.default_rng([settings.seed, _IMAGES_SEED, number]).permutation(images)
    return order[: settings.images_of_draw]


def draw_rows(settings: Settings, images: int, index: int, most: int) -> tuple[Rows, Rows]:
    """Return the rows to guess and the pool of draw `index`, from 0, int64 [r] and [m].

    Args:
        settings: Of the audit.
        images: Images of the set.
        index: The draw's number.
        most: Images of the largest pool.
    """
    rows = audit_rows(settings.seed, index, images, settings.rows)
    others = np.setdiff1d(np.arange(images), rows)
    return rows, np.random.default_rng([settings.seed, index, 1]).permutation(others)[:most]


def require_enough(settings: Settings, images: int) -> None:
    """Raise CipherwardError if so many images are too few for the audit's rows and pools."""
    if images < MIN_SET_IMAGES:
        raise CipherwardError(
            f"{counted(images, 'image is', 'images are')} too few to attack some and score others",
            f"an audit needs at least {MIN_SET_IMAGES}, and says little below 128",
        )
    in_draw = min(images, settings.images_of_draw)
    rows, pool = draw_rows(settings, in_draw, 0, in_draw)
    needed = max(*settings.sizes, settings.known_pairs)
    if needed > len(pool):
        raise CipherwardError(
            f"a pool of {needed} images was asked for, and {counted(len(pool), 'is', 'are')} left for pools: "
            f"{len(rows)} are set aside to be guessed",
            f"hand over {max(2 * needed, needed + len(rows))} images, or name sizes and pairs up to {len(pool)}",
        )


def require_distinct(settings: Settings, plain: Images, sets: Sequence[Rows]) -> None:
    """Raise CipherwardError if too few of the images that a draw guesses differ: earlier draws may take hours.

    Args:
        settings: Of the audit.
        plain: uint8 [n, h, w, c].
        sets: Which images each draw takes and in which order, int64 [m].
    """
    for index, members in enumerate(sets):
        rows, _ = draw_rows(settings, len(members), index, 0)
        _distinct(plain[members[rows]], settings, f"audit-{index + 1}")


def _distinct(plain: Images, settings: Settings, name: str) -> Rows:
    """Return which of a set's images that are guessed count, int64 [p]; raise CipherwardError if they are too few."""
    pick = distinct_rows(plain, settings.rows)
    if len(pick) < 2 * MIN_SCORED_ROWS:
        raise CipherwardError(
            f"{len(pick)} of {counted(len(plain), 'image')} of {name} "
            f"{agreeing(len(pick), 'counts', 'count')}: the others nearly repeat one of them",
            f"hand over more images that differ: at least {2 * MIN_SCORED_ROWS} of those that are guessed must",
        )
    return pick


def truth_of(draw: SealedDraw, spec: SchemeSpec, settings: Settings, orbit: Orbit) -> Truth:
    """Return what guesses about a draw are scored against.

    Args:
        draw: The draw.
        spec: One of its schemes; it decides on the blocks by which guesses may be moved.
        settings: Of the audit.
        orbit: The moves that guesses may be registered by.

    Raises:
        CipherwardError: If too few of the images differ.
    """
    pick = _distinct(draw.plain[draw.rows], settings, draw.set_name)
    others = other_rows(settings.seed, len(draw.plain), draw.rows, settings.gallery - len(pick))
    members = np.concatenate([draw.rows[pick], others])
    return assemble_truth(
        spec,
        pick,
        draw.plain[members],
        draw.labels[members],
        draw.sealed[draw.rows[pick]],
        settings.gallery,
        settings.seed,
        orbit,
    )
