"""The second look: guesses at their best in the negative, turned, mirrored and shifted (docs/suite.md).

The orbit that a scheme declares is what its key cannot determine. A person who looks at a guess needs no such grant:
a negative, a picture upside down or a shifted one is as readable. So every guess is registered once more, by the
declared orbit together with the negative, the eight turns and shifts by whole blocks. The element is chosen on the
rows that register. The baselines, the derangements and the controls get the same search, and the bounds are corrected
for it. Under suite/2 what it finds breaks a scheme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.exchange.audit.rates import searched, searched_in_gallery
from coordinator.exchange.audit.scores import SecondLook
from crypto.arrays import Float64Array, Images, Int64Array
from crypto.symmetry import SECOND_LOOK, Move
from parties.scoring.derangement import Deranged, derange
from parties.scoring.measures import coarse_rate, exceeds_baselines, ssims, visible_rows
from parties.scoring.truth import Truth, named_images, register_baselines, register_guesses


@dataclass(frozen=True)
class SecondTruth:
    """What second looks at the guesses of one draw are measured against.

    Attributes:
        truth: The hospital's side of the draw, with an orbit that holds negative, turns and shifts.
        looks: How many looks that adds to each of the declared orbit; 1 if it holds them all.
        baselines: What `baseline_ssims` returns under the larger orbit; empty if there is nothing to look at.
    """

    truth: Truth
    looks: int
    baselines: dict[str, Float64Array]


@dataclass(frozen=True)
class FirstLook:
    """What was measured of a guess under the declared orbit. It holds for the second look if that moves it alike.

    Attributes:
        move: The registering move; None where every image has its own.
        values: SSIM of each scored row, float64 [odd].
        deranged: The guesses as if they were about other rows' images.
        named: Which gallery image each scored guess names, int64 [odd].
    """

    move: Move | None
    values: Float64Array
    deranged: Deranged
    named: Int64Array


def second_truth(truth: Truth) -> SecondTruth:
    """Return what second looks are measured against, the baselines among it."""
    looks = truth.orbit.second_looks(truth.plain.shape[1:])
    if looks == 1:
        return SecondTruth(truth, looks, {})
    wider = truth.with_orbit(truth.orbit.union(SECOND_LOOK))
    baselines = register_baselines(wider, truth.baselines)
    return SecondTruth(wider, looks, {name: baseline.values for name, baseline in baselines.items()})


def measure_second_look(
    images: Images, second: SecondTruth, first: FirstLook, *, coarse: bool = False
) -> SecondLook | None:
    """Return the second look at one guess; None if the declared orbit holds negative, turns and shifts already.

    Args:
        images: Guesses for the rows that count, uint8 [r, h, w, c].
        second: What they are measured against.
        first: What was measured of it under the declared orbit.
        coarse: Whether the images are not public: then the derangement is told in steps.
    """
    if second.looks == 1:
        return None
    truth = second.truth
    guesses, move = register_guesses(images, truth)
    plains = truth.plain[truth.odd]
    is_same = move is not None and move == first.move
    values = first.values if is_same else ssims(guesses, plains)
    visible = exceeds_baselines(values, second.baselines)
    deranged = derange(images, truth)
    if deranged.move is not None and deranged.move == first.deranged.move:
        deranged = first.deranged  # what was measured of it is not measured again
    if visible.any():  # comparing with other rows' images takes longer than all the rest
        visible = visible_rows(values, second.baselines, deranged.ssims)
    named = first.named if is_same else named_images(images, guesses, truth)
    wrong = deranged.hits(named if deranged.move in (None, move) else deranged.named)
    if coarse:
        wrong = coarse_rate(wrong, len(named), up=True).hits
    right, gallery = int((named == truth.odd).sum()), len(truth.gallery)
    return SecondLook(
        visible=searched(int(visible.sum()), int(np.isfinite(values).sum()), second.looks),
        reidentified=searched_in_gallery(right, len(named), second.looks, gallery),
        reidentified_deranged=searched_in_gallery(wrong, len(named), second.looks, gallery),
        turn=None if move is None else move.turn,
        negative=None if move is None else move.negative,
        order=None if move is None else move.order,
        down=None if move is None else move.down,
        across=None if move is None else move.across,
    )


def empty_second_look(second: SecondTruth) -> SecondLook | None:
    """Return the second look at degenerate guesses: no hits."""
    if second.looks == 1:
        return None
    rows, gallery = len(second.truth.odd), len(second.truth.gallery)
    none = searched_in_gallery(0, rows, second.looks, gallery)
    return SecondLook(
        visible=searched(0, rows, second.looks),
        reidentified=none,
        reidentified_deranged=none,
        turn=None,
        negative=None,
    )
