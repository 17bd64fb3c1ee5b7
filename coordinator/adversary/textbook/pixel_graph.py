"""Which pixels are neighbours, by how alike their values are over many images, wherever a permutation moved them.

Every pixel has its nearest others by the mean of log(1 + |d|). Two pixels that are alike by chance share few of their
nearest others, and two neighbours share most. Edges between pixels that share few are therefore left out: one edge
across the picture shortens all ways, and bends the layout.

Rough distances choose a few candidates for each pixel, so that pictures of 224×224 take seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.value_distances import LOG_DIFFERENCES
from crypto.arrays import AnyArray, BoolArray, Float32Array, Int64Array, UInt8Array

#: Nearest others of a pixel: those that are compared, and those that it is joined to.
_COMPARED, _JOINED = 12, 6
#: Of the compared ones and the two pixels themselves, those that two joined pixels must share, first the stricter.
#: With 7, single pixels fall off in small pools; with 0, stained tissue of 32×32 needed 300 images instead of 100.
_SHARED = (5, 0)
#: Share of the pixels that must be in one piece.
_IN_ONE_PIECE = 0.95
#: Candidates by rough distances, and values that these compare. Chosen by hand.
_CANDIDATES, _ROUGH_VALUES = 32, 128
#: Rough distances in memory at a time: 160 MB.
_MOST_DISTANCES = 40_000_000
#: The distance to this nearest other is what is typical around a pixel.
_TYPICAL = 5
#: Distances grow more slowly than the way between two pixels (puzzle/grid_layout.py).
_STRETCH = 1.5


@dataclass(frozen=True)
class PixelGraph:
    """Pixels that are joined to those that are like them.

    Attributes:
        lengths: float [P, P], sparse and symmetric: the lengths of the edges.
        near: bool [P, P], sparse and symmetric: which pixels are among the nearest of each other.
        piece: bool [P], the largest part that is in one piece.
    """

    lengths: sparse.csr_matrix
    near: sparse.csr_matrix
    piece: BoolArray


def join_pixels(values: UInt8Array, time_left: TimeLeft) -> PixelGraph | None:
    """Return the graph of pixels; None if time runs out, or it falls to pieces.

    Args:
        values: uint8 [P, d], the values of every pixel over images and colours.
        time_left: Asked between strips of distances.
    """
    candidates = _candidates(values, time_left)
    if candidates is None:
        return None
    return join_nearest(candidates, _log_distances(values, candidates, LOG_DIFFERENCES.astype(np.float32)))


def join_nearest(candidates: Int64Array, distances: Float32Array) -> PixelGraph | None:
    """Return the graph of pixels that are joined to their nearest candidates; None if it falls to pieces.

    Args:
        candidates: int64 [P, k], others of each pixel, its nearest among them.
        distances: float32 [P, k], how far each of them is.
    """
    nearest, near, shared = _nearest(candidates, distances)
    typical = near[:, min(_TYPICAL, near.shape[1] - 1)] + 1e-6
    joined = min(_JOINED, near.shape[1])
    lengths = (
        near[:, :joined] / np.sqrt(typical[:, None] * typical[nearest[:, :joined]])
    ) ** _STRETCH + 1e-4
    for least in _SHARED:
        kept = shared >= least
        graph = _symmetric(lengths, nearest[:, :joined], kept)
        pieces = connected_components(graph, directed=False)[1]
        piece = pieces == np.bincount(pieces).argmax()
        if piece.mean() >= _IN_ONE_PIECE:
            every = np.ones(nearest.shape, np.bool_)
            return PixelGraph(graph, _symmetric(every, nearest, every), piece)
    return None


def sheets(candidates: Int64Array, distances: Float32Array) -> Int64Array:
    """Return which part of the graph each item belongs to, int64 [P], if only close neighbours are joined.

    Args:
        candidates: See `join_nearest`.
        distances: See `join_nearest`.
    """
    nearest, near, shared = _nearest(candidates, distances)
    joined = shared.shape[1]
    graph = _symmetric(near[:, :joined] + 1e-4, nearest[:, :joined], shared >= _SHARED[0])
    labels: Int64Array = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _nearest(
    candidates: Int64Array, distances: Float32Array
) -> tuple[Int64Array, Float32Array, Int64Array]:
    """Return the nearest candidates of each pixel, their distances, and what it shares with each (`_shared`)."""
    order = np.argsort(distances, axis=1, kind="stable")[:, :_COMPARED]
    nearest = np.take_along_axis(candidates, order, 1)
    return nearest, np.take_along_axis(distances, order, 1), _shared(nearest)


def _candidates(values: UInt8Array, time_left: TimeLeft) -> Int64Array | None:
    """Return the nearest others of every pixel by squared differences, int64 [P, candidates]; None out of time."""
    count, size = values.shape
    chosen = np.sort(np.random.default_rng(0).permutation(size)[:_ROUGH_VALUES])
    rough = values[:, chosen].astype(np.float32)
    rough -= rough.mean(0)
    squares = (rough * rough).sum(1)
    return nearest_others(count, lambda strip: squares - 2 * (rough[strip] @ rough.T), time_left)


def nearest_others(
    count: int, distances_of: Callable[[Int64Array], Float32Array], time_left: TimeLeft
) -> Int64Array | None:
    """Return the nearest others of every pixel by rough distances, int64 [P, candidates]; None out of time.

    Args:
        count: P, the number of pixels.
        distances_of: Returns the distances of some pixels int64 [p] to all, float32 [p, P], which are overwritten.
        time_left: Asked between strips of pixels.
    """
    kept = min(_CANDIDATES, count - 1)
    nearest = np.empty((count, kept), np.int64)
    step = max(1, _MOST_DISTANCES // count)
    for first in range(0, count, step):
        if not time_left():
            return None
        strip = np.arange(first, min(first + step, count))
        distances = distances_of(strip)
        distances[np.arange(len(strip)), strip] = np.inf
        nearest[strip] = np.argpartition(distances, kept - 1, axis=1)[:, :kept]
    return nearest


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _log_distances(values: UInt8Array, candidates: Int64Array, table: Float32Array) -> Float32Array:
    """Return the sum of table entries of every pixel and each of its candidates, float32 [P, candidates]."""
    out = np.zeros(candidates.shape, np.float32)
    for p in range(len(candidates)):
        for k in range(candidates.shape[1]):
            other = candidates[p, k]
            for s in range(values.shape[1]):
                out[p, k] += table[abs(np.int32(values[p, s]) - np.int32(values[other, s]))]
    return out


def _shared(nearest: Int64Array) -> Int64Array:
    """Return how many of their nearest others, and of each other, a pixel shares with each it may be joined to.

    Args:
        nearest: int64 [P, compared].

    Returns:
        int64 [P, joined].
    """
    count, compared = nearest.shape
    rows = np.repeat(np.arange(count), compared)
    members = sparse.csr_matrix((np.ones(nearest.size, np.int64), (rows, nearest.ravel())), (count, count))
    members = members + sparse.eye(count, format="csr", dtype=np.int64)
    columns = [
        np.asarray(members.multiply(members[nearest[:, k]]).sum(1)).ravel()
        for k in range(min(_JOINED, compared))
    ]
    return np.stack(columns, 1)


def _symmetric(lengths: AnyArray, nearest: Int64Array, kept: BoolArray) -> sparse.csr_matrix:
    """Return the kept edges as a sparse symmetric matrix."""
    count = len(nearest)
    rows = np.broadcast_to(np.arange(count)[:, None], nearest.shape)
    graph = sparse.csr_matrix((lengths[kept], (rows[kept], nearest[kept])), (count, count))
    return graph.maximum(graph.T).tocsr()
