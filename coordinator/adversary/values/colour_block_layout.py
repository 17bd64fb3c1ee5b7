"""The values of a shuffled colour block, divided by component and laid out together.

Values of one component are nearer to each other than to those of another wherever colours differ from place to
place, so the graph of nearest values falls into three equal parts. If the components are too similar for that,
as in gray pictures stored as colour, the three values of a pixel are each other's nearest instead.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.sparse.csgraph import connected_components

from coordinator.adversary.puzzle.grid_layout import grid_kernel, grid_symmetries
from coordinator.adversary.values.block_layout import lay_out_block
from crypto.arrays import BoolArray, Float64Array, Int64Array, UInt8Array

#: Neighbours in the graph of values, from the fewest on, until it falls into equal parts or into too few.
#: Set once by hand; no measurement is recorded.
_GRAPH_NEIGHBOURS = (3, 4, 5, 6, 8, 10)
#: Reach of the kernel, in pixels, under which two components are aligned. Set once by hand; no measurement is
#: recorded.
_REACH = 1.0


def lay_out_values(
    distances: Float64Array, side: int, member: Int64Array | None = None
) -> tuple[Int64Array, Int64Array]:
    """Divide the values of one block by component and lay them out.

    Args:
        distances: float64 [V, V], symmetric.
        side: The block side in pixels.
        member: The values of each component if they could be divided (`split_components`), int64 [c, side²].

    Returns:
        (member, cell), int64 [c, side²] each. member[m] lists the values of component m, cell[m] the cell of
        each, up to the eight symmetries that all components share. One block does not tell which component is
        red, green or blue.
    """
    size = side * side
    if len(distances) == size:
        return np.arange(size)[None], lay_out_block(distances, side)[None]
    if member is None:
        member = group_triples(distances)
        pixels = distances[member[:, :, None], member[:, None, :]].mean(0)
        return member, np.tile(lay_out_block(pixels, side), (len(member), 1))
    cell = np.stack([lay_out_block(distances[np.ix_(values, values)], side) for values in member])
    kernel = grid_kernel(side, side, _REACH) + np.eye(size)
    for m in range(1, len(member)):
        between = distances[np.ix_(member[0], member[m])]
        turned = grid_symmetries(side)[:, cell[m]]
        costs = [(between * kernel[np.ix_(cell[0], other)]).sum() for other in turned]
        cell[m] = turned[int(np.argmin(costs))]
    return member, cell


def split_components(distances: Float64Array, size: int) -> Int64Array | None:
    """Return the values of each component, int64 [c, size]; None if the graph does not fall into equal parts."""
    near = np.array(distances, np.float64)
    np.fill_diagonal(near, np.inf)
    order = np.argsort(near, axis=1, kind="stable")
    for neighbours in _GRAPH_NEIGHBOURS:
        graph = np.zeros(near.shape)
        np.put_along_axis(graph, order[:, : min(neighbours, len(near) - 1)], 1.0, 1)
        parts, label = connected_components(graph, directed=False)
        if parts == len(near) // size and (np.bincount(label) == size).all():
            return np.stack([np.flatnonzero(label == part) for part in range(parts)])
        if parts < len(near) // size:
            break
    return None


def opposed_components(values: UInt8Array) -> BoolArray:
    """Return which components are negated against the first one, bool [c]: by whether they rise and fall together.

    How near values are does not tell: in stained tissue green is nearer to the negative of red than to red. In one
    block of many pictures, all three are bright together or dark together.

    Args:
        values: uint8 [c, size, n], the values of each component over n images.
    """
    levels = values.mean(1)
    levels -= levels.mean(1, keepdims=True)
    together = levels @ levels.T
    signs = [np.array((1, *others)) for others in itertools.product((1, -1), repeat=len(values) - 1)]
    best: BoolArray = max(signs, key=lambda sign: float(sign @ together @ sign)) < 0
    return best


def group_triples(distances: Float64Array) -> Int64Array:
    """Return values grouped in threes, int64 [3, V/3], the closest threes first."""
    near = np.array(distances, np.float64)
    np.fill_diagonal(near, np.inf)
    triples = []
    for _ in range(len(near) // 3):
        two_nearest = np.partition(near, 1, axis=1)[:, :2].sum(1)
        first = int(np.argmin(two_nearest))
        second, third = np.argsort(near[first], kind="stable")[:2]
        triple = [first, int(second), int(third)]
        triples.append(triple)
        near[triple] = np.inf
        near[:, triple] = np.inf
    return np.array(triples).T
