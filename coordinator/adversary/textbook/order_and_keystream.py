"""One order of all pixels, and one keystream over it (T1): XORed, or added modulo 256.

Permutation and substitution: what ciphers by chaotic maps do, in one round. The order hides which values are
neighbours, and the stream hides what their values are; but the stream changes nothing of what two places have in
common over many images (streamed_pixels.py). So the pixels are laid out first, under the unknown stream, and then the
stream is found as if nothing had been moved (keystream_search.py). Opened, the values tell the order better, and it
is found again.

One fit is measured on images that were held back from both searches. The other says whether the order is one of a
picture: a layout that is bent has neighbours that are alike, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.opened import Key, RecoveredStream, put_in_order
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.textbook.keystream import find_stream, open_values
from coordinator.adversary.textbook.pixel_graph import join_pixels
from coordinator.adversary.textbook.pixel_layout import (
    MOST_ASSIGNED,
    PixelLayout,
    lay_out_pixels,
    value_distances,
)
from coordinator.adversary.textbook.pixel_order import pixel_values
from coordinator.adversary.textbook.streamed_pixels import (
    in_common,
    join_streamed_pixels,
    streamed_distances,
)
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Images, Rows, UInt8Array
from crypto.kernels.table import Table

#: Fewer images than this tell too little about a pixel, and leave none to hold back.
LEAST_IMAGES = 12
#: Images that are held back for the fit.
_HELD_BACK = 6
#: With more pixels than this nothing is sought: it takes minutes. Fewer are all among the nearest of each other.
MOST_PIXELS, LEAST_PIXELS = 256**2, 64
#: Values of all images together that are read, and the fewest and most images: a bound on time.
_VALUES, _FEWEST_IMAGES, _MOST_IMAGES = 3_000_000, 40, 200
#: What places must have in common at least; see `in_common`. Of 12 and of 40 images, places of pictures under a
#: keystream had .05 and more (CIFAR-10, tissue, X-rays, MRI, phantoms; order and keystream), noise at most .01.
LEAST_IN_COMMON = 0.03
#: So many times more must they have in common under addition than under XOR, for the stream to be taken as added.
#: Added ones had 1.46 and more (phantoms; MRI 1.7, other pictures 3), XORed ones at most 1.25.
_ADDED_FROM = 1.35
#: Most times that the order is found again from opened values, and by how much the fit must grow for another time.
#: CIFAR-10 of 224×224, 30 images: .846, .949, .952, at a minute each.
_ROUNDS, _LEAST_GAIN = 2, 0.02
_LOOKED_AT, _AS_IT_IS = 16, 0.75
_LEAST_FIT = 0.5
_FIT = "the correlation of neighbouring pixels in images that order and keystream were not sought in"
#: Least share of neighbours on the grid that are near in the graph, of layouts that were assigned to the grid, and of
#: those that were snapped by rank. A bent order has neighbours that are alike, so the agreement above is high. Of 11
#: pools of CIFAR-10, tissue and X-rays, all of .66 and more, those whose opened images correlated with their own at
#: .3 and less had shares of .82 to .90, those at .7 and more at least .91, those between .85 to .94: X-rays at 100
#: images are bent, and hardly doubted. By rank: as in pixel_order.py, not measured here.
LEAST_NEAR, LEAST_NEAR_BY_RANK = 0.91, 0.55
NEAR = "the share of neighbouring pixels that are near each other over the images"
_WAYS = {True: "the keystream is XORed", False: "the keystream is added modulo 256"}


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Key | None:
    """Recover order and keystream.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps.

    Returns:
        The key; None if n is below LEAST_IMAGES, the pixels are few or in order, or they have nothing in common.
    """
    height, width, channels = shape = pool.spec.image_shape
    pixels = height * width
    images = pool.images(np.sort(random_order(pool_rows)[: most_images(pixels * channels)]))
    if len(images) < LEAST_IMAGES or pixels < LEAST_PIXELS or not time_left():
        return None
    if colour_agreement(images[:_LOOKED_AT]) >= _AS_IT_IS:
        return None
    is_xor = way_of(images)
    if is_xor is None:
        return None
    if pixels > MOST_PIXELS:
        return unmoved(shape, 1, f"not sought: {pixels} pixels, at most {MOST_PIXELS}")
    unseen, seen = images[:_HELD_BACK], images[_HELD_BACK:]
    found = _search(seen, unseen, is_xor=is_xor, time_left=time_left)
    if found is None:
        return None
    least_near = LEAST_NEAR if pixels <= MOST_ASSIGNED else LEAST_NEAR_BY_RANK
    fits = (
        Fit(found.fit, _LEAST_FIT, f"{_FIT}; {_WAYS[is_xor]}"),
        Fit(found.layout.fit, least_near, NEAR),
    )
    order = found.layout.grid.ravel()
    if not is_xor:
        return RecoveredStream(found.stream, fits, order)
    return Recovered(Table.flat(shape, order, found.stream.ravel()), {}, (), fits)


def most_images(values: int) -> int:
    """Return how many images of so many values are read at most: a bound on time."""
    return int(np.clip(_VALUES // values, _FEWEST_IMAGES, _MOST_IMAGES))


def way_of(images: Images) -> bool | None:
    """Return whether a stream is XORed to images uint8 [n, h, w, c]; None if their places have nothing in common."""
    values = by_pixel(images)
    xored, added = (in_common(values, is_xor=is_xor) for is_xor in (True, False))
    return None if max(xored, added) < LEAST_IN_COMMON else added < _ADDED_FROM * xored


def by_pixel(images: Images) -> UInt8Array:
    """Return the values of every pixel by colour over images, uint8 [P, c, n]."""
    n, height, width, colours = images.shape
    return np.ascontiguousarray(images.reshape(n, height * width, colours).transpose(1, 2, 0))


@dataclass(frozen=True)
class _Found:
    """A layout, the stream in its order, uint8 [h, w, c], and how well both open images that were held back."""

    layout: PixelLayout
    stream: UInt8Array
    fit: float


def _search(seen: Images, unseen: Images, *, is_xor: bool, time_left: TimeLeft) -> _Found | None:
    """Return the order and the stream under which images fit best that were held back; None if no order is found."""
    best, layout = None, _first_layout(seen, is_xor=is_xor, time_left=time_left)
    for _ in range(1 + _ROUNDS):
        if layout is None or (best is not None and not time_left()):
            break
        order = layout.grid.ravel()
        stream = find_stream(put_in_order(seen, order), is_xor=is_xor, time_left=time_left)
        fit = colour_agreement(open_values(put_in_order(unseen, order), stream, is_xor=is_xor))
        gain = fit - (best.fit if best is not None else -1.0)
        if gain > 0:
            best = _Found(layout, stream, fit)
        if gain < _LEAST_GAIN:
            break
        opened = open_values(put_in_order(seen, order), stream, is_xor=is_xor)
        again = lay_out_opened(opened, time_left)
        layout = None if again is None else PixelLayout(order[again.grid], again.fit)
    return best


def _first_layout(images: Images, *, is_xor: bool, time_left: TimeLeft) -> PixelLayout | None:
    """Return the layout of the pixels by what they have in common; None if they fall to pieces."""
    height, width = images.shape[1:3]
    values = by_pixel(images)
    graph = join_streamed_pixels(values, is_xor=is_xor, time_left=time_left)
    if graph is None:
        return None
    return lay_out_pixels(
        graph, lambda: streamed_distances(values, is_xor=is_xor), height, width, time_left
    )


def lay_out_opened(opened: Images, time_left: TimeLeft) -> PixelLayout | None:
    """Return the layout of the pixels of opened images by their values; None if they fall to pieces."""
    height, width = opened.shape[1:3]
    values = pixel_values(opened)
    graph = join_pixels(values, time_left)
    if graph is None:
        return None
    return lay_out_pixels(graph, lambda: value_distances(values), height, width, time_left)
