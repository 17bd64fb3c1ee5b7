"""The hospital's side of a score: the audit rows that count, their gallery, and what is reached without any attack.

Without any attack, baselines reach some similarity, and ciphertexts can be linked to their plain images by what the
scheme leaves unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from coordinator.exchange.audit.guesses import Draw
from coordinator.exchange.audit.linking import candidates
from coordinator.exchange.audit.rates import LinkableRate, Rate, rate_of
from coordinator.exchange.audit.suite1 import MIN_SCORED_ROWS
from crypto.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Images, Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.scheme import load
from crypto.spec import SchemeSpec
from crypto.symmetry import Move, Orbit
from parties.scoring.measures import (
    coarse_rate,
    histograms,
    is_flat,
    near_duplicates,
    nearest_class,
    nearest_vector,
    normalised,
    ssims,
    thumbnails,
)
from parties.scoring.registration import nearest_each, register, register_each
from parties.sealing.place import Place
from parties.sealing.seal import DecodedImages, plain_rows, plan_sealing

# Second entries of the generators' seeds: one for each use, so that no two draw the same numbers.
_GALLERY_SEED = 5
_BASELINE_SEED = 7


@dataclass(frozen=True)
class Baseline:
    """What is reached without any attack.

    Attributes:
        move: What registered the pictures; None where every image has its own.
        values: SSIM of each scored row, float64 [odd].
    """

    move: Move | None
    values: Float64Array


#: Attacks that open every image by itself, whatever the scope of the key: nothing makes two of their pictures alike.
OPENS_EACH_ALONE = ("jigsaw",)


@dataclass(frozen=True)
class Truth:
    """The hospital's side of one draw, cut to the audit rows that count.

    Attributes:
        pick: Which of the draw's rows count, int64 [r].
        plain: Their plain images, uint8 [r, h, w, c].
        sealed: Their ciphertexts [r, *sealed_shape].
        gallery: Plain images, uint8 [G, h, w, c], the r audit images first.
        labels: The gallery's labels, int64 [G].
        spec: The scheme.
        block: Side of a block in pixels.
        seed: The hospital's seed.
        orbit: The moves that guesses and baselines may be registered by.
        row_keys: Whether every image has its own element of the orbit: it has its own key, or was opened alone.
    """

    pick: Rows
    plain: Images
    sealed: AnyArray
    gallery: Images
    labels: Int64Array
    spec: SchemeSpec
    block: int
    seed: int
    orbit: Orbit
    row_keys: bool

    @cached_property
    def gallery_vectors(self) -> Float32Array:
        """The gallery as `normalised` returns it, float32 [G, h*w*c]: every guess of the draw meets it."""
        return normalised(self.gallery)

    def with_orbit(self, orbit: Orbit) -> Truth:
        """Return the same under another orbit. What was computed of the gallery is not computed again."""
        return self._with_gallery_of(dataclasses.replace(self, orbit=orbit))

    def each_alone(self) -> Truth:
        """Return the same with an element of the orbit for every image: for attacks on each image by itself."""
        return self._with_gallery_of(dataclasses.replace(self, row_keys=True))

    def _with_gallery_of(self, other: Truth) -> Truth:
        for name in ("gallery_vectors", "thumbnails", "baseline_pictures"):
            other.__dict__[name] = getattr(self, name)
        return other

    @property
    def even(self) -> Rows:
        """The rows that register."""
        return np.arange(0, len(self.pick), 2)

    @property
    def odd(self) -> Rows:
        """The rows that are scored."""
        return np.arange(1, len(self.pick), 2)

    @cached_property
    def thumbnails(self) -> Float32Array:
        """The gallery's thumbnails, float32 [G, s*s]."""
        return thumbnails(self.gallery)

    @cached_property
    def baseline_pictures(self) -> dict[str, Images]:
        """What stands for the guesses of no attack, before registration, by the baseline's name."""
        mean = np.rint(self.gallery.mean(0)).astype(np.uint8)
        return {
            "ciphertext": load(self.spec).picture(self.sealed),
            "mean": np.repeat(mean[None], len(self.pick), 0),
            "other": self.gallery[_same_class(self)],
            "nearest_histogram": self.gallery[_nearest_histogram(self)],
        }

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        """The baselines by name."""
        return register_baselines(self, {})


def build_truth(
    place: Place,
    draw: Draw,
    name: str,
    rows: int,
    gallery: int,
    decoded: DecodedImages | None = None,
) -> Truth:
    """Return the audit rows that count and their gallery, which depend on the draw alone.

    Args:
        place: The hospital.
        draw: The draw.
        name: Name of the hospital's sealed set that the draw is about.
        rows: How many audit images the hospital asks for.
        gallery: How many plain images a guess can name.
        decoded: What was decoded for other draws; it is added to.
    """
    sealed = place.sealed(name)
    plain, pick = countable_rows(place, draw, name, rows, decoded)
    # The rest of the gallery: other images of the same hospital, none of them nearly an audit image.
    order = other_rows(place.settings.seed, len(sealed), draw.rows, gallery - len(pick))
    others = plain_rows(place, name, order, decoded) if len(order) else plain[:0]
    return assemble_truth(
        draw.spec,
        pick,
        np.concatenate([plain[pick], others]),
        np.concatenate([sealed.labels[draw.rows[pick]], sealed.labels[order[: len(others)]]]),
        sealed.rows(draw.rows[pick]),
        gallery,
        place.settings.seed,
        # The controls are granted what the audited scheme is.
        load(draw.spec).orbit.union(load(plan_sealing(place, "train").spec).orbit),
    )


def other_rows(seed: int, images: int, rows: Rows, missing: int) -> Rows:
    """Return rows of a set that are not guessed, to complete a gallery of which so many are missing, int64 [m].

    They are a quarter more than are missing, because near-duplicates are dropped.
    """
    rest = np.setdiff1d(np.arange(images), rows)
    order = np.random.default_rng([seed, _GALLERY_SEED]).permutation(rest)
    return order[: max(0, missing) + max(0, missing) // 4]


def assemble_truth(
    spec: SchemeSpec,
    pick: Rows,
    together: Images,
    labels: Int64Array,
    sealed: AnyArray,
    gallery: int,
    seed: int,
    orbit: Orbit,
) -> Truth:
    """Return the truth of a draw from its images.

    Args:
        spec: The scheme.
        pick: Which of the draw's rows count, int64 [r].
        together: Their plain images, then other images for the gallery, uint8 [m, h, w, c].
        labels: The class of each of these, int64 [m].
        sealed: The ciphertexts of the rows that count, [r, *sealed_shape].
        gallery: How many plain images a guess can name.
        seed: The audit's seed.
        orbit: The moves that guesses and baselines may be registered by.
    """
    keep, most = gallery_members(together, len(pick)), max(gallery, len(pick))
    return Truth(
        pick=pick,
        plain=together[: len(pick)],
        sealed=sealed,
        spec=spec,
        gallery=together[keep][:most],
        labels=labels[keep][:most],
        block=spec.block,
        seed=seed,
        orbit=orbit,
        row_keys=load(spec).is_each_alone,
    )


def countable_rows(
    place: Place, draw: Draw, name: str, rows: int, decoded: DecodedImages | None = None
) -> tuple[Images, Rows]:
    """Return the plain images of all of a draw's rows, and which of them count, int64 [r].

    Raises:
        CipherwardError: If too few count. The message is the same however many they are.
    """
    plain = plain_rows(place, name, draw.rows, decoded)
    pick = distinct_rows(plain, rows)
    if len(pick) < 2 * MIN_SCORED_ROWS:
        raise CipherwardError(
            f"too few images of {name} can be scored: at least {MIN_SCORED_ROWS} are needed",
            "audit a larger set, or more rows of it; flat images, and those that nearly repeat another, do not count",
        )
    return plain, pick


def distinct_rows(plain: Images, rows: int) -> Rows:
    """Return the first `rows` images that count, an even number of them, int64 [r].

    An image that nearly repeats an earlier one does not count. Neither does a flat one, such as the last slices of a
    scan: no guess could show or name it, and a guess that is right about many of them would be called degenerate.
    """
    is_first = near_duplicates(plain) == np.arange(len(plain))
    pick = np.flatnonzero(is_first & ~is_flat(plain))[:rows]
    return pick[: len(pick) - len(pick) % 2]


def gallery_members(images: Images, audited: int) -> BoolArray:
    """Return which images make a gallery, bool [n]: the first `audited`, and of the rest no near-duplicates."""
    members: BoolArray = near_duplicates(images) == np.arange(len(images))
    members[:audited] = True
    return members


def register_guesses(images: Images, truth: Truth) -> tuple[Images, Move | None]:
    """Return the odd images, moved by the one element of the orbit that fits the even ones best.

    If every image has its own key, there is no such element (None). Then each image is moved by its own best one, and
    so are the baselines.
    """
    if truth.row_keys:
        return register_each(images[truth.odd], truth.plain[truth.odd], truth.block, truth.orbit), None
    move = register(images[truth.even], truth.plain[truth.even], truth.block, truth.orbit)
    return move.apply(images[truth.odd], truth.block), move


def named_images(images: Images, guesses: Images, truth: Truth) -> Int64Array:
    """Return which gallery image each scored guess names, int64 [odd].

    Args:
        images: All guesses as they came, uint8 [r, h, w, c].
        guesses: The scored ones as `register_guesses` moved them.
        truth: The hospital's side.
    """
    if truth.row_keys:
        return nearest_each(images[truth.odd], truth.gallery, truth.block, truth.orbit)
    return nearest_vector(guesses, truth.gallery_vectors)


def baseline_ssims(truth: Truth) -> dict[str, Float64Array]:
    """Return what is reached without any attack: by the baseline's name, the SSIM of each odd row, float64 [odd].

    Baselines are registered as a guess is. They are the ciphertext, the mean image, another image of the class, and
    the image nearest in histogram.
    """
    return {name: baseline.values for name, baseline in truth.baselines.items()}


def register_baselines(truth: Truth, known: Mapping[str, Baseline]) -> dict[str, Baseline]:
    """Return the baselines under a truth's orbit.

    Args:
        truth: The hospital's side.
        known: Baselines under a smaller orbit. Where the move is the same, so are the values.
    """
    result = {}
    for name, pictures in truth.baseline_pictures.items():
        moved, move = register_guesses(pictures, truth)
        if move is not None and name in known and known[name].move == move:
            result[name] = known[name]
        else:
            result[name] = Baseline(move, ssims(moved, truth.plain[truth.odd]))
    return result


def _same_class(truth: Truth) -> Rows:
    """Return for each row another gallery image, of its class if there is one, int64 [r]."""
    generator = np.random.default_rng([truth.seed, _BASELINE_SEED])
    other = np.arange(len(truth.pick))
    for i in range(len(other)):
        same = np.flatnonzero(truth.labels == truth.labels[i])
        same = same[same != i]
        other[i] = generator.choice(same if len(same) else np.setdiff1d(np.arange(len(truth.gallery)), [i]))
    return other


def _nearest_histogram(truth: Truth) -> Rows:
    """Return for each row the other gallery image with the nearest histogram, int64 [r]."""
    table = histograms(truth.gallery)
    closest = np.arange(len(truth.pick))
    for i in range(len(closest)):
        distance = np.abs(table - table[i]).sum(1)
        distance[i] = np.inf
        closest[i] = distance.argmin()
    return closest


def linkable_rate(truth: Truth) -> LinkableRate | None:
    """Return how many scored ciphertexts name their own image in the gallery without any key.

    A hit is a ciphertext whose invariants equal those of its own image and of no other. An ambiguous one fits others
    too; an unmatched one does not fit its own. None if it is not known what the scheme leaves unchanged.
    """
    if load(truth.spec).kept is None:
        return None
    return rate_of_links(
        candidates(truth.spec, lambda rows: truth.sealed[rows], truth.odd, truth.gallery), truth
    )


def rate_of_links(found: Sequence[Int64Array | None], truth: Truth) -> LinkableRate:
    """Return how many scored ciphertexts name their own image, and no other.

    Args:
        found: For every scored row, the gallery images that it could be.
        truth: The hospital's side.
    """
    odd = truth.odd
    matches = [c for row, c in zip(odd, found, strict=True) if c is not None and row in c]
    hits = sum(len(match) == 1 for match in matches)
    return LinkableRate(
        **dict(rate_of(hits, len(odd))),
        gallery=len(truth.gallery),
        ambiguous=len(matches) - hits,
        unmatched=len(odd) - len(matches),
    )


def classified_rate(images: Images, truth: Truth, *, coarse: bool = False) -> Rate:
    """Return on how many scored rows a classifier of plain images tells the class.

    The classifier is the nearest neighbour by correlation of thumbnails among the gallery, the row's own image left
    out. It stands in for a model trained on plain images.

    Args:
        images: Guesses or ciphertexts as pictures, uint8 [odd rows, h, w, c].
        truth: The hospital's side.
        coarse: Whether the rate is given in steps of .05.
    """
    named = nearest_class(images, truth.thumbnails, truth.labels, truth.odd)
    hits = int((named == truth.labels[truth.odd]).sum())
    return coarse_rate(hits, len(truth.odd)) if coarse else rate_of(hits, len(truth.odd))
