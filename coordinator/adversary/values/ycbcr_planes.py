"""Which of three gray pictures is Y, Cb and Cr, and how the chroma lie on the luma.

Source: our own, for the grayscale-based form of EtC, whose three planes come out of the puzzle each with a turn
and a sign of its own. Luma has the most contrast. A chroma plane is turned so that its edges lie on those of the
luma. Signs and roles are those under which the fewest colours fall outside RGB.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

#: RGB = Y + these times (Cb - 128, Cr - 128), as in crypto/schemes/etc.py.
_RED, _BLUE = 1.402, 1.772
_GREEN = -0.114 * _BLUE / 0.587, -0.299 * _RED / 0.587


@dataclass(frozen=True)
class Planes:
    """For Y, Cb and Cr in this order, each [3]: which picture it is, its turn (0 to 7), whether it is negated.

    told: whether some colour fell outside RGB under other signs, that is, whether signs and roles mean anything.
    """

    which: tuple[int, ...]
    turn: tuple[int, ...]
    negative: tuple[bool, ...]
    told: bool


def settle(pictures: np.ndarray) -> Planes:
    """uint8 [n, 3, h, w], the three planes of n images in any order, turn and sign → what they are.

    The luma's own turn is 0, its sign the darker one.
    """
    wide = pictures.astype(np.float32)
    y = int(wide.std((2, 3)).mean(0).argmax())
    dark = bool(wide[:, y].mean() > 127.5)
    luma = 255 - wide[:, y] if dark else wide[:, y]
    edges = _edges(luma)
    turns, chroma = {}, {}
    for p in {0, 1, 2} - {y}:
        turned = {t: turn_pictures(wide[:, p], t) for t in range(8)}
        fits = {t: _alike(edges, _edges(v)) for t, v in turned.items() if v.shape == luma.shape}
        turns[p] = max(fits, key=lambda t: fits[t])
        chroma[p] = turned[turns[p]]
    options = []
    for (cb, cr), cb_less, cr_less in itertools.product(
        itertools.permutations(chroma), (False, True), (False, True)
    ):
        blue, red = (
            (255 - chroma[p] if less else chroma[p]) - 128 for p, less in ((cb, cb_less), (cr, cr_less))
        )
        options.append((outside(luma, blue, red), cb, cr, cb_less, cr_less))
    options.sort(key=lambda o: o[0])
    _, cb, cr, cb_less, cr_less = options[0]
    told = options[1][0] > options[0][0] + 1e-3
    return Planes((y, cb, cr), (0, turns[cb], turns[cr]), (dark, cb_less, cr_less), told)


def turn_pictures(pictures: np.ndarray, turn: int) -> np.ndarray:
    """[n, h, w] → the same turned as a block would be: turn mod 4 quarter turns, then mirrored where turn ≥ 4."""
    turned = np.rot90(pictures, turn % 4, (1, 2))
    return turned[:, :, ::-1] if turn >= 4 else turned


def outside(luma: np.ndarray, blue: np.ndarray, red: np.ndarray) -> float:
    """Mean excess over 0 to 255 (gray levels) of the RGB values that Y and the centred chroma would make."""
    total = 0.0
    for value in (luma + _RED * red, luma + _BLUE * blue, luma + _GREEN[0] * blue + _GREEN[1] * red):
        total += float((np.maximum(-value, 0) + np.maximum(value - 255, 0)).mean())
    return total


def _edges(pictures: np.ndarray) -> np.ndarray:
    """float32 [n, h-1, w-1]: how much values change, each picture's mean taken off."""
    down = np.abs(np.diff(pictures, axis=1))[:, :, :-1]
    across = np.abs(np.diff(pictures, axis=2))[:, :-1]
    size = np.sqrt(down + across)
    return size - size.mean((1, 2), keepdims=True)


def _alike(first: np.ndarray, second: np.ndarray) -> float:
    """Mean correlation over the images."""
    norm = np.sqrt((first**2).sum((1, 2)) * (second**2).sum((1, 2)))
    return float(((first * second).sum((1, 2)) / np.maximum(norm, 1e-6)).mean())
