"""Which blocks touch, told without any layout: the best partners of a block's values among another's.

Where two blocks touch, a side's worth of values of one have close partners in the other, whatever order either is
in. Over a pool that shows as correlation between values, and the mean of the few best says how likely the two are
neighbours: of 100 brain scans, 97 % of all true neighbours are among a block's four nearest. A wrong pair of signs
is a correlation below zero, so its size alone counts. The order of the blocks is then a placement on the grid in
which every seam, whatever its direction, costs that distance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coordinator.adversary.puzzle.assembly import NEVER
from coordinator.adversary.puzzle.swap_search import polish, total_cost
from coordinator.adversary.time_budget import always

_IMAGES = 100  # most images whose correlations are taken
_VALUES = 256  # most values of a block that are compared
_SOFT = np.float32(0.5)  # keeps values that hardly vary from correlating by chance
#: Locally scaled distance at which two blocks are strangers; true neighbours are near 1.
_STRANGERS = 1.5
_KICKS = 400
#: A block's own distances are in units of that to its fourth nearest: inner blocks have four neighbours.
_FOURTH = 3


def block_distances(values: np.ndarray, side: int, time_left: Callable[[], bool] = always) -> np.ndarray:
    """uint8 [N, V, n], rather dark values of N blocks → float64 [N, N], locally scaled, 0 on the diagonal.

    side: how many values of a block stand along a side, M·c. All values are equally far where time runs out.
    """
    count, size, n = values.shape
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(n)[:_IMAGES])
    some = np.sort(rng.permutation(size)[:_VALUES])
    # Square roots: differences between dark values tell more than those between bright ones.
    table = np.sqrt(values[:, some][:, :, rows].astype(np.float32))
    table -= table.mean(2, keepdims=True)
    table /= np.linalg.norm(table, axis=2, keepdims=True) + _SOFT
    few = max(1, round(side * len(some) / size))
    apart = np.ones((count, count))
    for i in range(count - 1):
        if not time_left():
            break
        product = table[i] @ table[i + 1 :].reshape(-1, len(rows)).T
        close = np.abs(product, out=product).reshape(len(some), count - i - 1, len(some))
        ours = np.partition(close.max(2), len(some) - few, axis=0)[-few:].mean(0)
        theirs = np.partition(close.max(0), len(some) - few, axis=1)[:, -few:].mean(1)
        apart[i, i + 1 :] = apart[i + 1 :, i] = 1.0 - (ours + theirs) / 2.0
    if count < 2:
        return np.zeros((count, count))
    np.fill_diagonal(apart, np.inf)
    usual = np.sort(apart, axis=1)[:, min(_FOURTH, count - 2)]
    apart /= np.sqrt(np.outer(usual, usual)) + 1e-9
    np.fill_diagonal(apart, 0.0)
    return apart


def order_blocks(
    distances: np.ndarray, start: np.ndarray, time_left: Callable[[], bool] = always, seed: int = 0
) -> np.ndarray:
    """int64 [rows, columns], the start improved until its seams' distances sum to little.

    Exchanges (exchange.py), then kicks: a part dealt anew, a part mirrored, some blocks dealt anew; each is
    kept where the exchanges lead from it to less. distances: float64 [N, N], symmetric.
    """
    costs = np.minimum(distances, _STRANGERS)
    np.fill_diagonal(costs, NEVER)
    best = polish(start, costs, costs, time_left)
    best_cost = total_cost(best, costs, costs)
    rng = np.random.default_rng(seed)
    if min(best.shape) < 2:
        return best
    for turn in range(_KICKS):
        if not time_left():
            break
        kicked = polish(_kick(best, turn, rng), costs, costs, time_left)
        cost = total_cost(kicked, costs, costs)
        if cost < best_cost - 1e-9:
            best, best_cost = kicked, cost
    return best


def _kick(grid: np.ndarray, turn: int, rng: np.random.Generator) -> np.ndarray:
    kicked = grid.copy()
    rows, columns = grid.shape
    tall, wide = int(rng.integers(2, rows + 1)), int(rng.integers(2, columns + 1))
    top, left = int(rng.integers(0, rows - tall + 1)), int(rng.integers(0, columns - wide + 1))
    part = kicked[top : top + tall, left : left + wide]
    if turn % 3 == 0:
        part[:] = rng.permutation(part.ravel()).reshape(part.shape)
    elif turn % 3 == 1:
        part[:] = (part[::-1] if rng.random() < 0.5 else part[:, ::-1]).copy()
    else:
        few = rng.choice(grid.size, max(2, grid.size // 10), replace=False)
        kicked.ravel()[few] = kicked.ravel()[rng.permutation(few)]
    return kicked
