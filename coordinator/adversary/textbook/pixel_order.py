"""One permutation of all pixels for all images (T1), a chaotic map for example.

Textbook: a permutation changes no statistics between images. Two pixels that were neighbours are alike in every
image, wherever they stand now. From enough images each pixel has its neighbours (pixel_graph.py), and they are laid
out in the plane (pixel_layout.py).

Larger pictures need fewer images, because their neighbours are more alike: CIFAR-10 enlarged to 224×224 falls to 10,
stained tissue of that size to 30, and to 30 and 100 at 32×32. Pictures of one kind with black borders (scans of
heads) withstand this: all pixels of the border are alike, and those of the rim too. The fit says so.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.textbook.pixel_graph import join_pixels
from coordinator.adversary.textbook.pixel_layout import MOST_ASSIGNED, lay_out_pixels, value_distances
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Images, Rows, UInt8Array
from crypto.kernels.table import Table

#: Fewer images than this tell too little about a pixel.
LEAST_IMAGES = 4
#: With more pixels than this nothing is sought: it takes minutes.
_MOST_PIXELS = 256**2
#: Most values of a pixel that are compared, drawn over images and colours, and most images that are read.
_VALUES, _IMAGES = 300, 300
#: Images of which it is measured how much neighbouring values agree as they are. From this on their pixels are in
#: order: those of right pictures agree at .79 and more, those of one iteration of a chaotic map at .45.
_LOOKED_AT, _AS_IT_IS = 16, 0.75
#: Fewer pixels than this are all among the nearest of each other.
_LEAST_PIXELS = 64
#: Least share of neighbours on the grid that are near in the graph, of layouts that were assigned to the grid, and of
#: those that were snapped by rank. Assigned ones that named their images had .9 and more, wrong ones at most .77;
#: ranked ones had .55 and more, wrong ones at most .39 (CIFAR-10, tissue, MRI).
_LEAST_FIT, _LEAST_FIT_BY_RANK = 0.85, 0.55
_FIT = "the share of neighbouring pixels that are near each other by their values"


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover the order of the pixels.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps.

    Returns:
        The key; None if n is below LEAST_IMAGES, the pixels are few or in order, or nothing joins them.
    """
    height, width, _ = shape = pool.spec.image_shape
    images = pool.images(np.sort(random_order(pool_rows)[:_IMAGES]))
    if len(images) < LEAST_IMAGES or height * width < _LEAST_PIXELS or not time_left():
        return None
    if colour_agreement(images[:_LOOKED_AT]) >= _AS_IT_IS:
        return None
    if height * width > _MOST_PIXELS:
        return unmoved(shape, 1, f"not sought: {height * width} pixels, at most {_MOST_PIXELS}")
    values = pixel_values(images)
    graph = join_pixels(values, time_left)
    layout = (
        None
        if graph is None
        else lay_out_pixels(graph, lambda: value_distances(values), height, width, time_left)
    )
    if layout is None:
        return None
    least = _LEAST_FIT if height * width <= MOST_ASSIGNED else _LEAST_FIT_BY_RANK
    fit = Fit(layout.fit, least, _FIT)
    return Recovered(Table.flat(shape, layout.grid.ravel()), {}, (), (fit,))


def pixel_values(images: Images) -> UInt8Array:
    """Return a draw of the values of every pixel over images uint8 [n, h, w, c] and colours, uint8 [P, d]."""
    values = images.transpose(1, 2, 0, 3).reshape(images.shape[1] * images.shape[2], -1)
    if values.shape[1] > _VALUES:
        values = values[:, np.sort(np.random.default_rng(0).permutation(values.shape[1])[:_VALUES])]
    return np.ascontiguousarray(values)
