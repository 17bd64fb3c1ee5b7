"""From the graph of like pixels to the place of each in the picture.

The pixels of a picture are a sheet, but the sheet may be bent: in pictures of one kind, as of heads, all pixels of
the rim are alike, and the sheet is a bowl. Two ways give it coordinates, and of each the plane is tried that any two
of the first three coordinates make:

- ways through the graph, scaled classically from some landmarks (Isomap with landmarks: de Silva, Tenenbaum 2003);
- eigenvectors of the graph's Laplacian (Belkin, Niyogi 2003), which no bending of the sheet changes.

Every plane is turned until its points are spread as in a square, and snapped to the grid. The layout under which
most neighbours on the grid are neighbours in the graph is the answer. Small pictures are improved by swaps of two
pixels (puzzle/qap.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from coordinator.adversary.puzzle.distances import position_distances
from coordinator.adversary.puzzle.grid_layout import grid_kernel, snap_to_grid
from coordinator.adversary.puzzle.qap import swap_descent
from coordinator.adversary.textbook.pixel_graph import PixelGraph
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Float64Array, Int64Array, UInt8Array

#: Landmarks of the ways through the graph. Set once by hand; no measurement is recorded.
_LANDMARKS = 150
#: Coordinates of which any two are a plane.
_COORDINATES = 3
#: Vectors, restarts and tolerance of the search for eigenvectors: a bound on time. It multiplies by the Laplacian
#: alone: to factorise that of a graph whose edges go anywhere, as noise has it, takes minutes and gigabytes.
_VECTORS, _RESTARTS, _TOLERANCE = 64, 60, 1e-4
#: Turns in a right angle that are compared.
_ANGLES = 64
#: Most pixels of a picture whose points are assigned to the grid at the least sum, and that are swapped: both take
#: time with the third power. Larger pictures are snapped by rank.
MOST_ASSIGNED = 1100
#: Pixels over which similarity fades in the kernels of the swaps, one after the other, and the most passes of each.
_REACHES, _SWEEPS = (2.0, 1.0), 6


@dataclass(frozen=True)
class PixelLayout:
    """Where the pixels belong.

    Attributes:
        grid: int64 [h, w], the pixel at each place.
        fit: Share of the neighbours on the grid that are near in the graph.
    """

    grid: Int64Array
    fit: float


def lay_out_pixels(
    graph: PixelGraph,
    distances: Callable[[], Float64Array],
    height: int,
    width: int,
    time_left: TimeLeft,
) -> PixelLayout | None:
    """Return the layout that agrees best with the graph, up to the symmetries of a rectangle; None without any.

    Args:
        graph: The graph of pixels.
        distances: Returns how unlike every two pixels are, float64 [P, P]. It is asked of small pictures alone.
        height: Rows of the picture.
        width: Columns of the picture.
        time_left: Asked between layouts.
    """
    layouts = []
    for points in _planes(graph, time_left):
        grid = _snap_by_rank(points, height, width)
        layouts.append((PixelLayout(grid, _share_near(graph, grid)), points))
    if not layouts:
        return None
    best, points = max(layouts, key=lambda each: each[0].fit)
    if height * width > MOST_ASSIGNED or not time_left():
        return best
    assigned = np.argsort(snap_to_grid(points, height, width)).reshape(height, width)
    swapped = _swap(assigned, distances(), height, width)
    return max(best, PixelLayout(swapped, _share_near(graph, swapped)), key=lambda layout: layout.fit)


def _planes(graph: PixelGraph, time_left: TimeLeft) -> Iterator[Float64Array]:
    """Yield points of the plane, float64 [P, 2], by every two of the coordinates of either way."""
    for coordinates in (_by_ways, _by_eigenvectors):
        if not time_left():
            return
        points = coordinates(graph)
        if points is not None:
            for one, other in combinations(range(points.shape[1]), 2):
                yield points[:, [one, other]]


def _by_ways(graph: PixelGraph) -> Float64Array | None:
    """Return coordinates by the ways to landmarks, float64 [P, 3]; pixels beside the piece lie in its middle."""
    inside = np.flatnonzero(graph.piece)
    landmarks = np.random.default_rng(0).choice(inside, min(_LANDMARKS, len(inside)), replace=False)
    squares = dijkstra(graph.lengths, directed=False, indices=landmarks) ** 2  # [L, P]
    squares[:, ~graph.piece] = 0.0
    between = squares[:, landmarks]
    centre = np.eye(len(landmarks)) - 1.0 / len(landmarks)
    values, vectors = np.linalg.eigh(-0.5 * centre @ between @ centre)
    values, vectors = values[::-1][:_COORDINATES], vectors[:, ::-1][:, :_COORDINATES]
    if len(values) < 2 or values[1] <= 0:
        return None
    vectors, values = vectors[:, values > 0], values[values > 0]
    points: Float64Array = -0.5 * (squares.T - between.mean(1)) @ (vectors / np.sqrt(values))
    points[~graph.piece] = points[graph.piece].mean(0)
    return points


def _by_eigenvectors(graph: PixelGraph) -> Float64Array | None:
    """Return coordinates by eigenvectors of the Laplacian of equal edges, float64 [P, 3]; None if none are found."""
    inside = np.flatnonzero(graph.piece)
    if len(inside) < 2 * _COORDINATES + 2:
        return None
    edges = (graph.lengths[inside][:, inside] > 0).astype(np.float64)
    degrees = np.asarray(edges.sum(1)).ravel()
    points = np.zeros((len(graph.piece), _COORDINATES))
    if len(inside) <= MOST_ASSIGNED:
        laplacian = np.diag(degrees) - edges.toarray()
        points[inside] = np.linalg.eigh(laplacian)[1][:, 1 : _COORDINATES + 1]
        return points
    # The largest eigenvalues of this are the least of the Laplacian.
    turned = (edges + sparse.diags(2 * degrees.max() - degrees)).tocsr()
    options = {"v0": np.random.default_rng(0).normal(size=len(inside)), "which": "LA"}
    size = {"ncv": min(_VECTORS, len(inside)), "maxiter": _RESTARTS, "tol": _TOLERANCE}
    try:
        values, vectors = eigsh(turned, k=_COORDINATES + 1, **options, **size)
    except ArpackNoConvergence as rest:
        values, vectors = rest.eigenvalues, rest.eigenvectors
    if len(values) < _COORDINATES + 1:
        return None
    points[inside] = vectors[:, np.argsort(-values)[1:]]
    return points


def _snap_by_rank(points: Float64Array, height: int, width: int) -> Int64Array:
    """Return the grid of the points, int64 [h, w]: each row holds those that follow in the one coordinate."""
    turned = _turn(points / np.maximum(points.std(0), 1e-12))
    rows = np.argsort(turned[:, 0], kind="stable").reshape(height, width)
    columns = np.argsort(turned[rows, 1], axis=1, kind="stable")
    return np.take_along_axis(rows, columns, 1)


def _turn(points: Float64Array) -> Float64Array:
    """Return the points in the turn within a right angle in which both coordinates are spread most evenly.

    An even spread has the least fourth moment. That of a square on its corner is peaked.
    """
    best, least = points, np.inf
    for angle in np.linspace(0.0, np.pi / 2, _ANGLES, endpoint=False):
        sine, cosine = np.sin(angle), np.cos(angle)
        turned = points @ np.array([[cosine, -sine], [sine, cosine]])
        turned = turned - turned.mean(0)
        peak = float(((turned**4).mean(0) / np.maximum((turned**2).mean(0), 1e-12) ** 2).sum())
        if peak < least:
            best, least = turned, peak
    return best


def _share_near(graph: PixelGraph, grid: Int64Array) -> float:
    """Return the share of the neighbours on a grid that are near in the graph."""
    one = np.concatenate([grid[:, :-1].ravel(), grid[:-1].ravel()])
    other = np.concatenate([grid[:, 1:].ravel(), grid[1:].ravel()])
    return float(np.asarray(graph.near[one, other]).mean())


def value_distances(values: UInt8Array) -> Float64Array:
    """Return how unlike the values uint8 [P, d] of every two pixels are, float64 [P, P]."""
    return position_distances(np.ascontiguousarray(values.T)[..., None])


def _swap(grid: Int64Array, distances: Float64Array, height: int, width: int) -> Int64Array:
    """Return the grid improved by swaps of two pixels, first under a wide kernel, then under a narrow one."""
    distances = distances / max(float(np.median(distances)), 1e-9)
    cells = np.argsort(grid.ravel())
    for reach in _REACHES:
        cells = swap_descent(distances, grid_kernel(height, width, reach), cells, sweeps=_SWEEPS)
    return np.argsort(cells).reshape(height, width)
