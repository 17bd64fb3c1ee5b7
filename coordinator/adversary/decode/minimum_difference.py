"""The minimum-difference attack (T0): each pixel in the state that differs least from its decoded neighbour.

Source: Chang et al., "Attacks on image encryption schemes for privacy-preserving deep neural networks", arXiv
2004.13263, their `decrypt_diffkey_adv` against pixel-based encryption. The first row is read from left to right, and
each pixel is compared with the one on its left. All other rows are compared with the pixel above. Of the 6 colour
orders × 8 sign patterns of a pixel (2 states of a gray one), the one with the least L1 distance wins. Wrong choices
run down the columns. A second decoding therefore compares with the mean of the pixels above and to the left. Of an
image's two decodings, the guess is the one with the smaller sum of all neighbours' differences.

The first pixel: L1 does not change when both pixels are put in another of the 48 states. Whatever state is tried for
the first pixel, the rest follows in the same one, so one try is enough. It is tried dark. Then, in every order, the
sign pattern nearest to dark neighbours is the dark one, and only the six orders are left to compare. Hence without a
colour shuffle the result is the leading-bit attack's.
"""

from __future__ import annotations

import numba
import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.values.usual_colours import usual_order
from crypto.arrays import Float64Array, Int64Array, UInt8Array
from crypto.scheme import load
from crypto.spec import SchemeSpec
from crypto.symmetry import COLOUR_ORDERS


def attack(knowledge: Knowledge) -> Guess:
    """Decode each image by itself. Images that time does not reach stay sealed."""
    spec = knowledge.pool.spec
    images = load(spec).picture(knowledge.pool.images(knowledge.rows)).copy()
    orders, chosen = _colour_orders(spec), [0, 0]
    for i, image in enumerate(images):
        if not knowledge.budget.time_left():
            break
        decodings = [decode(image, orders, by_mean) for by_mean in (False, True)]
        best = int(roughness(decodings[1]) < roughness(decodings[0]))
        images[i] = decodings[best]
        if len(orders) > 1:  # one order for the whole picture, which no neighbours tell
            pixels = images[i].reshape(-1, 3, 1).astype(np.float64)
            images[i] = images[i][..., COLOUR_ORDERS[usual_order(pixels)]]
        chosen[best] += 1
    note = f"the mean of two neighbours was better in {chosen[1]} of {sum(chosen)} images"
    if sum(chosen) < len(images):
        note += f"; truncated: out of time at image {sum(chosen)} of {len(images)}"
    return Guess(images, note=note)


def _colour_orders(spec: SchemeSpec) -> Int64Array:
    """Return int64 [1 or 6, c], the colour orders that a pixel can be in. They are public: `pe` has an option."""
    channels = spec.image_shape[2]
    if channels == 1 or spec.options.get("colour_shuffle") is False:
        return np.arange(channels)[None]
    return COLOUR_ORDERS


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def decode(image: UInt8Array, orders: Int64Array, by_mean: bool) -> UInt8Array:
    """Decode one image. The first pixel keeps its order. Of orders that are equally near, the first wins.

    Args:
        image: uint8 [h, w, c].
        orders: int64 [k, c], the colour orders that are tried.
        by_mean: Whether to compare with the mean of the pixels above and to the left, not with the one above.
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
                elif x == 0 or not by_mean:
                    near[c] = out[y - 1, x, c]
                else:
                    near[c] = (float(out[y - 1, x, c]) + float(out[y, x - 1, c])) / 2
            best = _nearest_order(image[y, x], orders, near)
            for c in range(channels):
                value = image[y, x, orders[best, c]]
                out[y, x, c] = min(value, 255 - value)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _nearest_order(pixel: UInt8Array, orders: Int64Array, near: Float64Array) -> int:
    """Return the order in which the folded pixel [c] differs least from its decoded neighbour, float64 [c]."""
    least, best = np.inf, 0
    for k in range(len(orders)):
        distance = 0.0
        for c in range(len(near)):
            value = pixel[orders[k, c]]
            distance += abs(float(min(value, 255 - value)) - near[c])
        if distance < least:
            least, best = distance, k
    return best


def roughness(image: UInt8Array) -> int:
    """Return the sum of all absolute differences of neighbouring values of an image uint8 [h, w, c]."""
    values = image.astype(np.int64)
    return int(np.abs(np.diff(values, axis=0)).sum() + np.abs(np.diff(values, axis=1)).sum())
