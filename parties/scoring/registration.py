"""Registering guesses: choosing the one element of the declared orbit that fits them best to the plain images.

Baselines and controls are registered likewise, so that the freedom is nobody's advantage. Under one key the element
is chosen once for all images, on rows that are not scored. Where every image has a key of its own, each image
has its own element, and so has every image of the gallery that it is compared with.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from coordinator.exchange.orbit import Move, Orbit
from parties.scoring.measures import ssims, unit

_SHORTLIST = 3
_FEW = 24  # images that decide the shortlist
_CHOOSERS = 12  # images that decide among it, by SSIM
_SIDE = 28  # pixels at least of a reduced image's side
_ASIDE = 2  # images that are left out at each end: the move is told, and must not be one image's choice


def reduced(images: np.ndarray, block: int) -> tuple[np.ndarray, int]:
    """(float32 [n, h/r, w/r, c] means of r×r pixels, block side there): small enough to try a whole orbit on."""
    n, height, width, channels = images.shape
    fits = [r for r in range(1, block + 1) if block % r == 0 and min(height, width) // r >= _SIDE]
    r = max(fits, default=1)
    parts = images.reshape(n, height // r, r, width // r, r, channels).astype(np.float32)
    return parts.mean(axis=(2, 4)), block // r


def fits(
    guesses: np.ndarray, plains: np.ndarray, block: int, orbit: Orbit
) -> tuple[list[Move], np.ndarray]:
    """(moves, float32 [moves, n]): normalised correlation of every moved guess with its plain image.

    guesses, plains: uint8 [n, h, w, c]. The identity comes first, and ties fall to the smaller shift.
    """
    small, side = reduced(guesses, block)
    target = unit(reduced(plains, block)[0])
    moves: list[Move] = []
    scores: list[np.ndarray] = []
    for look in orbit.looks(guesses.shape[1:]):  # type: ignore[arg-type]
        turned = look.apply(small, side)
        for down, across in orbit.spans():
            score = (unit(np.roll(turned, (down * side, across * side), (1, 2))) * target).sum(1)
            move = dataclasses.replace(look, down=down, across=across)
            moves.append(move)
            scores.append(score)
            if orbit.negatives:  # the negative of an image correlates with the opposite sign
                moves.append(dataclasses.replace(move, negative=True))
                scores.append(-score)
    return moves, np.stack(scores)


def register(guesses: np.ndarray, plains: np.ndarray, block: int, orbit: Orbit) -> Move:
    """The one move that fits these guesses best: shortlisted by correlation, chosen by SSIM, means of most images.

    Call it on the even rows only, for guesses and baselines alike; score the odd ones.
    """
    moves, scores = fits(guesses[:_FEW], plains[:_FEW], block, orbit)
    best = [moves[i] for i in np.argsort(-_most(scores), kind="stable")[:_SHORTLIST]]
    few = slice(0, _CHOOSERS)

    def mean(move: Move) -> float:
        return float(_most(np.nan_to_num(ssims(move.apply(guesses[few], block), plains[few]))))

    return max(best, key=mean) if len(best) > 1 else best[0]


def _most(scores: np.ndarray) -> np.ndarray:
    """[..., n] → [...]: the mean without the highest and the lowest."""
    aside = min(_ASIDE, scores.shape[-1] // 4)
    middle: np.ndarray = np.sort(scores, axis=-1)[..., aside : scores.shape[-1] - aside].mean(-1)
    return middle


def register_each(guesses: np.ndarray, plains: np.ndarray, block: int, orbit: Orbit) -> np.ndarray:
    """uint8 [n, h, w, c]: every guess moved by the element that correlates best with its own plain image."""
    moves, scores = fits(guesses, plains, block, orbit)
    chosen = scores.argmax(0)
    return np.concatenate([moves[m].apply(guesses[i : i + 1], block) for i, m in enumerate(chosen)])


def nearest_each(guesses: np.ndarray, gallery: np.ndarray, block: int, orbit: Orbit) -> np.ndarray:
    """int64 [n]: the gallery image with the largest correlation to each guess, over the whole orbit of each.

    The guess is moved to suit every gallery image, not its own alone. A guess without variation names nobody (-1).
    """
    small, side = reduced(guesses, block)
    against = unit(reduced(gallery, block)[0])
    best = np.full((len(guesses), len(gallery)), -np.inf, np.float32)
    for look in orbit.looks(guesses.shape[1:]):  # type: ignore[arg-type]
        turned = look.apply(small, side)
        for down, across in orbit.spans():
            score = unit(np.roll(turned, (down * side, across * side), (1, 2))) @ against.T
            np.maximum(best, np.abs(score) if orbit.negatives else score, out=best)
    found = best.argmax(1)
    found[best.max(1) <= 0] = -1
    return found
