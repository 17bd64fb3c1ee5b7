"""Positions of several colours on one grid: which positions share a colour, and where each stands.

Neighbours of one colour are mostly nearer to each other than two colours of one pixel, and the graph of nearest
neighbours falls into one island a colour. Where it does not, its slowest modes tell the colours apart. In nearly gray
pictures it falls into one island a pixel instead, and whole pixels are laid out first.
"""

from __future__ import annotations

import itertools

import numba
import numpy as np
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from coordinator.adversary.puzzle.grid_layout import grid_kernel, grid_symmetries, lay_out
from coordinator.adversary.puzzle.qap import swap_descent
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import BoolArray, Float64Array, Int64Array
from crypto.symmetry import TURNS

#: Weight of the distance of two colours at one place, where neighbours of one colour count 1.
#: Set once by hand; no measurement is recorded.
_COLOUR_WEIGHT = 0.4
#: With more positions than this the colours are not swapped together: a sweep costs their cube.
_MOST_TOGETHER = 1024
#: Most sweeps of swaps over all colours together. Set once by hand; no measurement is recorded.
_SWEEPS = 6
#: Neighbours in the graph whose slow modes are taken. Set once by hand; no measurement is recorded.
_MODE_NEIGHBOURS = 6
#: Random starts of k-means, and most rounds of each. Set once by hand; no measurement is recorded.
_CLUSTER_STARTS, _CLUSTER_ROUNDS = 8, 15
#: Cells nearer than this are neighbours: the eight around a cell, the farthest of which is √2 away.
_NEIGHBOUR_RADIUS = 1.5


def nearest_neighbours(distances: Float64Array, count: int) -> BoolArray:
    """Return whether either of two positions is among the `count` nearest of the other, bool [V, V]."""
    without_self = distances + np.where(np.eye(len(distances), dtype=bool), np.inf, 0.0)
    near = np.zeros(distances.shape, bool)
    np.put_along_axis(near, np.argpartition(without_self, count - 1, axis=1)[:, :count], True, 1)
    return near | near.T


def split_colours(distances: Float64Array, colours: int) -> Int64Array:
    """Return the colour of each position, int64 [V], V / colours positions of each; the numbers mean nothing.

    Args:
        distances: float64 [V, V], symmetric.
        colours: The number of colours.
    """
    size = len(distances) // colours
    islands = _islands(distances, size)
    if len(np.unique(islands)) == colours:
        return np.unique(islands, return_inverse=True)[1].astype(np.int64)
    return _split_by_slow_modes(distances, colours)


def _islands(distances: Float64Array, size: int) -> Int64Array:
    """Return the island of each position, int64 [V], named by one of its members.

    The nearest positions are joined first, as long as no island outgrows `size`.
    """
    count = len(distances)
    nearest = np.partition(distances + np.diag(np.full(count, np.inf)), 1, axis=1)[:, 1]
    scaled = distances / np.sqrt(np.maximum(nearest[:, None] * nearest, 1e-12))
    i, j = np.triu_indices(count, 1)
    order = np.argsort(scaled[i, j], kind="stable")
    islands: Int64Array = _join_up_to(i[order], j[order], count, size)
    return islands


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba has no types
def _join_up_to(i: Int64Array, j: Int64Array, count: int, size: int) -> Int64Array:
    """Join pairs in their order to clusters of at most `size` members, and return each member's cluster."""
    name, members = np.arange(count), np.ones(count, np.int64)
    for e in range(len(i)):
        a, b = name[i[e]], name[j[e]]
        if a != b and members[a] + members[b] <= size:
            members[a] += members[b]
            name[name == b] = a
    return name


def _split_by_slow_modes(distances: Float64Array, colours: int, seed: int = 0) -> Int64Array:
    """Return the colour of each position by balanced k-means on the slowest modes of the graph of neighbours."""
    points = _slow_modes(distances, colours)
    rng = np.random.default_rng(seed)
    best, best_cost = np.repeat(np.arange(colours), len(points) // colours), np.inf
    for _ in range(_CLUSTER_STARTS):
        centres = points[rng.choice(len(points), colours, replace=False)]
        names, cost = _balanced_clusters(points, centres)
        if cost < best_cost:
            best, best_cost = names, cost
    return best


def _slow_modes(distances: Float64Array, count: int) -> Float64Array:
    """Return the slowest modes of the weighted graph of nearest neighbours, float64 [V, count], scaled."""
    size = len(distances)
    near = nearest_neighbours(distances, min(_MODE_NEIGHBOURS, size - 1))
    scale = np.median(distances[near])
    weights = np.where(near, np.exp(-distances / max(float(scale), 1e-12)), 0.0)
    root = np.sqrt(np.maximum(weights.sum(1), 1e-12))
    _, modes = eigh(weights / root[:, None] / root, subset_by_index=[size - count, size - 1])
    points: Float64Array = modes / root[:, None]
    points /= np.maximum(points.std(0), 1e-12)
    return points


def _balanced_clusters(points: Float64Array, centres: Float64Array) -> tuple[Int64Array, float]:
    """Return clusters of equal size from these centres by k-means, int64 [V], and the sum of squared distances."""
    colours, size = len(centres), len(points) // len(centres)
    for _ in range(_CLUSTER_ROUNDS):
        squared = ((points[:, None] - centres[None]) ** 2).sum(-1)
        rows, slots = linear_sum_assignment(np.repeat(squared, size, 1))
        names, total = (slots // size).astype(np.int64), float(squared[rows, slots // size].sum())
        moved = np.stack([points[names == k].mean(0) for k in range(colours)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return names, total


def lay_out_colours(
    distances: Float64Array, side: int, colours: int, time_left: TimeLeft = always
) -> tuple[Int64Array, Int64Array]:
    """Return (place, colour) of each position, int64 [V] each: its cell on the grid, and which colour it is.

    The layout is right up to the grid's eight symmetries and the order of the colours.

    Args:
        distances: float64 [V, V], symmetric, V = side²·colours.
        side: The side of the grid.
        colours: The number of colours.
        time_left: Asked between steps.
    """
    if colours == 1:
        return lay_out(distances, side, side, time_left), np.zeros(len(distances), np.int64)
    pixels = group_gray_pixels(distances, colours)
    if pixels is not None:
        return _lay_out_pixels(distances, pixels, side, time_left)
    colour = split_colours(distances, colours)
    places = np.zeros(len(distances), np.int64)
    for k in range(colours):
        positions = np.flatnonzero(colour == k)
        places[positions] = lay_out(distances[np.ix_(positions, positions)], side, side, time_left)
    places = _align_colours(distances, places, colour, side)
    return _improve_together(distances, places, colour, side, time_left)


def _align_colours(
    distances: Float64Array, places: Int64Array, colour: Int64Array, side: int
) -> Int64Array:
    """Return the places with the later colours turned as the first one lies: equal places are the nearest."""
    turns, near = grid_symmetries(side), np.exp(-_cell_distances(side) / 2.0)
    count = int(colour.max()) + 1
    layouts = [places[colour == k] for k in range(count)]
    costs = np.zeros((count, count, TURNS, TURNS))
    for a, b in itertools.combinations(range(count), 2):
        between = distances[np.ix_(colour == a, colour == b)]
        # What a position has in common with all others tells nothing of its place.
        between = between - between.mean(0) - between.mean(1)[:, None] + between.mean()
        for turn_a, turn_b in itertools.product(range(TURNS), range(TURNS)):
            if a or not turn_a:  # the first colour stays as it lies
                kernel = near[np.ix_(turns[turn_a][layouts[a]], turns[turn_b][layouts[b]])]
                costs[a, b, turn_a, turn_b] = (between * kernel).sum()
    pairs = list(itertools.combinations(range(count), 2))
    choice = min(
        ((0, *rest) for rest in itertools.product(range(TURNS), repeat=count - 1)),
        key=lambda chosen: sum(costs[a, b, chosen[a], chosen[b]] for a, b in pairs),
    )
    aligned: Int64Array = turns[np.array(choice)[colour], places]
    return aligned


def _improve_together(
    distances: Float64Array, places: Int64Array, colour: Int64Array, side: int, time_left: TimeLeft
) -> tuple[Int64Array, Int64Array]:
    """Return (place, colour) after swaps over all colours at once.

    Neighbours of one colour attract each other, and so do the colours of one pixel.
    """
    area, colours = side * side, len(distances) // side**2
    if len(distances) > _MOST_TOGETHER or not time_left() or not (distances > 0).any():
        return places, colour
    same, across = grid_kernel(side, side), _COLOUR_WEIGHT * np.exp(-(_cell_distances(side) ** 2))
    kernel = np.block([[same if a == b else across for b in range(colours)] for a in range(colours)])
    np.fill_diagonal(kernel, 0.0)
    unit = float(np.median(distances[distances > 0]))
    slots = swap_descent(distances / unit, kernel, colour * area + places, sweeps=_SWEEPS)
    colour, places = np.divmod(slots, area)
    return places, colour


def group_gray_pixels(distances: Float64Array, colours: int) -> Int64Array | None:
    """Return the positions of each pixel, int64 [pixels, colours], in nearly gray pictures; None in others.

    In gray pictures sent as RGB, the colours of a pixel are nearer to each other than to any neighbour.
    """
    count, names = connected_components(nearest_neighbours(distances, colours - 1), directed=False)
    if count * colours != len(distances) or (np.bincount(names) != colours).any():
        return None
    return np.argsort(names, kind="stable").reshape(count, colours)


def _lay_out_pixels(
    distances: Float64Array, pixels: Int64Array, side: int, time_left: TimeLeft
) -> tuple[Int64Array, Int64Array]:
    """Return (place, colour): whole pixels by the mean distance of their colours, then the colours by neighbours."""
    count, colours = pixels.shape
    # Axes: pixel, pixel, colour, colour.
    between = distances[pixels[:, None, :, None], pixels[None, :, None, :]]
    pixel_distances = between.mean((2, 3))
    np.fill_diagonal(pixel_distances, 0.0)
    cells = lay_out(pixel_distances, side, side, time_left)
    colour, places = np.zeros(count * colours, np.int64), np.zeros(count * colours, np.int64)
    places[pixels] = cells[:, None]
    near = _cell_distances(side)[np.ix_(cells, cells)] < _NEIGHBOUR_RADIUS
    done, remaining = [0], list(range(1, count))
    colour[pixels[0]] = np.arange(colours)
    while remaining:
        p = max(remaining, key=lambda q: int(near[q, done].sum()))
        neighbours = [q for q in done if near[p, q]]
        # [own component, colour]: how far each is from what its neighbours hold of that colour.
        costs = np.sum([between[p, q][:, np.argsort(colour[pixels[q]])] for q in neighbours], 0)
        rows, chosen = linear_sum_assignment(costs)
        colour[pixels[p][rows]] = chosen
        done.append(p)
        remaining.remove(p)
    return _improve_together(distances, places, colour, side, time_left)


def _cell_distances(side: int) -> Float64Array:
    """Return the distance of every two cells of a grid, float64 [cells, cells]."""
    y, x = np.divmod(np.arange(side * side), side)
    distances: Float64Array = np.hypot(y[:, None] - y, x[:, None] - x)
    return distances
