"""One order of the rows and one of the columns for all images (T1, T0 with one image).

Textbook: scrambling by lines. Two rows that were neighbours are alike wherever they stand, and the order of the
columns changes nothing about that. So each of the two orders is a shortest path (path_order.py) by the distances of
whole lines, over all images.

Both orders are found up to their direction, so the picture up to its mirror images. Where the first and the last line
are as alike as neighbours are, as two black borders are, the path is a ring, and the shortest path cuts it anywhere.
It is cut anew in the middle of the flattest lines. How wide each border is nobody can know from the ciphertexts, so
the picture may be shifted by half the difference of the two.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.puzzle.distances import position_distances
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.pool_reading import random_rows
from coordinator.adversary.textbook.path_order import path_length, shortest_path
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Float64Array, Images, Int64Array, Rows
from crypto.kernels.table import Table

#: Most images used. 5 give the whole order; more make it no better.
_IMAGES = 32
#: Most values of a line that are compared, drawn over the images.
_COMPARED = 20_000
#: Images of which it is measured how much neighbouring values agree as they are. If that is so much, they must agree
#: more by the gain when they are opened, for lines to have been moved.
_LOOKED_AT, _AS_IT_IS, _GAIN = 16, 0.5, 0.02
#: A path is joined to a ring if there are flat lines, and its ends differ at most so much more than any neighbours.
_RING = 1.25
#: Lines are flat whose contrast is at most this share of the largest. Lines of pictures without borders had more.
_FLAT = 0.1
#: The steps of a path must be this much shorter than the mean distance of two lines, as a share of it. Those of right
#: paths were .27 to .62 shorter, those of noise at most .04 (CIFAR-10, tissue, X-rays, MRI, phantoms).
_LEAST_FIT = 0.15
_FIT = "how much less neighbouring lines differ than any two"


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover the orders of rows and columns.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between the two orders.

    Returns:
        The key; None if neighbouring values agree as much as they are, or no line differs from another.
    """
    images = pool.images(random_rows(pool_rows, _IMAGES))
    _, width, _ = shape = pool.spec.image_shape
    orders, fits = [], []
    for axis in (1, 2):
        path = np.arange(images.shape[axis])
        distances = line_distances(images, axis) if time_left() else None
        if distances is None or not distances.any():
            orders.append(path)
            continue
        path = cut_ring(distances, shortest_path(distances, time_left), _contrasts(images, axis))
        orders.append(path)
        fits.append(Fit(_gain(distances, path), _LEAST_FIT, f"{_FIT}, {('rows', 'columns')[axis - 1]}"))
    if not fits:
        return None
    looked_at = images[:_LOOKED_AT]
    opened = looked_at[:, orders[0]][:, :, orders[1]]
    as_it_is = colour_agreement(looked_at)
    if as_it_is >= _AS_IT_IS and colour_agreement(opened) < as_it_is + _GAIN:
        return None
    gather = (orders[0][:, None] * width + orders[1]).ravel()
    return Recovered(Table.flat(shape, gather), {"rows": orders[0], "columns": orders[1]}, (), tuple(fits))


def line_distances(images: Images, axis: int) -> Float64Array:
    """Return the mean saturating distance of every two lines, float64 [lines, lines].

    Args:
        images: uint8 [n, h, w, c].
        axis: 1 for rows, 2 for columns.
    """
    lines = np.moveaxis(images, axis, 0).reshape(images.shape[axis], -1)
    if lines.shape[1] > _COMPARED:
        lines = lines[:, np.random.default_rng(0).choice(lines.shape[1], _COMPARED, replace=False)]
    return position_distances(np.ascontiguousarray(lines.T)[..., None])


def cut_ring(distances: Float64Array, path: Int64Array, contrasts: Float64Array) -> Int64Array:
    """Return the path, begun anew in the middle of its flat lines if it has some and both of its ends are alike.

    Args:
        distances: float64 [lines, lines].
        path: int64 [lines].
        contrasts: float64 [lines], how much the values of a line vary.
    """
    count = len(path)
    if count < 3 or distances[path[0], path[-1]] > _RING * distances[path[:-1], path[1:]].max():
        return path
    flat = contrasts[path] <= _FLAT * contrasts.max()
    if not flat.any() or flat.all():
        return path
    # The longest run of flat lines on the ring.
    begin = int(np.argmin(flat))
    turned = np.roll(flat, -begin)
    first, longest, start = 0, 0, 0
    for place in range(count + 1):
        if place == count or not turned[place]:
            if place - start > longest:
                first, longest = start, place - start
            start = place + 1
    return np.roll(path, -((begin + first + (longest + 1) // 2) % count))


def _contrasts(images: Images, axis: int) -> Float64Array:
    """Return how much the values of each line vary within images, float64 [lines]."""
    lines = np.moveaxis(images, axis, 0).reshape(images.shape[axis], len(images), -1)
    deviations: Float64Array = lines.std(2).mean(1)
    return deviations


def _gain(distances: Float64Array, path: Int64Array) -> float:
    """Return how much less neighbours on the path differ than any two lines, as a share; 1 if they are alike."""
    count = len(path)
    if count < 2:
        return 1.0
    mean = distances.sum() / (count * (count - 1))
    return float(1.0 - path_length(distances, path) / (count - 1) / max(mean, 1e-12))
