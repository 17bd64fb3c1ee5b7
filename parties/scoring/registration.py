"""Registering guesses: choosing the element of the declared orbit that fits them best to the plain images.

Baselines and controls are registered in the same way, so that the freedom favours nobody. Under one key the element
is chosen once for all images, on rows that are not scored. Where every image has a key of its own, each image has its
own element, and so has every image of the gallery that it is compared with.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from crypto.arrays import Float32Array, Float64Array, Images, Int64Array
from crypto.symmetry import Move, Orbit, colour_orders, turned
from parties.scoring.measures import normalised, ssims
from parties.scoring.pixel_sums import tile_sums

Complex64Array = NDArray[np.complex64]
#: Shifts down and across, in whole blocks.
Shifts = Sequence[tuple[int, int]]

# These numbers are part of suite/1 and suite/2. They were set once and have not been tuned since.
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
#: Steps of a correlation of 1: far below what tells two moves apart, far above the rounding of its sums.
_TIE_STEPS = 1 << 20


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
    shifts = orbit.shifts_in_reach()
    correlate = _correlate_shifts if len(shifts) > 1 else _correlate_in_place
    scores: list[Float32Array] = []
    orientations = orbit.orientations(guesses.shape[1:])
    for turn in dict.fromkeys(move.turn for move in orientations):
        orders = [move.order for move in orientations if move.turn == turn]
        # All shifts of one colour order, then those of the next: float32 [orders * shifts, n].
        scores.append(correlate(turned(small, turn), target, side, orders, shifts))
    # Sums in another order differ in their last digits. Equal fits must stay equal, so that the first one is chosen.
    steps = np.rint(np.concatenate(scores) * _TIE_STEPS)
    table: Float32Array = (steps / _TIE_STEPS).astype(np.float32)
    if orbit.negatives:  # the correlation of a negative has the opposite sign
        table = np.stack([table, -table], axis=1).reshape(-1, len(guesses))
    return list(_moves(orbit, guesses.shape[1:])), table


@functools.lru_cache(maxsize=8)
def _moves(orbit: Orbit, shape: tuple[int, ...]) -> tuple[Move, ...]:
    """Return the moves of an orbit on images [h, w, c], in the order of `correlate_moves`."""
    negatives = (False, True) if orbit.negatives else (False,)
    return tuple(
        Move(orientation.turn, is_negative, orientation.order, down, across)
        for orientation in orbit.orientations(shape)
        for down, across in orbit.shifts_in_reach()
        for is_negative in negatives
    )


def _correlate_in_place(
    images: Float32Array, target: Float32Array, side: int, orders: Sequence[int], shifts: Shifts
) -> Float32Array:
    """Return the correlation of images [n, h, w, c] in each colour order with their targets, float32 [orders, n]."""
    del side, shifts
    colours = colour_orders(images.shape[3])[orders]
    return np.stack([np.einsum("nyxc,nyxc->n", images[..., colour], target) for colour in colours])


def _correlate_shifts(
    images: Float32Array, target: Float32Array, side: int, orders: Sequence[int], shifts: Shifts
) -> Float32Array:
    """Return the correlation of images in each colour order and at each shift, float32 [orders * shifts, n].

    Shifts by whole blocks wrap around, so all of them at once are a circular correlation over the grid of blocks,
    summed over the pixels of a block: a product of Fourier transforms.
    """
    conjugate, spectrum = np.conj(_spectrum(images, side)), _spectrum(target, side)
    rows, columns = images.shape[1] // side, images.shape[2] // side
    channels = range(images.shape[3])
    pairs = {
        (a, b): (conjugate[:, a] * spectrum[:, b]).sum(1)
        for a, b in {(int(c[j]), j) for c in colour_orders(len(channels))[orders] for j in channels}
    }
    down, across = np.array(shifts).T % np.array([[rows], [columns]])
    scores = []
    for colour in colour_orders(len(channels))[orders]:
        total = sum(pairs[int(colour[j]), j] for j in channels)
        scores.append(fft.irfft2(total, (rows, columns))[:, down, across].T)
    return np.concatenate(scores)


def _spectrum(images: Float32Array, side: int) -> Complex64Array:
    """Return Fourier transforms over the grid of blocks, complex64 [n, c, side², rows, columns // 2 + 1]."""
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // side, side, width // side, side, channels)
    grids = blocks.transpose(0, 5, 2, 4, 1, 3).reshape(
        n, channels, side * side, height // side, width // side
    )
    spectrum: Complex64Array = fft.rfft2(grids)
    return spectrum


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
    reduced, side = reduce_images(guesses, block)
    small = normalised(reduced).reshape(reduced.shape)  # no move changes mean or norm
    target = normalised(reduce_images(gallery, block)[0])
    best = np.full((len(guesses), len(gallery)), -np.inf, np.float32)
    for orientation in orbit.orientations(guesses.shape[1:]):
        oriented = orientation.apply(small, side)
        for down, across in orbit.shifts_in_reach():
            shifted = np.roll(oriented, (down * side, across * side), (1, 2))
            score = shifted.reshape(len(guesses), -1) @ target.T
            np.maximum(best, np.abs(score) if orbit.negatives else score, out=best)
    named: Int64Array = best.argmax(1)
    named[best.max(1) <= 0] = -1
    return named
