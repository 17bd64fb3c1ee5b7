"""From distances of things to their places on a grid: geodesic scaling, snapping, quadratic assignment.

The distances of a pool are trustworthy between near neighbours only, so a graph of nearest neighbours
is drawn, path lengths in it replace the distances (Isomap: Tenenbaum, de Silva, Langford 2000), and
classical scaling lays the graph flat. Hungarian assignment snaps that to the grid, a smooth warp takes
out the bends that the path lengths leave, and swaps of two lower the quadratic assignment cost
sum D[k,l]·exp(-r²/2). One start is a local optimum, so several neighbourhood sizes and kicked restarts
compete.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components, shortest_path

from coordinator.adversary.time_budget import always

#: Sizes of the nearest-neighbour graphs that are tried, the most dependable first.
NEIGHBOURS = (8, 6, 4, 5, 12)
#: Distances grow more slowly than the way between two pixels; this power makes them nearly proportional.
_STRETCH = 1.5
_ANGLES, _TRIED = 64, 6
_WARPS = (1, 2, 3, 3, 3)
#: Multiply-adds that fruitless restarts may cost before the search ends.
_RESTART_WORK = 20_000_000
#: Things up to which the search always restarts: it costs next to nothing there, and is then exact.
_SMALL = 16


def grid_kernel(height: int, width: int, reach: float = 1.0) -> np.ndarray:
    """float64 [cells, cells]: exp(-r²/2·reach²) between grid cells r apart, 0 on the diagonal."""
    row, column = np.divmod(np.arange(height * width), width)
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    kernel = np.exp(-squared / (2.0 * reach**2))
    np.fill_diagonal(kernel, 0.0)
    return kernel


def path_lengths(distances: np.ndarray, neighbours: int) -> np.ndarray | None:
    """float64 [S, S]: shortest ways in the graph of nearest neighbours; None where it falls apart."""
    size = len(distances)
    near = np.maximum(np.array(distances, np.float64), 1e-9) ** _STRETCH
    np.fill_diagonal(near, np.inf)
    order = np.argsort(near, axis=1, kind="stable")[:, : min(neighbours, size - 1)]
    graph = np.zeros((size, size))
    np.put_along_axis(graph, order, np.take_along_axis(near, order, 1), 1)
    graph = np.maximum(graph, graph.T)
    if connected_components(graph, directed=False)[0] > 1:
        return None
    return shortest_path(graph, directed=False)


def scale(lengths: np.ndarray) -> np.ndarray:
    """[S, S] → float64 [S, 2]: classical multidimensional scaling to the plane."""
    size = len(lengths)
    centre = np.eye(size) - 1.0 / size
    gram = -0.5 * centre @ (lengths**2) @ centre
    values, vectors = eigh(gram, subset_by_index=[size - 2, size - 1], driver="evx")
    return vectors * np.sqrt(np.maximum(values, 0.0))


def snap(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """[S, 2] → int64 [S]: every point's own grid cell, under the best rotation and a smooth warp."""
    cells = np.stack(np.divmod(np.arange(height * width), width), 1).astype(np.float64)
    cells -= cells.mean(0)
    spans = np.maximum(cells.std(0), 1e-9)
    best_cost, best, laid = np.inf, np.arange(len(points)), points
    for angle in _likely_angles(points):
        turned = _turn(points, angle)
        turned = turned / np.maximum(turned.std(0), 1e-9) * spans
        chosen, total = _assign(turned, cells)
        if total < best_cost - 1e-9:
            best_cost, best, laid = total, chosen, turned
    laid = laid / spans
    for degree in _WARPS:
        terms = _polynomial(laid, degree)
        bend = np.linalg.lstsq(terms, cells[best], rcond=None)[0]
        best, _ = _assign(terms @ bend, cells)
    return best


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    turned = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turned - turned.mean(0)


def _likely_angles(points: np.ndarray) -> list[float]:
    """The few rotations in half a turn under which both coordinates are spread most evenly.

    An even spread has the least fourth moment (1.8 variances squared), a rotated square's is peaked: this
    is far cheaper than an assignment for every angle.
    """
    angles = np.linspace(0.0, np.pi, _ANGLES, endpoint=False)
    x, y = (points - points.mean(0)).T
    sine, cosine = np.sin(angles)[:, None], np.cos(angles)[:, None]
    peaks = np.zeros(_ANGLES)
    for squared in ((x * cosine + y * sine) ** 2, (y * cosine - x * sine) ** 2):  # [angles, S]
        peaks += (squared**2).mean(1) / np.maximum(squared.mean(1), 1e-9) ** 2
    return [float(angles[i]) for i in np.argsort(peaks, kind="stable")[:_TRIED]]


def _assign(points: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, float]:
    squared = ((points[:, None] - cells[None]) ** 2).sum(-1)
    rows, chosen = linear_sum_assignment(squared)
    return chosen.astype(np.int64), float(squared[rows, chosen].sum())


def _polynomial(points: np.ndarray, degree: int) -> np.ndarray:
    x, y = points.T
    return np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], 1)


@numba.njit(cache=True, fastmath=True)
def _gain(distances: np.ndarray, placed: np.ndarray, a: int, b: int) -> float:
    change = 0.0
    for k in range(distances.shape[0]):
        change += (distances[a, k] - distances[b, k]) * (placed[b, k] - placed[a, k])
    return change + 2.0 * distances[a, b] * placed[a, b]


@numba.njit(cache=True)
def _swap_down(distances: np.ndarray, placed: np.ndarray, places: np.ndarray, sweeps: int) -> None:
    size = len(places)
    for _ in range(sweeps):
        swapped = False
        for a in range(size):
            for b in range(a):
                if _gain(distances, placed, a, b) < -1e-9:
                    places[a], places[b] = places[b], places[a]
                    for k in range(size):
                        placed[a, k], placed[b, k] = placed[b, k], placed[a, k]
                    for k in range(size):
                        placed[k, a], placed[k, b] = placed[k, b], placed[k, a]
                    swapped = True
        if not swapped:
            break


def swap_down(
    distances: np.ndarray, kernel: np.ndarray, places: np.ndarray, sweeps: int = 40
) -> np.ndarray:
    """int64 [S] places, improved by swaps of two while they lower sum D[k,l]·T[p_k,p_l].

    distances and kernel are float64 [S, S], symmetric, with 0 on their diagonals.
    """
    found = np.array(places, np.int64)
    # The kernel is kept in the order of the places: a swap's gain is then one pass over two rows.
    _swap_down(distances, np.ascontiguousarray(kernel[np.ix_(found, found)]), found, sweeps)
    return found


def cost(distances: np.ndarray, kernel: np.ndarray, places: np.ndarray) -> float:
    """The quadratic assignment cost sum D[k,l]·T[p_k,p_l]."""
    return float((distances * kernel[np.ix_(places, places)]).sum())


def lay_out(
    distances: np.ndarray, height: int, width: int, time_left: Callable[[], bool] = always, seed: int = 0
) -> np.ndarray:
    """float64 [S, S] symmetric distances → int64 [S], the grid cell (row-major) of every thing.

    S = height·width. Right up to the grid's own symmetries. `more` is asked between starts and ends the
    search early by returning False. The same input and seed give the same layout.
    """
    size = height * width
    if size == 1:
        return np.zeros(1, np.int64)
    unit = np.median(distances[~np.eye(size, dtype=bool)])
    scaled = np.ascontiguousarray(distances / max(float(unit), 1e-12), np.float64)
    kernel, wide = grid_kernel(height, width), grid_kernel(height, width, 3.0)
    best, best_cost, met = np.arange(size), np.inf, 0

    def attempt(places: np.ndarray) -> bool:
        nonlocal best, best_cost, met
        found = swap_down(scaled, kernel, places)
        found_cost = cost(scaled, kernel, found)
        if found_cost < best_cost - 1e-9 * abs(best_cost if np.isfinite(best_cost) else 0.0):
            best, best_cost, met = found, found_cost, 1
            return True
        met += bool(np.isclose(found_cost, best_cost, rtol=1e-9))
        return False

    for neighbours in NEIGHBOURS:
        lengths = path_lengths(scaled, neighbours)
        if lengths is not None and time_left():
            attempt(snap(scale(lengths), height, width))
        if met >= 3 and size > _SMALL:  # different graphs, one answer: no restart beats it
            return best
    rng = np.random.default_rng(seed)
    patience = int(np.clip(_RESTART_WORK // (5 * size**3), 2, 60))
    turn = fruitless = 0
    while fruitless < patience and time_left():
        start = swap_down(scaled, wide, rng.permutation(size)) if turn % 4 == 0 else _kick(best, rng)
        fruitless = 0 if attempt(start) else fruitless + 1
        turn += 1
    return best


def _kick(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The layout with a few places dealt anew."""
    kicked = places.copy()
    few = rng.choice(len(places), min(len(places), 8), replace=False)
    kicked[few] = kicked[rng.permutation(few)]
    return kicked


def symmetries(side: int) -> np.ndarray:
    """int64 [8, side²]: the rotations and mirrors of a square grid; cell p moves to row[p]."""
    cells = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(face, turns).ravel() for face in (cells, cells.T) for turns in range(4)]
    return np.stack(turned).astype(np.int64)
