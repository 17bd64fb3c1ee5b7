"""The hospital's side of a score: the audit rows that count, their gallery, and what no attack at all reaches.

That is what baselines reach, and what a scheme leaves in every ciphertext, by which images are linked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coordinator.exchange.guesses import Draw
from coordinator.exchange.linking import KEPT, candidates
from coordinator.exchange.orbit import Move, Orbit, orbit_of
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec
from parties.scoring.measures import (
    coarse_share,
    histograms,
    near_duplicates,
    nearest_class,
    share,
    ssims,
    thumbnails,
)
from parties.scoring.registration import register, register_each
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows

LEAST_ROWS = 8  # scored: fewer would be a look at single images


@dataclass(frozen=True)
class Truth:
    """The hospital's side of one draw, cut to the audit rows that count.

    pick: int64 [r], which of the draw's rows count. plain: uint8 [r, h, w, c]; sealed: [r, *sealed_shape].
    gallery: uint8 [G, h, w, c] with the r plain images first. labels: int64 [G]. orbit: what is granted to
    guesses and baselines. row_keys: whether every image has a key, and so an element of the orbit, of its own.
    """

    pick: np.ndarray
    plain: np.ndarray
    sealed: np.ndarray
    gallery: np.ndarray
    labels: np.ndarray
    spec: SchemeSpec
    block: int
    seed: int
    orbit: Orbit
    row_keys: bool

    @property
    def even(self) -> np.ndarray:
        return np.arange(0, len(self.pick), 2)

    @property
    def odd(self) -> np.ndarray:
        return np.arange(1, len(self.pick), 2)

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """float32 [G, s*s]: the gallery's."""
        return thumbnails(self.gallery)


def truth_of(place: Place, draw: Draw, name: str, rows: int, gallery: int) -> Truth:
    """The audit rows that count (one per near-duplicate group) and their gallery, fixed by the draw alone."""
    sealed = place.sealed(name)
    plain, pick = counted(place, draw, name, rows)
    # The rest of the gallery: other images of the same hospital, none of them nearly an audit image.
    rest = np.setdiff1d(np.arange(len(sealed)), draw.rows)
    order = np.random.default_rng([place.settings.seed, 5]).permutation(rest)
    wanted = max(0, gallery - len(pick))
    others = plain_rows(place, name, order[: wanted + wanted // 4]) if len(order) and wanted else plain[:0]
    together = np.concatenate([plain[pick], others])
    keep = apart(together, len(pick))
    labels = np.concatenate([sealed.labels[draw.rows[pick]], sealed.labels[order[: len(others)]]])
    return Truth(
        pick=pick,
        plain=plain[pick],
        sealed=sealed.rows(draw.rows[pick]),
        spec=draw.spec,
        gallery=together[keep][: max(gallery, len(pick))],
        labels=labels[keep][: max(gallery, len(pick))],
        block=draw.spec.block,
        seed=place.settings.seed,
        # The controls are granted what the audited scheme is.
        orbit=orbit_of(draw.spec).together(orbit_of(place.sealed("train").spec)),
        row_keys=draw.spec.key_scope == "image",
    )


def counted(place: Place, draw: Draw, name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(plain uint8 [draw's rows, h, w, c], pick int64 [r], which of them count).

    Raises CipherwardError where too few do, in the same words however many they are.
    """
    plain = plain_rows(place, name, draw.rows)
    pick = that_count(plain, rows)
    if len(pick) < 2 * LEAST_ROWS:
        raise CipherwardError(
            f"too few images of {name} can be scored: at least {LEAST_ROWS} are needed",
            "audit a larger set, or more rows of it",
        )
    return plain, pick


def that_count(plain: np.ndarray, rows: int) -> np.ndarray:
    """int64 [r]: the first `rows` images, an even number, of which none nearly repeats an earlier one."""
    pick = np.flatnonzero(near_duplicates(plain) == np.arange(len(plain)))[:rows]
    return pick[: len(pick) - len(pick) % 2]


def apart(images: np.ndarray, sure: int) -> np.ndarray:
    """bool [n]: which images make a gallery; the first `sure` are in it, near-duplicates of others are not."""
    keep: np.ndarray = near_duplicates(images) == np.arange(len(images))
    keep[:sure] = True
    return keep


def registered(images: np.ndarray, truth: Truth) -> tuple[np.ndarray, Move | None]:
    """The odd images, moved by the one element that the even ones choose.

    Where every image has a key of its own there is no such element (None): each image gets its best one, which
    the other baselines get too.
    """
    if truth.row_keys:
        return register_each(images[truth.odd], truth.plain[truth.odd], truth.block, truth.orbit), None
    move = register(images[truth.even], truth.plain[truth.even], truth.block, truth.orbit)
    return move.apply(images[truth.odd], truth.block), move


def baselines(truth: Truth) -> dict[str, np.ndarray]:
    """float64 [odd rows] a baseline: what an adversary without any attack reaches, registered like a guess."""
    generator = np.random.default_rng([truth.seed, 7])
    count = len(truth.pick)
    rest = truth.gallery
    index = np.arange(count)
    mean = np.rint(rest.mean(0)).astype(np.uint8)
    other = index.copy()
    for i in range(count):
        same = np.flatnonzero(truth.labels == truth.labels[i])
        same = same[same != i]
        other[i] = generator.choice(same if len(same) else np.setdiff1d(np.arange(len(rest)), [i]))
    table = histograms(rest)
    closest = index.copy()
    for i in range(count):
        gap = np.abs(table - table[i]).sum(1)
        gap[i] = np.inf
        closest[i] = gap.argmin()
    candidates = {
        "ciphertext": load(truth.spec).picture(truth.sealed),
        "mean": np.repeat(mean[None], count, 0),
        "other": rest[other],
        "nearest_histogram": rest[closest],
    }
    odd = truth.plain[truth.odd]
    return {name: ssims(registered(images, truth)[0], odd) for name, images in candidates.items()}


def linkable(truth: Truth) -> dict[str, Any] | None:
    """Which scored ciphertexts name their own image in the gallery by what the scheme cannot change, under any key.

    A share over the odd rows: hits are those whose invariants equal their own image's and no other's; ambiguous
    equal their own and others'; none do not equal their own. None where it is not known what the scheme leaves.
    """
    if truth.spec.name not in KEPT:
        return None
    own = truth.odd
    found = candidates(truth.spec, lambda rows: truth.sealed[rows], own, truth.gallery)
    among = [c for row, c in zip(own, found, strict=True) if c is not None and row in c]
    hits = sum(len(c) == 1 for c in among)
    return share(hits, len(own)) | {
        "ambiguous": len(among) - hits,
        "none": len(own) - len(among),
        "gallery": len(truth.gallery),
    }


def classified(images: np.ndarray, truth: Truth, *, coarse: bool = False) -> dict[str, Any]:
    """Of how many scored rows a classifier of plain images tells the class. images: uint8 [odd rows, h, w, c].

    It is the nearest neighbour by correlation of thumbnails among the gallery, the row's own image left out: it
    stands in for a model trained on plain images. coarse: in steps of .05.
    """
    told = coarse_share if coarse else share
    named = nearest_class(images, truth.thumbnails, truth.labels, truth.odd)
    return told(int((named == truth.labels[truth.odd]).sum()), len(truth.odd))
