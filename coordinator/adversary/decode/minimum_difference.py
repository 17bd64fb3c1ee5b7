"""The minimum-difference attack (T0): each pixel in the state that differs least from its decoded neighbour.

Source: Chang et al., "Attacks on image encryption schemes for privacy-preserving deep neural networks",
arXiv 2004.13263, their `decrypt_diffkey_adv` against pixel-based encryption. The first row is read from left to
right against the pixel on the left, all other rows against the pixel above; of the 6 colour orders × 8 sign patterns
of a pixel (2 states of a gray one), the one with the least L1 distance wins. Wrong choices run down the columns, and
so a second decode compares with the mean of the pixels above and to the left. Of an image's two decodes, the one
with the smaller sum of all neighbours' differences is handed over.

The first pixel: L1 does not change when both pixels are put in another of the 48 states. Whatever state is tried for
the first pixel, the rest follows in the same one, so that one try is enough. It is tried dark; then, in every
order, the sign pattern nearest to dark neighbours is the dark one, and only the six orders are left to compare.
Hence without a colour shuffle the result is the leading-bit attack's.
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.recover.pe import usual_order
from crypto.scheme import load
from crypto.schemes.pe import ORDERS
from crypto.spec import SchemeSpec


def attack(knowledge: Knowledge) -> Guess:
    """Each image by itself. Images that were not reached in time are handed back sealed."""
    spec = knowledge.pool.spec
    images = load(spec).picture(knowledge.pool.images(knowledge.rows)).copy()
    orders, chosen = _orders(spec), [0, 0]
    for i, image in enumerate(images):
        if not knowledge.budget.left() > 0:
            break
        decodes = [decode(image, orders, mean) for mean in (False, True)]
        by_mean = roughness(decodes[1]) < roughness(decodes[0])
        images[i] = decodes[by_mean]
        if len(orders) > 1:  # one order for the whole picture, which no neighbours tell
            images[i] = images[i][..., ORDERS[usual_order(images[i].reshape(-1, 3, 1).astype(np.float64))]]
        chosen[by_mean] += 1
    note = f"the mean of two neighbours was better in {chosen[1]} of {sum(chosen)} images"
    if sum(chosen) < len(images):
        note += f"; truncated: out of time at image {sum(chosen)} of {len(images)}"
    return Guess(images, note=note)


def _orders(spec: SchemeSpec) -> np.ndarray:
    """int64 [1 or 6, c]: the colour orders that a pixel can be in. The algorithm is public, so pe says which."""
    channels = spec.image_shape[2]
    if channels == 1 or spec.options.get("colour_shuffle") is False:
        return np.arange(channels)[None]
    return ORDERS


@numba.njit(cache=True, nogil=True)
def decode(image: np.ndarray, orders: np.ndarray, mean: bool) -> np.ndarray:
    """uint8 [h, w, c] → uint8 [h, w, c]; orders int64 [k, c]. mean: whether to compare with both neighbours.

    The first pixel keeps its order. Of orders that are equally near, the first wins.
    """
    height, width, channels = image.shape
    out = np.empty_like(image)
    near = np.empty(channels)
    for y in range(height):
        for x in range(width):
            if x == 0 and y == 0:
                for c in range(channels):
                    out[0, 0, c] = min(image[0, 0, c], 255 - image[0, 0, c])
                continue
            for c in range(channels):
                if y == 0:
                    near[c] = out[y, x - 1, c]
                elif x == 0 or not mean:
                    near[c] = out[y - 1, x, c]
                else:
                    near[c] = (float(out[y - 1, x, c]) + float(out[y, x - 1, c])) / 2
            least, best = np.inf, 0
            for k in range(len(orders)):
                distance = 0.0
                for c in range(channels):
                    value = image[y, x, orders[k, c]]
                    distance += abs(float(min(value, 255 - value)) - near[c])
                if distance < least:
                    least, best = distance, k
            for c in range(channels):
                value = image[y, x, orders[best, c]]
                out[y, x, c] = min(value, 255 - value)
    return out


def roughness(image: np.ndarray) -> int:
    """The sum of all absolute differences of neighbouring values of a uint8 [h, w, c] image."""
    wide = image.astype(np.int64)
    return int(np.abs(np.diff(wide, axis=0)).sum() + np.abs(np.diff(wide, axis=1)).sum())
