"""The values of a shuffled colour block, told apart by component and laid out together.

Values of one component are nearer to each other than to those of another wherever colours differ from place to
place, so the graph of nearest values falls into three equal parts. Where the components are too alike for that, as
in gray pictures kept as colour, the three values of a pixel are each other's nearest instead.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import connected_components

from coordinator.adversary.puzzle.grid_layout import grid_kernel, symmetries
from coordinator.adversary.values.block_layout import lay_alone

_GRAPHS = (3, 4, 5, 6, 8, 10)
_REACH = 1.0


def lay_values(distances: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """float [V, V] of one block → (member, cell), int64 [c, side²] each.

    member[m] lists the values of component m, cell[m] the cell of each, up to the 8 symmetries that all components
    share. Which component is which cannot be told from one block.
    """
    size = side * side
    if len(distances) == size:
        return np.arange(size)[None], lay_alone(distances, side)[None]
    member = components(distances, size)
    if member is None:
        member = triples(distances)
        pixels = distances[member[:, :, None], member[:, None, :]].mean(0)
        return member, np.tile(lay_alone(pixels, side), (len(member), 1))
    cell = np.stack([lay_alone(distances[np.ix_(own, own)], side) for own in member])
    kernel = grid_kernel(side, side, _REACH) + np.eye(size)
    for m in range(1, len(member)):
        between = distances[np.ix_(member[0], member[m])]
        turned = symmetries(side)[:, cell[m]]
        costs = [(between * kernel[np.ix_(cell[0], other)]).sum() for other in turned]
        cell[m] = turned[int(np.argmin(costs))]
    return member, cell


def components(distances: np.ndarray, size: int) -> np.ndarray | None:
    """int64 [c, size], the values of each component; None where the graph does not fall into equal parts."""
    near = np.array(distances, np.float64)
    np.fill_diagonal(near, np.inf)
    order = np.argsort(near, axis=1, kind="stable")
    for neighbours in _GRAPHS:
        graph = np.zeros(near.shape)
        np.put_along_axis(graph, order[:, : min(neighbours, len(near) - 1)], 1.0, 1)
        parts, label = connected_components(graph, directed=False)
        if parts == len(near) // size and (np.bincount(label) == size).all():
            return np.stack([np.flatnonzero(label == part) for part in range(parts)])
        if parts < len(near) // size:
            break
    return None


def triples(distances: np.ndarray) -> np.ndarray:
    """int64 [3, V/3]: values dealt into threes, the closest threes first."""
    near = np.array(distances, np.float64)
    np.fill_diagonal(near, np.inf)
    found = []
    for _ in range(len(near) // 3):
        two = np.partition(near, 1, axis=1)[:, :2].sum(1)
        first = int(np.argmin(two))
        second, third = np.argsort(near[first], kind="stable")[:2]
        taken = [first, int(second), int(third)]
        found.append(taken)
        near[taken] = np.inf
        near[:, taken] = np.inf
    return np.array(found).T
