"""From distances of things to their cells on a grid: geodesic scaling, then quadratic assignment.

The distances of a pool are trustworthy between near neighbours only. `lay_out` therefore draws a graph of
nearest neighbours, and path lengths in that graph replace the distances (Isomap: Tenenbaum, de Silva, Langford
2000). Classical scaling turns path lengths into points of the plane. A Hungarian assignment snaps the points to
the grid, and a smooth warp takes out the bends that path lengths leave. Swaps of two things then lower the
quadratic assignment cost sum D[k,l]·exp(-r²/2) (`qap.py`). One start ends in a local optimum, so several
neighbourhood sizes and perturbed restarts compete.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components, shortest_path

from coordinator.adversary.puzzle.qap import assignment_cost, swap_descent
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float64Array, Int64Array
from crypto.symmetry import rotations_and_transposes

#: Sizes of the nearest-neighbour graphs that are tried, the most dependable first.
#: Set once by hand; no measurement is recorded.
NEIGHBOURS = (8, 6, 4, 5, 12)
#: Distances grow more slowly than the way between two pixels; this power makes them nearly proportional.
#: With it, every pool of MRI slices that was tried gave K2 from one slice; hop counts bent the layout.
_STRETCH = 1.5
#: Rotations in half a turn that are compared by their spread, and the best of them that get an assignment.
#: An assignment costs far more than a spread. Set once by hand; no measurement is recorded.
_ANGLES, _ASSIGNED_ANGLES = 64, 6
#: Degrees of the polynomial warps, fitted one after the other: coarse bends first. Set once by hand; no
#: measurement is recorded.
_WARP_DEGREES = (1, 2, 3, 3, 3)
#: Multiply-adds that fruitless restarts may cost before the search ends: a bound on time, not on quality.
_RESTART_WORK = 20_000_000
#: Fewest and most restarts without improvement that this work is turned into. Set once by hand; no measurement
#: is recorded.
_LEAST_PATIENCE, _MOST_PATIENCE = 2, 60
#: Things up to which the search always restarts: it costs next to nothing there, and is then exact.
_SMALL = 16
#: Starts that must end at the same cost for the search to stop without restarts. Set once by hand; no
#: measurement is recorded.
_AGREEING_STARTS = 3
#: One restart in so many begins from a random layout, improved under a wide kernel of this reach (in cells). The
#: others begin from the best layout. Set once by hand; no measurement is recorded.
_RANDOM_EVERY, _WIDE_REACH = 4, 3.0
#: Things that `perturb` exchanges. Set once by hand; no measurement is recorded.
_EXCHANGED = 8


def grid_kernel(height: int, width: int, reach: float = 1.0) -> Float64Array:
    """Return float64 [cells, cells]: exp(-r²/2·reach²) between grid cells r apart, 0 on the diagonal."""
    row, column = np.divmod(np.arange(height * width), width)
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    kernel: Float64Array = np.exp(-squared / (2.0 * reach**2))
    np.fill_diagonal(kernel, 0.0)
    return kernel


def path_lengths(distances: Float64Array, neighbours: int) -> Float64Array | None:
    """Return the shortest paths in the graph of nearest neighbours, float64 [S, S]; None if it is not connected."""
    size = len(distances)
    near = np.maximum(np.array(distances, np.float64), 1e-9) ** _STRETCH
    np.fill_diagonal(near, np.inf)
    order = np.argsort(near, axis=1, kind="stable")[:, : min(neighbours, size - 1)]
    graph = np.zeros((size, size))
    np.put_along_axis(graph, order, np.take_along_axis(near, order, 1), 1)
    graph = np.maximum(graph, graph.T)
    if connected_components(graph, directed=False)[0] > 1:
        return None
    lengths: Float64Array = shortest_path(graph, directed=False)
    return lengths


def classical_scaling(lengths: Float64Array) -> Float64Array:
    """Return points of the plane, float64 [S, 2], by classical multidimensional scaling of distances [S, S]."""
    size = len(lengths)
    centre = np.eye(size) - 1.0 / size
    gram = -0.5 * centre @ (lengths**2) @ centre
    values, vectors = eigh(gram, subset_by_index=[size - 2, size - 1], driver="evx")
    if len(values) < 2:  # its bisection may find none of several that are equal
        values, vectors = eigh(gram, driver="evd")
        values, vectors = values[-2:], vectors[:, -2:]
    points: Float64Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return points


def snap_to_grid(points: Float64Array, height: int, width: int) -> Int64Array:
    """Return every point's own grid cell, int64 [S], under the best rotation and a smooth warp.

    Args:
        points: float64 [S, 2], S = height·width.
        height: Rows of the grid.
        width: Columns of the grid.
    """
    cells = np.stack(np.divmod(np.arange(height * width), width), 1).astype(np.float64)
    cells -= cells.mean(0)
    spans = np.maximum(cells.std(0), 1e-9)
    best_cost, best, best_points = np.inf, np.arange(len(points)), points
    for angle in _likely_angles(points):
        rotated = _rotate(points, angle)
        rotated = rotated / np.maximum(rotated.std(0), 1e-9) * spans
        chosen, total = _assign(rotated, cells)
        if total < best_cost - 1e-9:
            best_cost, best, best_points = total, chosen, rotated
    best_points = best_points / spans
    for degree in _WARP_DEGREES:
        terms = _polynomial(best_points, degree)
        warp = np.linalg.lstsq(terms, cells[best], rcond=None)[0]
        best, _ = _assign(terms @ warp, cells)
    return best


def _rotate(points: Float64Array, angle: float) -> Float64Array:
    """Return the points rotated by an angle in radians, centred."""
    rotated = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centred: Float64Array = rotated - rotated.mean(0)
    return centred


def _likely_angles(points: Float64Array) -> list[float]:
    """Return the few rotations in half a turn under which both coordinates are spread most evenly.

    An even spread has the least fourth moment (1.8 variances squared). That of a rotated square is peaked. This
    is far cheaper than an assignment for every angle.
    """
    angles = np.linspace(0.0, np.pi, _ANGLES, endpoint=False)
    x, y = (points - points.mean(0)).T
    sine, cosine = np.sin(angles)[:, None], np.cos(angles)[:, None]
    peaks = np.zeros(_ANGLES)
    for squared in ((x * cosine + y * sine) ** 2, (y * cosine - x * sine) ** 2):  # [angles, S]
        peaks += (squared**2).mean(1) / np.maximum(squared.mean(1), 1e-9) ** 2
    return [float(angles[i]) for i in np.argsort(peaks, kind="stable")[:_ASSIGNED_ANGLES]]


def _assign(points: Float64Array, cells: Float64Array) -> tuple[Int64Array, float]:
    """Return the cell of every point at the least sum of squared distances, and that sum."""
    squared = ((points[:, None] - cells[None]) ** 2).sum(-1)
    rows, chosen = linear_sum_assignment(squared)
    return chosen.astype(np.int64), float(squared[rows, chosen].sum())


def _polynomial(points: Float64Array, degree: int) -> Float64Array:
    """Return every monomial x^i·y^j of the points up to a total degree, float64 [S, terms]."""
    x, y = points.T
    return np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], 1)


@dataclass
class _BestLayout:
    """The best layout of several starts.

    Attributes:
        distances: float64 [S, S], scaled.
        kernel: float64 [S, S], of the grid.
        places: int64 [S], the best layout so far.
        cost: Its quadratic assignment cost.
        agreeing: The number of starts that ended at this cost.
    """

    distances: Float64Array
    kernel: Float64Array
    places: Int64Array = field(init=False)
    cost: float = np.inf
    agreeing: int = 0

    def __post_init__(self) -> None:
        self.places = np.arange(len(self.distances))

    def improve_from(self, start: Int64Array) -> bool:
        """Run the swaps from a start, keep the result if it is the best, and return whether it is."""
        places = swap_descent(self.distances, self.kernel, start)
        cost = assignment_cost(self.distances, self.kernel, places)
        if cost < self.cost - 1e-9 * abs(self.cost if np.isfinite(self.cost) else 0.0):
            self.places, self.cost, self.agreeing = places, cost, 1
            return True
        self.agreeing += bool(np.isclose(cost, self.cost, rtol=1e-9))
        return False


def lay_out(
    distances: Float64Array, height: int, width: int, time_left: TimeLeft = always, seed: int = 0
) -> Int64Array:
    """Return the grid cell (row-major) of every thing, int64 [S], S = height·width.

    The layout is right up to the grid's own symmetries. The same input and seed give the same layout.

    Args:
        distances: float64 [S, S], symmetric.
        height: Rows of the grid.
        width: Columns of the grid.
        time_left: Asked between starts.
        seed: Of the restarts.
    """
    size = height * width
    if size == 1:
        return np.zeros(1, np.int64)
    unit = np.median(distances[~np.eye(size, dtype=bool)])
    scaled = np.ascontiguousarray(distances / max(float(unit), 1e-12), np.float64)
    best = _BestLayout(scaled, grid_kernel(height, width))
    for neighbours in NEIGHBOURS:
        lengths = path_lengths(scaled, neighbours)
        points = classical_scaling(lengths) if lengths is not None and time_left() else None
        # Things that are all equally far from each other span no plane.
        if points is not None and points.shape[1] == 2:
            best.improve_from(snap_to_grid(points, height, width))
        if best.agreeing >= _AGREEING_STARTS and size > _SMALL:
            return best.places  # different graphs, one answer: no restart beats it
    _restart(best, grid_kernel(height, width, _WIDE_REACH), time_left, seed)
    return best.places


def _restart(best: _BestLayout, wide_kernel: Float64Array, time_left: TimeLeft, seed: int) -> None:
    """Restart the swaps from random and from perturbed layouts until that has not helped for a while."""
    size = len(best.places)
    rng = np.random.default_rng(seed)
    patience = int(np.clip(_RESTART_WORK // (5 * size**3), _LEAST_PATIENCE, _MOST_PATIENCE))
    turn = fruitless = 0
    while fruitless < patience and time_left():
        if turn % _RANDOM_EVERY == 0:
            start = swap_descent(best.distances, wide_kernel, rng.permutation(size))
        else:
            start = perturb(best.places, rng)
        fruitless = 0 if best.improve_from(start) else fruitless + 1
        turn += 1


def perturb(places: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Return the layout with the cells of a few things exchanged at random."""
    perturbed = places.copy()
    moved = rng.choice(len(places), min(len(places), _EXCHANGED), replace=False)
    perturbed[moved] = perturbed[rng.permutation(moved)]
    return perturbed


def grid_symmetries(side: int) -> Int64Array:
    """Return the rotations and mirrors of a square grid, int64 [8, side²]: cell p moves to row[p]."""
    cells = np.arange(side * side).reshape(side, side)
    return np.stack([state.ravel() for state in rotations_and_transposes(cells)]).astype(np.int64)
