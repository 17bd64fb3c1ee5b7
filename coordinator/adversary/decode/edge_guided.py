"""The edge-guided form of the leading-bit attack (T0): each value or its negative, whichever continues more smoothly.

Source: Chang et al., arXiv 2004.13263, use the leading bit alone. Descriptions of the attack speak of edges, which
this form follows. Values are read row by row, each colour by itself. Each is v or 255 − v, whichever makes the
squared gradient to the decoded values above and to the left smaller.

**It decodes exactly what the leading bit decodes, value for value.** The first value is assumed to be dark, and the
choice nearest to dark neighbours is always the darker one. It is kept as an attack of its own so that nobody has to
believe that. Guides that can leave the dark half, such as extrapolated gradients, do worse (README.md of the
adversary).
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from crypto.arrays import Images
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Decode each image by itself."""
    sealed = load(knowledge.pool.spec).picture(knowledge.pool.images(knowledge.rows))
    return Guess(follow_edges(np.ascontiguousarray(sealed)))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def follow_edges(images: Images) -> Images:
    """Decode images uint8 [n, h, w, c]. The first value of every colour is assumed to be dark.

    If both choices are equally smooth, the dark one is taken.
    """
    out = np.empty_like(images)
    n, height, width, channels = images.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    bright = np.int64(max(images[i, y, x, c], 255 - images[i, y, x, c]))
                    dark = 255 - bright
                    gain = np.int64(0)  # what the bright choice saves
                    if x > 0:
                        left = np.int64(out[i, y, x - 1, c])
                        gain += (dark - left) ** 2 - (bright - left) ** 2
                    if y > 0:
                        above = np.int64(out[i, y - 1, x, c])
                        gain += (dark - above) ** 2 - (bright - above) ** 2
                    out[i, y, x, c] = bright if gain > 0 else dark
    return out
