"""Values that were chained to the ciphertext before them (T1), over one of the other ciphers of textbooks.

Diffusion by chaining is the second half of most ciphers by chaotic maps: each value is combined with the ciphertext
before it, so that one changed pixel changes all that follow. It takes no key to undo it. The adversary does not know
how it was done; but undone in the right way, places have something in common over images (streamed_pixels.py), or, if
levels were substituted first, levels are frequent in some images and rare in others (level_profiles.py). As they are
chained, neither is so.

What was chained is then attacked as if it had been sealed alone: a keystream, a substitution, an order of pixels, or
such an order and one of the other two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.opened import Key, RecoveredChained, RecoveredLevels, RecoveredStream
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.textbook import (
    keystream,
    order_and_keystream,
    order_and_table,
    pixel_order,
    substitution,
)
from coordinator.adversary.textbook.level_profiles import over_chance
from coordinator.adversary.textbook.order_and_keystream import LEAST_IN_COMMON, LEAST_PIXELS, by_pixel
from coordinator.adversary.textbook.streamed_pixels import in_common
from coordinator.adversary.time_budget import TimeLeft
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images, Int64Array, Rows
from crypto.kernels.chaining import Chaining, chainings
from crypto.kernels.table import Table

#: Fewer images than this tell too little of what places have in common.
LEAST_IMAGES = 4
#: Most images that are compared to find the way of chaining.
_COMPARED = 40
#: Most images whose key is sought: a bound on memory.
_IMAGES = 300
#: What places may have in common at most for anything to be chained, and how many times as much they must have when
#: it is undone. Chained pictures of 28×28 and more (CIFAR-10, tissue, X-rays, phantoms) had at most .035, and 14
#: times as much when it was undone; others had .05 and more. Smooth pictures of 16×16 had up to .1, and are missed.
_MOST_AS_IT_IS, _GAIN = 0.05, 4.0
#: How much the frequency of levels may vary over images at most for substituted values to be chained, and at least
#: when it is undone, as multiples of chance. Pools of 6 to 30 pictures (CIFAR-10, tissue, X-rays, MRI) had at most
#: 1.2, and 3.2 to 104 when it was undone, always most in the right way. Phantoms, all equally bright, had 0. Smooth
#: pictures without any grain had up to 23 as they are, and are missed.
_MOST_OVER_CHANCE, _LEAST_OVER_CHANCE = 2.0, 2.5
#: From this agreement on, undone images are pictures: nothing else was done to them.
_PICTURES = 0.75
_FIT = "the correlation of neighbouring pixels when the chaining is undone"
#: What may have been chained, in the order in which it is tried. An order without a keystream falls to the recovery
#: of both, too, from 12 images on.
_INNER: Sequence[Callable[[Ciphertexts, Rows, TimeLeft], Key | None]] = (
    keystream.recover,
    substitution.recover,
    order_and_keystream.recover,
    order_and_table.recover,
    pixel_order.recover,
)


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> RecoveredChained | None:
    """Recover how values were chained, and the key of what was chained.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between recoveries.

    Returns:
        The key; the first whose fits are sound, else the one of most confidence. None if n is below LEAST_IMAGES, the
        pixels are few, nothing was chained, or nothing is recovered from what was.
    """
    height, width, _ = shape = pool.spec.image_shape
    rows = random_order(pool_rows)
    if len(rows) < LEAST_IMAGES or height * width < LEAST_PIXELS or not time_left():
        return None
    chaining = find_chaining(pool.images(np.sort(rows[:_COMPARED])))
    if chaining is None:
        return None
    undone = chaining.undo(pool.images(np.sort(rows[:_IMAGES])))
    agreement = colour_agreement(undone[:_COMPARED])
    if agreement >= _PICTURES:
        fit = Fit(agreement, _PICTURES, _FIT)
        return RecoveredChained(chaining, Recovered(Table(shape, shape[:2]), {}, (), (fit,)))
    found: list[Recovered | RecoveredStream | RecoveredLevels] = []
    for recover_inner in _INNER:
        if not time_left():
            break
        key = recover_inner(MemoryPool(pool.spec, undone), np.arange(len(undone)), time_left)
        if isinstance(key, (Recovered, RecoveredStream, RecoveredLevels)):
            found.append(key)
            if not any(fit.is_poor for fit in key.fits):
                break
    return RecoveredChained(chaining, max(found, key=_confidence)) if found else None


def find_chaining(images: Images) -> Chaining | None:
    """Return how images uint8 [n, h, w, c] were chained; None if they were not, as far as can be seen.

    Nothing was chained if places have something in common as they are, or nothing in whatever way it is undone, and
    the same holds for how much the frequency of levels varies. Pixels that are the same in every ciphertext are left
    out: under a black border, chained values are, up to the first that differs.
    """
    return _chaining_by_places(images) or _chaining_by_levels(images)


def _chaining_by_places(images: Images) -> Chaining | None:
    varied = np.flatnonzero((images != images[0]).any((0, 3)))
    if len(varied) < LEAST_PIXELS:
        return None
    as_it_is = _in_common(images, varied)
    if as_it_is >= _MOST_AS_IT_IS:
        return None
    common = {way: _in_common(way.undo(images), varied) for way in chainings(images.shape[3])}
    best = max(common, key=lambda way: common[way])
    return best if common[best] >= max(LEAST_IN_COMMON, _GAIN * as_it_is) else None


def _chaining_by_levels(images: Images) -> Chaining | None:
    if over_chance(images) >= _MOST_OVER_CHANCE:
        return None
    varying = {way: over_chance(way.undo(images)) for way in chainings(images.shape[3])}
    best = max(varying, key=lambda way: varying[way])
    return best if varying[best] >= _LEAST_OVER_CHANCE else None


def _in_common(images: Images, pixels: Int64Array) -> float:
    """Return how much these pixels have in common, whether under a keystream that is XORed or one that is added."""
    values = by_pixel(images)[pixels]
    return max(in_common(values, is_xor=is_xor) for is_xor in (True, False))


def _confidence(key: Recovered | RecoveredStream | RecoveredLevels) -> float:
    return min((fit.confidence for fit in key.fits), default=0.0)
