"""Which of three gray pictures is Y, Cb and Cr, and how the chroma planes lie on the luma.

Source: our own, for the grayscale-based form of EtC. Its three planes come out of the puzzle each with a turn and a
sign of its own. Luma has the most contrast. A chroma plane is turned so that its edges lie on those of the luma.
Signs and roles are those under which the fewest colours fall outside RGB.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from crypto.arrays import Float32Array, UInt8Array
from crypto.symmetry import TURNS, turned

#: RGB = Y + these times (Cb - 128, Cr - 128), as in crypto/schemes/etc.py (BT.601).
_RED, _BLUE = 1.402, 1.772
_GREEN = -0.114 * _BLUE / 0.587, -0.299 * _RED / 0.587
#: The chroma value of gray.
_NO_CHROMA = 128
#: Above this mean (mid-gray) a luma plane is taken for a negative.
_MIDDLE_GRAY = 127.5
#: Least difference in gamut excess (gray levels) that tells signs and roles apart: above rounding errors of float32.
_LEAST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Planes:
    """What each of three pictures is. Tuples have one entry for Y, Cb and Cr, in this order.

    Attributes:
        sources: Which picture it is.
        turn: Its turn, 0 to 7 as in crypto/symmetry.py.
        negative: Whether it is negated.
        is_determined: Whether some colour fell outside RGB under other signs. If not, signs and roles mean nothing.
    """

    sources: tuple[int, ...]
    turn: tuple[int, ...]
    negative: tuple[bool, ...]
    is_determined: bool


def identify_planes(pictures: UInt8Array) -> Planes:
    """Return what three planes are that come in any order, turn and sign.

    The turn of the luma itself is 0, and its sign the darker one.

    Args:
        pictures: uint8 [n, 3, h, w], the planes of n images.
    """
    planes = pictures.astype(np.float32)
    y = int(planes.std((2, 3)).mean(0).argmax())
    is_negative = bool(planes[:, y].mean() > _MIDDLE_GRAY)
    luma = 255 - planes[:, y] if is_negative else planes[:, y]
    edges = _edges(luma)
    turns, chroma = {}, {}
    for p in {0, 1, 2} - {y}:
        states = {t: turned(planes[:, p], t) for t in range(TURNS)}
        correlations = {
            t: _correlation(edges, _edges(v)) for t, v in states.items() if v.shape == luma.shape
        }
        turns[p] = max(correlations, key=lambda t: correlations[t])
        chroma[p] = states[turns[p]]
    options = []
    for (cb, cr), cb_negative, cr_negative in itertools.product(
        itertools.permutations(chroma), (False, True), (False, True)
    ):
        blue, red = (
            (255 - chroma[p] if negative else chroma[p]) - _NO_CHROMA
            for p, negative in ((cb, cb_negative), (cr, cr_negative))
        )
        options.append((gamut_excess(luma, blue, red), cb, cr, cb_negative, cr_negative))
    options.sort(key=lambda option: option[0])
    excess, cb, cr, cb_negative, cr_negative = options[0]
    is_determined = options[1][0] > excess + _LEAST_DIFFERENCE
    negatives = (is_negative, cb_negative, cr_negative)
    return Planes((y, cb, cr), (0, turns[cb], turns[cr]), negatives, is_determined)


def gamut_excess(luma: Float32Array, blue: Float32Array, red: Float32Array) -> float:
    """Return by how many gray levels the RGB values of Y and the centred chroma fall outside 0 to 255.

    The excess is a mean over all pixels, summed over the three colour components.

    Args:
        luma: float32 [n, h, w].
        blue: float32 [n, h, w], Cb less 128.
        red: float32 [n, h, w], Cr less 128.
    """
    total = 0.0
    for value in (luma + _RED * red, luma + _BLUE * blue, luma + _GREEN[0] * blue + _GREEN[1] * red):
        total += float((np.maximum(-value, 0) + np.maximum(value - 255, 0)).mean())
    return total


def _edges(pictures: Float32Array) -> Float32Array:
    """Return how much values change, less the mean of each picture, float32 [n, h-1, w-1]."""
    down = np.abs(np.diff(pictures, axis=1))[:, :, :-1]
    across = np.abs(np.diff(pictures, axis=2))[:, :-1]
    size = np.sqrt(down + across)
    edges: Float32Array = size - size.mean((1, 2), keepdims=True)
    return edges


def _correlation(first: Float32Array, second: Float32Array) -> float:
    """Return the mean correlation of centred pictures [n, h, w] over the images."""
    norm = np.sqrt((first**2).sum((1, 2)) * (second**2).sum((1, 2)))
    return float(((first * second).sum((1, 2)) / np.maximum(norm, 1e-6)).mean())
