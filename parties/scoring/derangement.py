"""Guesses as if they were about other rows' images: what they reach that says nothing about any image.

The guesses get the same search as those that are scored: the element of the orbit that fits them best to the wrong
images, chosen on the rows that register. Under suite/1 they were moved by the element that fits the right images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crypto.arrays import Float64Array, Images, Int64Array
from crypto.symmetry import Move
from parties.scoring.measures import DERANGEMENTS, deranged_ssims, ssims
from parties.scoring.registration import register, register_each
from parties.scoring.truth import Truth, named_images


@dataclass(frozen=True)
class Deranged:
    """One set of guesses, deranged. The figures are computed when they are first asked for.

    Attributes:
        images: All guesses as they came, uint8 [r, h, w, c].
        truth: The hospital's side of the draw.
        move: What fits the even guesses best to the next rows' images; None where every image has its own.
    """

    images: Images
    truth: Truth
    move: Move | None

    @cached_property
    def ssims(self) -> Float64Array:
        """SSIM of the odd guesses with the images of other rows, float64 [derangements, odd]."""
        truth, own = self.truth, self.images[self.truth.odd]
        plains = truth.plain[truth.odd]
        if self.move is not None:
            return deranged_ssims(self._moved, plains)
        turns = range(1, min(DERANGEMENTS, len(own) - 1) + 1)
        rolled = (np.roll(own, turn, axis=0) for turn in turns)
        return np.stack([ssims(register_each(r, plains, truth.block, truth.orbit), plains) for r in rolled])

    @cached_property
    def named(self) -> Int64Array:
        """Which gallery image each odd guess names, int64 [odd]; -1 for none."""
        if self.move is None:  # the guess is moved to suit every image of the gallery
            return named_images(self.images, self.images[self.truth.odd], self.truth)
        return named_images(self.images, self._moved, self.truth)

    def hits(self, named: Int64Array) -> int:
        """Return how many guesses name the next row's image."""
        return int((named == np.roll(self.truth.odd, -1)).sum())

    @cached_property
    def _moved(self) -> Images:
        assert self.move is not None
        return self.move.apply(self.images[self.truth.odd], self.truth.block)


def derange(images: Images, truth: Truth) -> Deranged:
    """Return guesses for the rows that count, uint8 [r, h, w, c], as if they were about the next rows' images."""
    if truth.row_keys:
        return Deranged(images, truth, None)
    wrong = np.roll(truth.plain[truth.even], -1, axis=0)
    return Deranged(images, truth, register(images[truth.even], wrong, truth.block, truth.orbit))
