"""One order of all pixels, and one substitution of gray levels (T1): for all colours, or a table for each.

Permutation and substitution box, in one round. The order hides which pixels are neighbours, so that the substitution
cannot be read from them; and unlike levels stand for like ones, so that the order cannot be read from the values. But
levels stay in their images (level_profiles.py): a rough gray scale comes first, the pixels are laid out by it, and
then the table is found as if nothing had been moved (substitution.py). Opened, the values tell the order better, and
it is found again.

One fit is measured on images that were held back from both searches. The others say whether the order is one of a
picture, and whether the gray scale holds together.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.opened import RecoveredLevels, open_levels, put_in_order
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.textbook import substitution
from coordinator.adversary.textbook.level_profiles import order_by_profiles
from coordinator.adversary.textbook.order_and_keystream import (
    LEAST_IMAGES,
    LEAST_NEAR,
    LEAST_NEAR_BY_RANK,
    LEAST_PIXELS,
    MOST_PIXELS,
    NEAR,
    lay_out_opened,
    most_images,
)
from coordinator.adversary.textbook.pixel_layout import MOST_ASSIGNED
from coordinator.adversary.textbook.substitution import find_tables
from coordinator.adversary.time_budget import TimeLeft
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images, Rows, UInt8Array
from crypto.spec import SchemeSpec

#: Images that are held back for the fit.
_HELD_BACK = 6
#: Most times that the order is found, and by how much the fit must grow for another time.
_ROUNDS, _LEAST_GAIN = 3, 0.02
#: Images of which it is measured how much neighbouring values agree as they are; see substitution.py.
_LOOKED_AT, _AS_IT_IS = 16, 0.75
#: Colours of a pixel must agree more under tables of their own by this, for them to be chosen.
_OWN_GAIN = 0.05
#: How much they agree at least. The share of near neighbours is that of order_and_keystream.py: layouts of CIFAR-10
#: and tissue of 32 pixels had .96 and more at 100 images, all right; CIFAR-10 had .77 to .90 at 30, all right enough
#: to name images, and doubted; bent ones of X-rays had .73 to .91.
_LEAST_FIT = 0.5
_FIT = "the correlation of neighbouring pixels in images that order and substitution were not sought in"


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> RecoveredLevels | Recovered | None:
    """Recover order and substitution.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps.

    Returns:
        The key; None if n is below LEAST_IMAGES, the pixels are few or in order, or levels are no more frequent in
        some images than in others.
    """
    height, width, channels = shape = pool.spec.image_shape
    pixels = height * width
    images = pool.images(np.sort(random_order(pool_rows)[: most_images(pixels * channels)]))
    if len(images) < LEAST_IMAGES or pixels < LEAST_PIXELS or not time_left():
        return None
    if colour_agreement(images[:_LOOKED_AT]) >= _AS_IT_IS:
        return None
    unseen, seen = images[:_HELD_BACK], images[_HELD_BACK:]
    tables = _rough_tables(seen)
    if tables is None:
        return None
    if pixels > MOST_PIXELS:
        return unmoved(shape, 1, f"not sought: {pixels} pixels, at most {MOST_PIXELS}")
    return _search(pool.spec, seen, unseen, tables, time_left)


def _rough_tables(images: Images) -> UInt8Array | None:
    """Return a rough table of each colour, uint8 [c, 256], by level profiles; None if they are chance."""
    tables = find_tables(images, order_by_profiles, is_own=False)
    if images.shape[3] > 1:
        own = find_tables(images, order_by_profiles, is_own=True)
        if (
            _colours_agree(open_levels(images, own))
            > _colours_agree(open_levels(images, tables)) + _OWN_GAIN
        ):
            tables = own
    return tables if np.ptp(tables) else None


def _colours_agree(images: Images) -> float:
    """Return the mean correlation of the first colour of a pixel with its others, in images uint8 [n, h, w, c]."""
    values = images.reshape(-1, images.shape[3]).astype(np.float64)
    values -= values.mean(0)
    spread = np.sqrt((values**2).sum(0))
    r = (values[:, :1] * values[:, 1:]).sum(0) / np.maximum(spread[0] * spread[1:], 1e-9)
    return float(np.abs(r).mean())


def _search(
    spec: SchemeSpec, seen: Images, unseen: Images, tables: UInt8Array, time_left: TimeLeft
) -> RecoveredLevels | None:
    """Return the order and the tables under which images fit best that were held back; None if none are found."""
    pixels = seen.shape[1] * seen.shape[2]
    least_near = LEAST_NEAR if pixels <= MOST_ASSIGNED else LEAST_NEAR_BY_RANK
    best, most, order = None, -1.0, np.arange(pixels)
    for _ in range(_ROUNDS):
        layout = lay_out_opened(open_levels(seen, tables, order), time_left)
        if layout is None or (best is not None and not time_left()):
            break
        order = order[layout.grid.ravel()]
        moved = put_in_order(seen, order)
        found = substitution.recover(MemoryPool(spec, moved), np.arange(len(moved)), time_left)
        if found is None:
            break
        tables = found.levels
        fit = colour_agreement(open_levels(unseen, tables, order))
        gain, most = fit - most, max(fit, most)
        if gain > 0:
            _, link = found.fits
            fits = (Fit(fit, _LEAST_FIT, _FIT), link, Fit(layout.fit, least_near, NEAR))
            best = RecoveredLevels(tables, fits, order)
        if gain < _LEAST_GAIN:
            break
    return best
