"""Positions of several colours on one grid: which positions share a colour, and where each stands.

Neighbours of one colour are mostly nearer to each other than two colours of one pixel, and the graph of nearest
neighbours falls into one island a colour; where it does not, its slowest modes tell the colours apart. In
nearly gray pictures it falls into one island a pixel instead, and whole pixels are laid out first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numba
import numpy as np
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from coordinator.adversary.puzzle.grid_layout import grid_kernel, lay_out, swap_down, symmetries
from coordinator.adversary.time_budget import always

#: Weight of the distance of two colours at one place, beside that of neighbours of one colour.
_ACROSS = 0.4
#: Of more positions than this the colours are not swapped together: a sweep costs their cube.
_MOST_TOGETHER = 1024


def neighbours(distances: np.ndarray, few: int) -> np.ndarray:
    """float64 [V, V] → bool [V, V]: whether either is among the `few` nearest of the other."""
    away = distances + np.where(np.eye(len(distances), dtype=bool), np.inf, 0.0)
    near = np.zeros(distances.shape, bool)
    np.put_along_axis(near, np.argpartition(away, few - 1, axis=1)[:, :few], True, 1)
    return near | near.T


def split_colours(distances: np.ndarray, colours: int) -> np.ndarray:
    """float64 [V, V] → int64 [V]: the colour of each position, V / colours of each; their names mean nothing."""
    size = len(distances) // colours
    islands = _islands(distances, size)
    if len(np.unique(islands)) == colours:
        return np.unique(islands, return_inverse=True)[1].astype(np.int64)
    return _by_slow_modes(distances, colours)


def _islands(distances: np.ndarray, size: int) -> np.ndarray:
    """int64 [V]: the nearest positions join first, for as long as no island outgrows `size`; islands by a member."""
    count = len(distances)
    usual = np.partition(distances + np.diag(np.full(count, np.inf)), 1, axis=1)[:, 1]
    scaled = distances / np.sqrt(np.maximum(usual[:, None] * usual, 1e-12))
    i, j = np.triu_indices(count, 1)
    near = np.argsort(scaled[i, j], kind="stable")
    return _join_up_to(i[near], j[near], count, size)


@numba.njit(cache=True, nogil=True)
def _join_up_to(i: np.ndarray, j: np.ndarray, count: int, size: int) -> np.ndarray:
    name, members = np.arange(count), np.ones(count, np.int64)
    for e in range(len(i)):
        a, b = name[i[e]], name[j[e]]
        if a != b and members[a] + members[b] <= size:
            members[a] += members[b]
            name[name == b] = a
    return name


def _by_slow_modes(distances: np.ndarray, colours: int, seed: int = 0) -> np.ndarray:
    """Balanced k-means on the slowest modes of the graph of nearest neighbours."""
    count = len(distances)
    size = count // colours
    near = neighbours(distances, min(6, count - 1))
    scale = np.median(distances[near])
    weights = np.where(near, np.exp(-distances / max(float(scale), 1e-12)), 0.0)
    root = np.sqrt(np.maximum(weights.sum(1), 1e-12))
    _, modes = eigh(weights / root[:, None] / root, subset_by_index=[count - colours, count - 1])
    points = modes / root[:, None]
    points /= np.maximum(points.std(0), 1e-12)
    rng = np.random.default_rng(seed)
    best, best_cost = np.repeat(np.arange(colours), size), np.inf
    for _ in range(8):
        centres = points[rng.choice(count, colours, replace=False)]
        names, total = best, np.inf
        for _ in range(15):
            away = ((points[:, None] - centres[None]) ** 2).sum(-1)
            rows, slots = linear_sum_assignment(np.repeat(away, size, 1))
            names, total = (slots // size).astype(np.int64), float(away[rows, slots // size].sum())
            moved = np.stack([points[names == k].mean(0) for k in range(colours)])
            if np.allclose(moved, centres):
                break
            centres = moved
        if total < best_cost:
            best, best_cost = names, total
    return best


def colour_layout(
    distances: np.ndarray, side: int, colours: int, time_left: Callable[[], bool] = always
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [V, V], V = side²·colours → (place, colour), int64 [V] each: on the grid, and which colour.

    Right up to the grid's eight symmetries and the order of the colours.
    """
    if colours == 1:
        return lay_out(distances, side, side, time_left), np.zeros(len(distances), np.int64)
    pixels = gray_pixels(distances, colours)
    if pixels is not None:
        return _lay_out_pixels(distances, pixels, side, time_left)
    colour = split_colours(distances, colours)
    places = np.zeros(len(distances), np.int64)
    for k in range(colours):
        mine = np.flatnonzero(colour == k)
        places[mine] = lay_out(distances[np.ix_(mine, mine)], side, side, time_left)
    places = _align(distances, places, colour, side)
    return _together(distances, places, colour, side, time_left)


def _align(distances: np.ndarray, places: np.ndarray, colour: np.ndarray, side: int) -> np.ndarray:
    """The places with the later colours turned as the first one lies: equal places are the nearest."""
    turns, near = symmetries(side), np.exp(-_apart(side) / 2.0)
    count = int(colour.max()) + 1
    held = [places[colour == k] for k in range(count)]
    price = np.zeros((count, count, 8, 8))
    for a, b in itertools.combinations(range(count), 2):
        between = distances[np.ix_(colour == a, colour == b)]
        # What a position has with all others alike tells nothing of its place.
        between = between - between.mean(0) - between.mean(1)[:, None] + between.mean()
        for ta, tb in itertools.product(range(8), range(8)):
            if a or not ta:
                price[a, b, ta, tb] = (between * near[np.ix_(turns[ta][held[a]], turns[tb][held[b]])]).sum()
    pairs = list(itertools.combinations(range(count), 2))
    choice = min(
        ((0, *rest) for rest in itertools.product(range(8), repeat=count - 1)),
        key=lambda turned: sum(price[a, b, turned[a], turned[b]] for a, b in pairs),
    )
    return turns[np.array(choice)[colour], places]


def _together(
    distances: np.ndarray, places: np.ndarray, colour: np.ndarray, side: int, time_left: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """All colours swapped down at once: neighbours of one colour, and the colours of one pixel, draw each other."""
    area, colours = side * side, len(distances) // side**2
    if len(distances) > _MOST_TOGETHER or not time_left() or not (distances > 0).any():
        return places, colour
    same, across = grid_kernel(side, side), _ACROSS * np.exp(-(_apart(side) ** 2))
    kernel = np.block([[same if a == b else across for b in range(colours)] for a in range(colours)])
    np.fill_diagonal(kernel, 0.0)
    unit = float(np.median(distances[distances > 0]))
    found = swap_down(distances / unit, kernel, colour * area + places, sweeps=6)
    colour, places = np.divmod(found, area)
    return places, colour


def gray_pixels(distances: np.ndarray, colours: int) -> np.ndarray | None:
    """int64 [pixels, colours], the positions of each pixel where its colours are nearer to each other than to any
    neighbour, as in gray pictures sent as RGB; None where they are not.
    """
    count, names = connected_components(neighbours(distances, colours - 1), directed=False)
    if count * colours != len(distances) or (np.bincount(names) != colours).any():
        return None
    return np.argsort(names, kind="stable").reshape(count, colours)


def _lay_out_pixels(
    distances: np.ndarray, pixels: np.ndarray, side: int, time_left: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Whole pixels first, by the mean distance of their colours; then the colours, each pixel by its neighbours."""
    count, colours = pixels.shape
    wide = distances[
        pixels[:, None, :, None], pixels[None, :, None, :]
    ]  # [pixels, pixels, colours, colours]
    apart = wide.mean((2, 3))
    np.fill_diagonal(apart, 0.0)
    cells = lay_out(apart, side, side, time_left)
    colour, places = np.zeros(count * colours, np.int64), np.zeros(count * colours, np.int64)
    places[pixels] = cells[:, None]
    near = _apart(side)[np.ix_(cells, cells)] < 1.5
    done, left = [0], list(range(1, count))
    colour[pixels[0]] = np.arange(colours)
    while left:
        p = max(left, key=lambda q: int(near[q, done].sum()))
        beside = [q for q in done if near[p, q]]
        # [own component, colour]: how far each is from what its neighbours hold of that colour.
        away = np.sum([wide[p, q][:, np.argsort(colour[pixels[q]])] for q in beside], 0)
        rows, chosen = linear_sum_assignment(away)
        colour[pixels[p][rows]] = chosen
        done.append(p)
        left.remove(p)
    return _together(distances, places, colour, side, time_left)


def _apart(side: int) -> np.ndarray:
    """float64 [cells, cells]: distance of every two cells of a grid."""
    y, x = np.divmod(np.arange(side * side), side)
    return np.hypot(y[:, None] - y, x[:, None] - x)
