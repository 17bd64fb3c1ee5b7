"""One order of all bits of gray pictures, within planes and between them, under a keystream or none (T1).

Ciphers by chaotic maps move bits from plane to plane to spread them evenly (Entropy 16:770, 2014). But the highest
bits of neighbours are equal most of the time, lower ones less often, and bits of two planes have next to nothing in
common. So the bits that have the nearest others are the highest ones; joined to those that are near them, they are
one sheet, and the bits of the next plane are another. The sheet is laid out as the pixels of a picture are
(pixel_graph.py, pixel_layout.py).

A keystream flips some bits. Then bits are joined that are equal or opposite most of the time, and which is which
follows from edge to edge, but for the sign of all.

What comes out is a picture of one bit: who is on it shows, and not how bright. In colour pictures three planes are
one sheet, whose layout is not found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import breadth_first_order

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.opened import RecoveredBits
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.textbook.pixel_graph import PixelGraph, join_nearest, nearest_others, sheets
from coordinator.adversary.textbook.pixel_layout import MOST_ASSIGNED, lay_out_pixels
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import BoolArray, Float32Array, Float64Array, Images, Int64Array, Rows

#: Fewer images than this tell too little: one bit of each is known. More than so many are not read.
LEAST_IMAGES, _IMAGES = 30, 500
#: Fewer pixels than this are all among the nearest of each other; with more nothing is sought: all bits are compared
#: with each other.
_LEAST_PIXELS, _MOST_PIXELS = 64, 96**2
#: Images of which it is measured how much neighbouring values agree as they are.
_LOOKED_AT, _AS_IT_IS = 16, 0.75
#: Nearest others of a bit whose mean says how near they are.
_NEAREST = 12
#: Bits that are joined, in planes: those that have the nearest others. With few of them a sheet has holes, with many
#: two sheets are one; the largest that is no more than a plane is taken.
_PLANES = (1.0, 1.5, 2.0, 2.5)
#: The share of a plane that its sheet may have. Those of CIFAR-10 and of stained tissue had .81 to 1.
_LEAST_SHEET, _MOST_SHEET = 0.75, 1.1
#: Most similar bits of the sheet by which another bit is taken into it.
_TAKEN = 3
#: Least fit (see `PixelLayout.fit`), assigned to the grid and snapped by rank: those of pixel_order.py.
_LEAST_FIT, _LEAST_FIT_BY_RANK = 0.85, 0.55
_FIT = "the share of neighbouring places whose highest bits are near each other"


@dataclass(frozen=True)
class _Sheet:
    """The bits that are taken for the highest plane.

    Attributes:
        bits: int64 [P], which bits of the image.
        features: float32 [P, n], their values over images, centred and of length 1.
        is_signed: Whether a bit and its opposite are told apart.
    """

    bits: Int64Array
    features: Float32Array
    is_signed: bool


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> RecoveredBits | Recovered | None:
    """Recover where the highest bits belong.

    Args:
        pool: Sealed images, uint8, gray.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps.

    Returns:
        The key; None if n is below LEAST_IMAGES, the pixels are few, in order or in colour, or no bits are one sheet.
    """
    height, width, colours = shape = pool.spec.image_shape
    pixels = height * width
    images = pool.images(np.sort(random_order(pool_rows)[:_IMAGES]))
    if colours > 1 or len(images) < LEAST_IMAGES or pixels < _LEAST_PIXELS or not time_left():
        return None
    if colour_agreement(images[:_LOOKED_AT]) >= _AS_IT_IS:
        return None
    if pixels > _MOST_PIXELS:
        return unmoved(shape, 1, f"not sought: {pixels} pixels, at most {_MOST_PIXELS}")
    # Under a keystream bits that are far apart may be alike, and be taken for neighbours: the better layout is right.
    keys = []
    for is_signed in (True, False):
        sheet = _find_sheet(images, is_signed=is_signed, time_left=time_left)
        key = None if sheet is None else _lay_out(sheet, height, width, time_left)
        if key is not None:
            keys.append(key)
    return max(keys, key=lambda key: key.fits[0].value, default=None)


def _lay_out(sheet: _Sheet, height: int, width: int, time_left: TimeLeft) -> RecoveredBits | None:
    """Return the key by which the bits of a sheet are laid out; None if time runs out, or it falls to pieces."""
    features, is_signed = sheet.features, sheet.is_signed
    found = _neighbours(features, is_signed=is_signed, time_left=time_left)
    graph = None if found is None else join_nearest(*found)
    if graph is None:
        return None

    def distances() -> Float64Array:
        """Return how unlike every two bits are, float64 [P, P]."""
        apart: Float64Array = 1 - _similarities(features, features, is_signed=is_signed).astype(np.float64)
        return np.sqrt(np.maximum(apart, 0))

    layout = lay_out_pixels(graph, distances, height, width, time_left)
    if layout is None:
        return None
    places = layout.grid.ravel()
    order = np.full((len(places), 8), -1, np.int64)
    order[:, 7] = sheet.bits[places]
    flips = np.zeros(order.shape, bool)
    if not is_signed:
        flips[:, 7] = _opposite(features, graph)[places]
    least = _LEAST_FIT if len(places) <= MOST_ASSIGNED else _LEAST_FIT_BY_RANK
    return RecoveredBits(order, (Fit(layout.fit, least, _FIT),), flips)


def _find_sheet(images: Images, *, is_signed: bool, time_left: TimeLeft) -> _Sheet | None:
    """Return the sheet of the highest bits of images uint8 [n, h, w, 1]; None without one, or out of time."""
    pixels = images[0].size
    bits, features = _features(images)
    if len(bits) < pixels:
        return None
    found = _neighbours(features, is_signed=is_signed, time_left=time_left)
    if found is None:
        return None
    nearness = -np.sort(found[1], axis=1)[:, :_NEAREST].mean(1)
    best: tuple[int, Int64Array, BoolArray] | None = None
    for planes in _PLANES:
        kept = np.sort(np.argsort(-nearness, kind="stable")[: int(planes * pixels)])
        found = _neighbours(features[kept], is_signed=is_signed, time_left=time_left)
        if found is None:
            return None
        labels = sheets(*found)
        inside: BoolArray = labels == np.bincount(labels).argmax()
        size = int(inside.sum())
        if _LEAST_SHEET * pixels <= size <= _MOST_SHEET * pixels and (best is None or size > best[0]):
            best = size, kept, inside
    if best is None:
        return None
    _, kept, inside = best
    bits, features = bits[kept], features[kept]
    likeness = _similarities(features, features[inside], is_signed=is_signed)
    near = np.sort(likeness, axis=1)[:, -_TAKEN:].mean(1)
    # All of the sheet come first; of those and of the others, the nearest.
    chosen = np.lexsort((-near, ~inside))[:pixels]
    return _Sheet(bits[chosen], features[chosen], is_signed)


def _features(images: Images) -> tuple[Int64Array, Float32Array]:
    """Return the bits of images uint8 [n, h, w, 1] that vary, int64 [b], and their values, float32 [b, n].

    The values over images are centred and of length 1. Bits count as in `RecoveredBits`.
    """
    bits = np.unpackbits(images.reshape(len(images), -1), axis=1, bitorder="little").T
    varied = np.flatnonzero(np.ptp(bits, axis=1) > 0)
    features = bits[varied].astype(np.float32)
    features -= features.mean(1, keepdims=True)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return varied, features


def _similarities(one: Float32Array, other: Float32Array, *, is_signed: bool) -> Float32Array:
    """Return the correlation of bits [p, n] with bits [q, n], or its size: float32 [p, q]."""
    products: Float32Array = one @ other.T
    return products if is_signed else np.abs(products, out=products)


def _neighbours(
    features: Float32Array, *, is_signed: bool, time_left: TimeLeft
) -> tuple[Int64Array, Float32Array] | None:
    """Return candidates for the nearest others of each bit and their distances, [b, k]; None out of time."""
    candidates = nearest_others(
        len(features),
        lambda strip: -_similarities(features[strip], features, is_signed=is_signed),
        time_left,
    )
    if candidates is None:
        return None
    likeness = np.stack([np.einsum("pn,pn->p", features, features[other]) for other in candidates.T], 1)
    distances: Float32Array = np.maximum(1 - (likeness if is_signed else np.abs(likeness)), 0)
    return candidates, distances


def _opposite(features: Float32Array, graph: PixelGraph) -> BoolArray:
    """Return which bits are flipped against the first of the piece, along the edges of the graph: bool [P].

    Bits beside the piece are compared with the bit of it that is most like them.
    """
    inside = np.flatnonzero(graph.piece)
    order, before = breadth_first_order(graph.lengths, inside[0], directed=False)
    signs = np.ones(len(features))
    for bit in order[1:]:
        signs[bit] = signs[before[bit]] * np.sign(features[bit] @ features[before[bit]] or 1.0)
    for bit in np.flatnonzero(~graph.piece):
        products = features[inside] @ features[bit]
        like = int(np.abs(products).argmax())
        signs[bit] = signs[inside[like]] * np.sign(products[like] or 1.0)
    opposite: BoolArray = signs < 0
    return opposite
