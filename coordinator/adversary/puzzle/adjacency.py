"""Which blocks touch, without any layout: the best partners of a block's values among another's.

Where two blocks touch, a side's worth of values of one have close partners in the other, whatever the order of
values in either. Over a pool this shows as correlation between values, and the mean of the few best
correlations says how likely the two are neighbours. Of 100 brain scans, 97 % of all true neighbours are among a
block's four nearest. A wrong pair of signs is a correlation below zero, so only its size counts. The order of
the blocks is then a placement on the grid in which every seam, whatever its direction, costs that distance.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.puzzle.assembly import FORBIDDEN_COST
from coordinator.adversary.puzzle.swap_search import local_search, total_cost
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import Float64Array, Int64Array, UInt8Array

#: Most images, and most values of a block, that are correlated: a bound on time. 100 scans are the pool
#: measured above.
_MOST_IMAGES, _MOST_VALUES = 100, 256
#: Added to the norm of a value's square roots over the images: keeps values that hardly vary from correlating
#: by chance. Set once by hand; no measurement is recorded.
_SOFTNESS = np.float32(0.5)
#: Largest locally scaled distance: blocks beyond it do not touch at all. True neighbours are near 1.
_MOST_DISTANCE = 1.5
#: Most perturbed restarts of the order. Set once by hand; no measurement is recorded.
_RESTARTS = 400
#: A block's own distances are in units of that to its fourth nearest (counted from 0): inner blocks have four
#: neighbours.
_FOURTH = 3
#: A restart exchanges one in so many cells at random. Set once by hand; no measurement is recorded.
_EXCHANGED_PART = 10


def block_distances(values: UInt8Array, side: int, time_left: TimeLeft = always) -> Float64Array:
    """Return how far any two blocks are from touching, float64 [N, N], locally scaled, 0 on the diagonal.

    Args:
        values: uint8 [N, V, n], rather dark values of N blocks over n images.
        side: How many values of a block stand along one of its sides, M·c.
        time_left: Asked between blocks. Blocks that were not reached are equally far from each other.
    """
    count, size, n = values.shape
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(n)[:_MOST_IMAGES])
    sample = np.sort(rng.permutation(size)[:_MOST_VALUES])
    # Square roots: differences between dark values tell more than those between bright ones.
    table = np.sqrt(values[:, sample][:, :, rows].astype(np.float32))
    table -= table.mean(2, keepdims=True)
    table /= np.linalg.norm(table, axis=2, keepdims=True) + _SOFTNESS
    partners = max(1, round(side * len(sample) / size))
    distances = np.ones((count, count))
    for i in range(count - 1):
        if not time_left():
            break
        product = table[i] @ table[i + 1 :].reshape(-1, len(rows)).T
        close = np.abs(product, out=product).reshape(len(sample), count - i - 1, len(sample))
        first = np.partition(close.max(2), len(sample) - partners, axis=0)[-partners:].mean(0)
        second = np.partition(close.max(0), len(sample) - partners, axis=1)[:, -partners:].mean(1)
        distances[i, i + 1 :] = distances[i + 1 :, i] = 1.0 - (first + second) / 2.0
    if count < 2:
        return np.zeros((count, count))
    np.fill_diagonal(distances, np.inf)
    local_scale = np.sort(distances, axis=1)[:, min(_FOURTH, count - 2)]
    distances /= np.sqrt(np.outer(local_scale, local_scale)) + 1e-9
    np.fill_diagonal(distances, 0.0)
    return distances


def order_blocks(
    distances: Float64Array, start: Int64Array, time_left: TimeLeft = always, seed: int = 0
) -> Int64Array:
    """Return a grid whose seams' distances sum to little, int64 [rows, columns].

    Local search (swap_search.py) improves the start. Then parts of the grid are perturbed, and a perturbed grid is
    kept if local search leads from it to a lower cost.

    Args:
        distances: float64 [N, N], symmetric, from `block_distances`.
        start: int64 [rows, columns], the block in each cell.
        time_left: Asked between restarts.
        seed: Of the perturbations.
    """
    costs = np.minimum(distances, _MOST_DISTANCE)
    np.fill_diagonal(costs, FORBIDDEN_COST)
    best = local_search(start, costs, costs, time_left)
    best_cost = total_cost(best, costs, costs)
    rng = np.random.default_rng(seed)
    if min(best.shape) < 2:
        return best
    for restart in range(_RESTARTS):
        if not time_left():
            break
        grid = local_search(_perturb(best, restart, rng), costs, costs, time_left)
        cost = total_cost(grid, costs, costs)
        if cost < best_cost - 1e-9:
            best, best_cost = grid, cost
    return best


def adjacency_fit(distances: Float64Array, grid: Int64Array) -> float:
    """Return which share of the touching blocks of a grid are among the four nearest of each other, either way.

    Args:
        distances: float64 [N, N], symmetric, from `block_distances`.
        grid: int64 [rows, columns], the block in each cell.
    """
    others = distances + np.diag(np.full(len(distances), np.inf))
    fourth = np.sort(others, axis=1)[:, min(_FOURTH, len(distances) - 2)]
    is_near = (others <= fourth) | (others <= fourth[:, None])
    touching = np.concatenate(
        [is_near[grid[:, :-1], grid[:, 1:]].ravel(), is_near[grid[:-1], grid[1:]].ravel()]
    )
    return float(touching.mean())


def _perturb(grid: Int64Array, restart: int, rng: np.random.Generator) -> Int64Array:
    """Return the grid with a rectangle shuffled, a rectangle mirrored, or some cells exchanged, in turn."""
    perturbed = grid.copy()
    rows, columns = grid.shape
    tall, wide = int(rng.integers(2, rows + 1)), int(rng.integers(2, columns + 1))
    top, left = int(rng.integers(0, rows - tall + 1)), int(rng.integers(0, columns - wide + 1))
    part = perturbed[top : top + tall, left : left + wide]
    if restart % 3 == 0:
        part[:] = rng.permutation(part.ravel()).reshape(part.shape)
    elif restart % 3 == 1:
        part[:] = (part[::-1] if rng.random() < 0.5 else part[:, ::-1]).copy()
    else:
        cells = rng.choice(grid.size, max(2, grid.size // _EXCHANGED_PART), replace=False)
        perturbed.ravel()[cells] = perturbed.ravel()[rng.permutation(cells)]
    return perturbed
