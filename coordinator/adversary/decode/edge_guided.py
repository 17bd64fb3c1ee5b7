"""The edge-guided form of the leading-bit attack (T0): every value or its negative, whichever goes on more smoothly.

Source: Chang et al., arXiv 2004.13263, use the leading bit alone; descriptions of the attack speak of edges, which
this form follows. Values are read row by row, each colour by itself. Each is v or 255 − v, whichever makes the
squared gradient to the decoded values above and to the left smaller.

**It finds what the leading bit finds, to the last value**: the first value is taken for dark, and what is nearest
to dark neighbours is always the darker choice. It is kept as an attack of its own so that nobody need believe
that. Guides that can leave the dark half, extrapolated gradients, do worse (adversary/README.md).
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Each image by itself, uint8 pictures of the plain shape."""
    sealed = load(knowledge.pool.spec).picture(knowledge.pool.images(knowledge.rows))
    images = follow_edges(np.ascontiguousarray(sealed))
    return Guess(images)


@numba.njit(cache=True, nogil=True)
def follow_edges(images: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, c] → uint8 [n, h, w, c]; the first value of every colour is taken for dark.

    Where both choices are as smooth, the dark one is taken.
    """
    out = np.empty_like(images)
    n, height, width, channels = images.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    bright = np.int64(max(images[i, y, x, c], 255 - images[i, y, x, c]))
                    dark = 255 - bright
                    worth = np.int64(0)  # what the bright choice saves
                    if x > 0:
                        left = np.int64(out[i, y, x - 1, c])
                        worth += (dark - left) ** 2 - (bright - left) ** 2
                    if y > 0:
                        above = np.int64(out[i, y - 1, x, c])
                        worth += (dark - above) ** 2 - (bright - above) ** 2
                    out[i, y, x, c] = bright if worth > 0 else dark
    return out
