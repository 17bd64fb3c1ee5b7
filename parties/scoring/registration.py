"""Registering guesses: choosing the element of the declared orbit that fits them best to the plain images.

Baselines and controls are registered in the same way, so that the freedom favours nobody. Under one key the element
is chosen once for all images, on rows that are not scored. Where every image has a key of its own, each image has its
own element, and so has every image of the gallery that it is compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from crypto.arrays import Float32Array, Float64Array, Images, Int64Array
from crypto.symmetry import REACH, Move, Orbit
from parties.scoring.measures import normalised, ssims
from parties.scoring.pixel_sums import tile_sums

# These numbers are part of suite/1. They were set once and have not been tuned since.
#: Moves that correlation proposes, and SSIM chooses among.
_SHORTLIST = 3
#: Images that decide the shortlist.
_SHORTLIST_IMAGES = 24
#: Images that decide among it by SSIM, which takes longer.
_SSIM_IMAGES = 12
#: Least side of a reduced image, in pixels.
_LEAST_SIDE = 28
#: Correlations that differ by less are the same: float32 sums of a picture's pixels round by some 1e-6.
_EQUAL = 1e-5
#: Images left out at each end of a mean: the move is published, and must not be one image's choice.
_TRIMMED = 2


def reduce_images(images: Images, block: int) -> tuple[Float32Array, int]:
    """Reduce images, so that a whole orbit can be tried on them.

    Returns:
        Means of r×r pixels, float32 [n, h/r, w/r, c], and the side of a block in them.
    """
    height, width = images.shape[1:3]
    factors = [r for r in range(1, block + 1) if block % r == 0 and min(height, width) // r >= _LEAST_SIDE]
    r = max(factors, default=1)
    return tile_sums(images, r) / np.float32(r * r), block // r


def correlate_moves(
    guesses: Images, plains: Images, block: int, orbit: Orbit
) -> tuple[list[Move], Float32Array]:
    """Return the moves of an orbit, and the normalised correlation of every moved guess with its plain image.

    The identity comes first, and smaller shifts come before larger ones, so that ties go to them.

    Returns:
        The moves, and their correlations, float32 [moves, n].
    """
    reduced, side = reduce_images(guesses, block)
    # A move changes neither mean nor norm, so every guess is normalised once.
    small = normalised(reduced).reshape(reduced.shape)
    target = normalised(reduce_images(plains, block)[0]).reshape(reduced.shape)
    moves: list[Move] = []
    scores: list[Float32Array] = []
    for orientation in orbit.orientations(guesses.shape[1:]):
        shift = _shifts(orientation.apply(small, side), side)
        for down, across in orbit.shifts_in_reach():
            score = (shift(down, across) * target).reshape(len(target), -1).sum(1)
            move = dataclasses.replace(orientation, down=down, across=across)
            moves.append(move)
            scores.append(score)
            if orbit.negatives:  # the correlation of a negative has the opposite sign
                moves.append(dataclasses.replace(move, negative=True))
                scores.append(-score)
    return moves, np.stack(scores)


def _shifts(images: Float32Array, side: int) -> Callable[[int, int], Float32Array]:
    """Return a function that gives views of images [n, h, w, c], shifted by blocks, with wrap-around."""
    height, width = images.shape[1:3]
    # Repeated beyond its borders as far as an orbit reaches; once around at most.
    down, across = min(REACH * side, height), min(REACH * side, width)
    wide = np.pad(images, ((0, 0), (down, down), (across, across), (0, 0)), mode="wrap")

    def shift(blocks_down: int, blocks_across: int) -> Float32Array:
        y, x = (down - blocks_down * side) % height, (across - blocks_across * side) % width
        return wide[:, y : y + height, x : x + width]

    return shift


def register(guesses: Images, plains: Images, block: int, orbit: Orbit) -> Move:
    """Return the one move that fits these guesses best: shortlisted by correlation, chosen by SSIM.

    Both are means over most images. Call it on the even rows only, for guesses and baselines alike, and score the odd
    ones.
    """
    moves, scores = correlate_moves(guesses[:_SHORTLIST_IMAGES], plains[:_SHORTLIST_IMAGES], block, orbit)
    best = [moves[int(i)] for i in np.argsort(-_trimmed_mean(scores), kind="stable")[:_SHORTLIST]]
    first = slice(0, _SSIM_IMAGES)

    def mean_ssim(move: Move) -> float:
        values = ssims(move.apply(guesses[first], block), plains[first])
        return float(_trimmed_mean(np.nan_to_num(values)))

    return best[0] if len(best) == 1 else max(best, key=mean_ssim)


def _trimmed_mean(scores: Float32Array | Float64Array) -> Float64Array:
    """Return the mean over the last axis without the highest and the lowest values."""
    aside = min(_TRIMMED, scores.shape[-1] // 4)
    middle: Float64Array = np.sort(scores, axis=-1)[..., aside : scores.shape[-1] - aside].mean(-1)
    return middle


def register_each(guesses: Images, plains: Images, block: int, orbit: Orbit) -> Images:
    """Return every guess, moved by the element that correlates best with its own plain image.

    Of several that correlate alike, as on a picture that is its own mirror image, the first is taken.
    """
    moves, scores = correlate_moves(guesses, plains, block, orbit)
    chosen = (scores >= scores.max(0) - _EQUAL).argmax(0)
    return np.concatenate([moves[m].apply(guesses[i : i + 1], block) for i, m in enumerate(chosen)])


def nearest_each(guesses: Images, gallery: Images, block: int, orbit: Orbit) -> Int64Array:
    """Return the gallery image with the largest correlation to each guess over the whole orbit, int64 [n].

    The guess is moved to suit every gallery image, not only its own. A guess without variation names no image (-1).
    """
    small, side = reduce_images(guesses, block)
    target = normalised(reduce_images(gallery, block)[0])
    best = np.full((len(guesses), len(gallery)), -np.inf, np.float32)
    for orientation in orbit.orientations(guesses.shape[1:]):
        oriented = orientation.apply(small, side)
        for down, across in orbit.shifts_in_reach():
            shifted = np.roll(oriented, (down * side, across * side), (1, 2))
            score = normalised(shifted) @ target.T
            np.maximum(best, np.abs(score) if orbit.negatives else score, out=best)
    named: Int64Array = best.argmax(1)
    named[best.max(1) <= 0] = -1
    return named
