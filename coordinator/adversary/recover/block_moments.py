"""Moments of blocks that one matrix turns, and how well a matrix explains those that it was not chosen by.

They are what moment_matching.py matches. The cross-covariance of diagonal neighbours is kept out of the matching: a
wrong matrix can agree on what it was chosen by, but hardly on that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Fit
from crypto.arrays import AnyArray, Float32Array, Float64Array
from crypto.kernels.blocks import to_blocks

MID_GRAY = np.float32(127.5)
#: Smallest eigenvalue that is told from 0, as a share of the largest. Set once; not tuned further.
_SMALLEST = 1e-6
#: Least fit to be believed. It and the power below were chosen by hand on 156 pools of five kinds of pictures, then
#: tried once on 156 others: of 30 pools that opened at a median SSIM below .70 it doubted 27, and all 16 whose public
#: images were noise; of 86 that opened at .85 or more it doubted 2.
LEAST_FIT = 0.30
#: Eigenvalues are raised to this power before the fit is taken: weaker axes count for more than in the matching.
_FIT_POWER = 0.15
_FIT = "the cross-covariance of diagonal neighbours, which the matching does not use"


@dataclass(frozen=True)
class Moments:
    """Moments of blocks of V values about mid-gray, float64.

    Attributes:
        means: [N, V], the mean block at each of the N places.
        covariance: [V, V], of a block with itself, about the mean of all blocks.
        right: [V, V], of a block with its right neighbour.
        below: [V, V], of a block with the one below it.
        diagonal: [V, V], of a block with the one below its right neighbour. It is kept out of the matching.
    """

    means: Float64Array
    covariance: Float64Array
    right: Float64Array
    below: Float64Array
    diagonal: Float64Array


def moments(chunks: Iterable[AnyArray], block: int) -> Moments:
    """Return the moments of images [n, h, w, c] of any number type, given a chunk at a time. One image is enough."""
    sums: list[AnyArray] = []
    for images in chunks:
        height, width = images.shape[1] // block, images.shape[2] // block
        blocks = to_blocks(images, block).astype(np.float32) - MID_GRAY
        grid = blocks.reshape(len(images), height, width, -1)
        new = [
            grid.sum(0, dtype=np.float64),
            _products(grid, grid),
            _products(grid[:, :, :-1], grid[:, :, 1:]),
            _products(grid[:, :-1], grid[:, 1:]),
            _products(grid[:, :-1, :-1], grid[:, 1:, 1:]),
            np.array(len(images)),
        ]
        sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
    first, itself, right, below, diagonal, n = sums
    height, width, size = first.shape
    mean = first.sum((0, 1)) / (n * height * width)
    shift = np.outer(mean, mean)
    pairs = [
        n * height * width,
        n * height * (width - 1),
        n * (height - 1) * width,
        n * (height - 1) * (width - 1),
    ]
    second = [
        part / pair - shift if pair else np.zeros((size, size))
        for part, pair in zip((itself, right, below, diagonal), pairs, strict=True)
    ]
    return Moments(first.reshape(-1, size) / n, *second)


def _products(first: Float32Array, second: Float32Array) -> Float64Array:
    """Return float64 [V, V], the sum of outer products of float32 [..., V] and [..., V]."""
    size = first.shape[-1]
    return (first.reshape(-1, size).T @ second.reshape(-1, size)).astype(np.float64)


def fits_of(matrix: Float32Array, sealed: Moments, plain: Moments) -> tuple[Fit, ...]:
    """Return how well a matrix explains the moments that it was not chosen by; nothing where there are none.

    The fit is the cosine between the sealed blocks' cross-covariance of diagonal neighbours and the public blocks',
    turned by the matrix, with strong axes scaled down further than in the matching.

    Args:
        matrix: float32 [V, V] with sealed block = plain block · matrix.
        sealed: Of the pool.
        plain: Of the public images.
    """
    tones = [tone_of(*axes_of(part.covariance), _FIT_POWER) for part in (sealed, plain)]
    here, there = (tone @ part.diagonal @ tone for tone, part in zip(tones, (sealed, plain), strict=True))
    norm = float(np.linalg.norm(here) * np.linalg.norm(there))
    if not norm:
        return ()
    return (Fit(float((here * (matrix.T @ there @ matrix)).sum()) / norm, LEAST_FIT, _FIT),)


def axes_of(covariance: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return eigenvalues [V], limited from below, and eigenvectors as columns [V, V], the strongest first."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values[::-1], values[-1] * _SMALLEST)
    return values, vectors[:, ::-1]


def tone_of(values: Float64Array, axes: Float64Array, power: float) -> Float64Array:
    """Return the matrix [V, V] that raises the eigenvalues of what it is applied to from both sides to a power."""
    return np.asarray((axes * values ** ((power - 1.0) / 2.0)) @ axes.T)
