"""One order of the pixels for each bit plane (T1), as a permutation at bit level within planes has it.

Ciphers by chaotic maps move bits instead of pixels, so that values change as well (reviewed in Entropy 16:770,
2014). But the highest bits of two neighbours are equal most of the time, as their values are near. So each plane is
laid out by itself, from the highest down, as an order of whole pixels is (pixel_graph.py, pixel_layout.py). Each
layout is right up to the symmetries of a rectangle. They are brought together by edges: where 127 meets 128 all bits
change, and textures change many.

The low bits of neighbours have little in common, and their planes are left out: what is not known of a value is
guessed by the middle. A picture of two or three planes is coarse, and still shows whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.opened import RecoveredBits
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.recover.pool_reading import random_order
from coordinator.adversary.textbook.pixel_graph import PixelGraph, join_nearest, nearest_others
from coordinator.adversary.textbook.pixel_layout import MOST_ASSIGNED, PixelLayout, lay_out_pixels
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import BoolArray, Float32Array, Float64Array, Images, Int64Array, Rows

#: Fewer images than this tell too little: one bit of each is known.
LEAST_IMAGES = 8
#: Fewer pixels than this are all among the nearest of each other; with more nothing is sought, it takes minutes.
_LEAST_PIXELS, _MOST_PIXELS = 64, 256**2
#: Most bits of a pixel that are compared, drawn over images and colours, and most images that are read. Neighbours in
#: large pictures are more alike, and there are more pixels to compare: a bound on time.
_BITS, _BITS_OF_LARGE, _IMAGES = 1200, 300, 500
#: Images whose edges are compared, and those of which it is measured how much neighbouring values agree as they are.
_EDGES, _LOOKED_AT, _AS_IT_IS = 100, 16, 0.75
#: Planes that are tried, from the highest.
_PLANES = (7, 6, 5)
#: Least fit of the highest plane (see `PixelLayout.fit`), if its points were assigned to the grid, and if they were
#: snapped by rank: those of pixel_order.py. Of 100 images, planes that named them had .85 and more, wrong ones .79.
_LEAST_FIT, _LEAST_FIT_BY_RANK = 0.85, 0.55
#: A lower plane is used if its fit is at least this share of what the highest must have, and if its edges suit one
#: symmetry so many times as well as any other. Set by hand on CIFAR-10, tissue and X-rays, 100 images of each.
_LOWER, _CLEAR = 0.94, 1.5
_FIT = "the share of neighbouring pixels whose highest bits are near each other"


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> RecoveredBits | Recovered | None:
    """Recover the order of each plane, as far as planes can be laid out.

    Args:
        pool: Sealed images, uint8.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps.

    Returns:
        The key; None if n is below LEAST_IMAGES, the pixels are few or in order, or nothing joins the highest bits.
    """
    height, width, _ = shape = pool.spec.image_shape
    images = pool.images(np.sort(random_order(pool_rows)[:_IMAGES]))
    if len(images) < LEAST_IMAGES or height * width < _LEAST_PIXELS or not time_left():
        return None
    if colour_agreement(images[:_LOOKED_AT]) >= _AS_IT_IS:
        return None
    if height * width > _MOST_PIXELS:
        return unmoved(shape, 1, f"not sought: {height * width} pixels, at most {_MOST_PIXELS}")
    least = _LEAST_FIT if height * width <= MOST_ASSIGNED else _LEAST_FIT_BY_RANK
    highest = _lay_out(images, _PLANES[0], time_left)
    if highest is None:
        return None
    found = [(_PLANES[0], highest.grid)]
    for plane in _PLANES[1:] if highest.fit >= least else ():
        layout = _lay_out(images, plane, time_left)
        if layout is None or layout.fit < _LOWER * least or not time_left():
            break
        turned = _bring_together(images[:_EDGES], found[-1], (plane, layout.grid))
        if turned is None:
            break
        found.append((plane, turned))
    return RecoveredBits(_order_of_bits(shape, found), (Fit(highest.fit, least, _FIT),))


def _order_of_bits(shape: tuple[int, int, int], found: Sequence[tuple[int, Int64Array]]) -> Int64Array:
    """Return the order of all bits, int64 [V, 8], from planes and their grids; see `RecoveredBits`."""
    height, width, colours = shape
    order = np.full((height * width, colours, 8), -1, np.int64)
    for plane, grid in found:
        order[..., plane] = 8 * (colours * grid.reshape(-1, 1) + np.arange(colours)) + plane
    return order.reshape(-1, 8)


def _lay_out(images: Images, plane: int, time_left: TimeLeft) -> PixelLayout | None:
    """Return the layout of one plane of images uint8 [n, h, w, c]; None if time runs out, or it falls to pieces."""
    height, width = images.shape[1:3]
    bits = _plane_bits(images, plane)
    graph = _join_bits(bits, time_left)
    if graph is None:
        return None

    def distances() -> Float64Array:
        """Return the root of the share of bits in which every two pixels differ, float64 [P, P]."""
        differ: Float64Array = (1 - (bits @ bits.T).astype(np.float64) / bits.shape[1]) / 2
        return np.sqrt(np.maximum(differ, 0))

    return lay_out_pixels(graph, distances, height, width, time_left)


def _plane_bits(images: Images, plane: int) -> Float32Array:
    """Return a draw of one bit of every pixel over images and colours, float32 [P, d] of -1 and 1."""
    pixels = images.shape[1] * images.shape[2]
    bits = _bit_plane(images, plane).transpose(1, 2, 0, 3).reshape(pixels, -1)
    most = _BITS if pixels <= MOST_ASSIGNED else _BITS_OF_LARGE
    if bits.shape[1] > most:
        bits = bits[:, np.sort(np.random.default_rng(0).permutation(bits.shape[1])[:most])]
    signs: Float32Array = 2 * bits.astype(np.float32) - 1
    return signs


def _bit_plane(images: Images, plane: int) -> Images:
    """Return one bit of every value, 0 or 1, uint8 of the same shape; plane 7 is that of 128."""
    bits: Images = (images >> np.uint8(plane)) & np.uint8(1)
    return bits


def _join_bits(bits: Float32Array, time_left: TimeLeft) -> PixelGraph | None:
    """Return the graph of pixels by the share of their bits that differ; None if time runs out or it falls apart."""
    candidates = nearest_others(len(bits), lambda strip: -(bits[strip] @ bits.T), time_left)
    if candidates is None:
        return None
    same = np.stack([np.einsum("pd,pd->p", bits, bits[other]) for other in candidates.T], 1)
    differ: Float32Array = (1 - same / bits.shape[1]).astype(np.float32) / 2
    return join_nearest(candidates, differ)


def _bring_together(
    images: Images, upper: tuple[int, Int64Array], lower: tuple[int, Int64Array]
) -> Int64Array | None:
    """Return the grid of the lower plane in the symmetry in which its edges lie on those of the upper one.

    Args:
        images: uint8 [n, h, w, c].
        upper: A plane and its grid, int64 [h, w].
        lower: The same of the lower plane.

    Returns:
        int64 [h, w]; None if no symmetry is clearly the best.
    """
    wanted = _edges(images, *upper)
    grids = list(_symmetries(lower[1]))
    suits = [_correlation(wanted, _edges(images, lower[0], grid)) for grid in grids]
    best, second = np.sort(suits)[::-1][:2]
    return grids[int(np.argmax(suits))] if best >= _CLEAR * max(float(second), 0.0) else None


def _symmetries(grid: Int64Array) -> Iterator[Int64Array]:
    """Yield a grid in all turns and mirror images that have its shape."""
    for each in (grid, grid[:, ::-1]):
        for turns in range(4):
            turned = np.rot90(each, turns)
            if turned.shape == grid.shape:
                yield turned


def _edges(images: Images, plane: int, grid: Int64Array) -> Float64Array:
    """Return how many of the neighbours of each place have another bit, less the mean over images: [n, h, w, c]."""
    n, height, width, colours = images.shape
    flat = _bit_plane(images, plane).reshape(n, height * width, colours)
    bits = flat[:, grid.ravel()].reshape(images.shape)
    edges = np.zeros(images.shape)
    down, across = _differ(bits[:, 1:], bits[:, :-1]), _differ(bits[:, :, 1:], bits[:, :, :-1])
    edges[:, 1:] += down
    edges[:, :-1] += down
    edges[:, :, 1:] += across
    edges[:, :, :-1] += across
    centred: Float64Array = edges - edges.mean(0)
    return centred


def _differ(one: Images, other: Images) -> BoolArray:
    differ: BoolArray = one != other
    return differ


def _correlation(one: Float64Array, other: Float64Array) -> float:
    """Return Pearson's r of two centred arrays; 0 where either is constant."""
    spread = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / spread if spread > 0 else 0.0
