"""Put the shuffled blocks of `block_projection` back in their places, by the lengths of their rows and public images.

An orthogonal matrix keeps the length of every row of a block, whatever the block's place and matrix. So:

1. the last row of a block is as long as the first row of the one below it, in every image of the pool: blocks are
   linked to columns, the surest links first;
2. the order of the columns is the one in which their rows' lengths depend on each other as in public images;
3. which end is left, and where a column that is not whole begins, is decided by the distribution of each row's length
   at each place in public images. Blocks that no column took fill the places that are left, by the same distribution.

Source: our own. The mirror image of the picture is as good an answer wherever public images are as often mirrored as
not: the matrices mirror each block, too.

What did not work, on brain MRI: places by the distribution of lengths alone (25 % of blocks right at 100 images
without noise), and a quadratic assignment of blocks by correlations of their lengths (14 %), because heads are
symmetric. Columns by the distance of their lengths alone fold the picture along its middle for the same reason.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.puzzle.qap import assignment_similarity, swap_ascent
from crypto.arrays import Float64Array, Int64Array

#: Products of block pairs and images that the links may cost: images beyond are left out.
_WORK = 2e8
#: Gray levels, per value of a row, by which a difference of lengths is scaled before its logarithm is taken: large
#: differences say "no neighbour" and hardly how far off. Set once; not tuned further.
_SCALE = 4.0
#: Quantiles of a row's length that are compared with public images. Set once; not tuned further.
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Error that is granted to a length besides that of its sample, in gray levels, and the largest difference that
#: counts, in errors. Set once; not tuned further.
_GRANTED, _MOST_ERRORS = 2.0, 6.0
#: Random orders of the columns that a search starts from. With 30, it missed the best order in 4 of 7 pools of MRI.
_STARTS = 400
#: What is added to a correlation matrix before it is inverted. Set once; not tuned further.
_RIDGE = 0.02


def find_places(sealed: Float64Array, public: Float64Array, grid: tuple[int, int]) -> Int64Array:
    """Return the place of every sealed block, int64 [N]: a permutation.

    Args:
        sealed: Lengths of the rows of the blocks of a pool, per value, float64 [n, N, M].
        public: The same of public images, float64 [m, N, M].
        grid: Blocks down and across.
    """
    most = max(2, int(_WORK / sealed.shape[1] ** 2))
    unlike = place_costs(sealed, public)
    columns = link_columns(below_costs(sealed[:most]), grid)
    order = _order_columns(columns, sealed, public, unlike, grid)
    return _fill(columns, order, unlike, grid)


def below_costs(lengths: Float64Array) -> Float64Array:
    """Return [N, N], at [p, q] how badly block q fits below block p, over a pool; infinite on the diagonal."""
    step = lengths[:, :, -1] - lengths[:, :, -2] if lengths.shape[2] > 1 else 0.0
    last = lengths[:, :, -1] + step / 2
    step = lengths[:, :, 0] - lengths[:, :, 1] if lengths.shape[2] > 1 else 0.0
    first = lengths[:, :, 0] + step / 2
    count = lengths.shape[1]
    costs = np.empty((count, count))
    for p in range(count):
        costs[p] = np.log1p(np.abs(last[:, p : p + 1] - first) / _SCALE).mean(0)
    np.fill_diagonal(costs, np.inf)
    return costs


def link_columns(costs: Float64Array, grid: tuple[int, int]) -> list[list[int]]:
    """Return chains of blocks from above to below, the longest first, none longer than the grid is high.

    The link that is cheapest by the largest margin over the next best, seen from both blocks, is made first.
    """
    count, most = len(costs), grid[0]
    margins = np.minimum(_runner_up(costs, 1) - costs, _runner_up(costs, 0) - costs)
    np.fill_diagonal(margins, -np.inf)
    below, above = np.full(count, -1), np.full(count, -1)
    chain, length = np.arange(count), np.ones(count, np.int64)
    for link in np.argsort(-margins, axis=None):
        p, q = divmod(int(link), count)
        a, b = chain[p], chain[q]
        if below[p] >= 0 or above[q] >= 0 or a == b or length[a] + length[b] > most:
            continue
        below[p], above[q] = q, p
        chain[chain == b] = a
        length[a] += length[b]
    chains = []
    for top in np.flatnonzero(above < 0):
        column = [int(top)]
        while below[column[-1]] >= 0:
            column.append(int(below[column[-1]]))
        chains.append(column)
    return sorted(chains, key=len, reverse=True)


def _runner_up(costs: Float64Array, axis: int) -> Float64Array:
    """Return for every entry the least other cost of its row (axis 1) or column (axis 0)."""
    if costs.shape[axis] < 2:
        return costs
    two = np.partition(costs, 1, axis=axis)
    least, second = two.take([0], axis), two.take([1], axis)
    return np.where(costs == least, second, least)


def place_costs(sealed: Float64Array, public: Float64Array) -> Float64Array:
    """Return [N, N], at [p, q] how unlike the lengths of block p are to public ones at place q, in errors."""
    statistics = []
    for lengths in (sealed, public):
        mean, spread = lengths.mean(0), lengths.std(0)
        statistics.append(np.stack([mean, spread, *np.quantile(lengths, _QUANTILES, axis=0)]))
    few = np.sqrt(len(sealed))
    errors = [table[1] / few + _GRANTED for table in statistics]
    allowed = np.sqrt(errors[0][:, None] ** 2 + errors[1][None] ** 2)
    costs = np.zeros((sealed.shape[1], sealed.shape[1]))
    for here, there in zip(*statistics, strict=True):
        difference = np.abs(here[:, None] - there[None]) / allowed
        costs += np.minimum(difference, _MOST_ERRORS).sum(2)
    return costs


def _order_columns(
    chains: list[list[int]],
    sealed: Float64Array,
    public: Float64Array,
    unlike: Float64Array,
    grid: tuple[int, int],
) -> list[tuple[int, int]]:
    """Return for each of the longest chains, one to a column: (row where it begins, column)."""
    down, across = grid
    columns = chains[:across]
    begins = np.zeros((len(columns), across), np.int64)
    costs = np.zeros((len(columns), across))
    for k, chain in enumerate(columns):
        for column in range(across):
            options = [
                sum(unlike[block, (begin + r) * across + column] for r, block in enumerate(chain))
                for begin in range(down - len(chain) + 1)
            ]
            begins[k, column], costs[k, column] = int(np.argmin(options)), min(options)
    order = linear_sum_assignment(costs)[1]
    if len(columns) == across > 2:
        first = begins[np.arange(across), order]
        found = _side_by_side(columns, first, sealed, public, grid)
        # Where public images are as often mirrored as not, the picture is open up to its mirror image.
        ends = (found, across - 1 - found)
        order = min(ends, key=lambda order: float(costs[np.arange(across), order].sum()))
    return [(int(begins[k, column]), int(column)) for k, column in enumerate(order)]


def _side_by_side(
    columns: list[list[int]],
    begins: Int64Array,
    sealed: Float64Array,
    public: Float64Array,
    grid: tuple[int, int],
) -> Int64Array:
    """Return the place of every column, such that lengths in the same row depend on each other as in public images.

    Both the correlations of columns and their partial correlations are compared: those of columns that are as far
    left as others are right are high, and only neighbours depend on each other once all others are known.
    """
    down, across = grid
    side = sealed.shape[2]
    ends = [begin + len(column) for begin, column in zip(begins, columns, strict=True)]
    shared = range(int(max(begins)), int(min(ends)))
    if not shared:
        return np.arange(across)
    blocks = [[column[r - begin] for r in shared] for begin, column in zip(begins, columns, strict=True)]
    here = sealed[:, np.array(blocks)]  # [n, columns, rows, M]
    on_grid = public.reshape(len(public), down, across, side)
    there = on_grid[:, list(shared)].transpose(0, 2, 1, 3)
    own, known = (_dependence(part.transpose(0, 2, 3, 1).reshape(-1, across)) for part in (here, there))
    rng = np.random.default_rng(0)
    orders = [swap_ascent(own, known, rng.permutation(across)) for _ in range(_STARTS)]
    return max(orders, key=lambda order: assignment_similarity(own, known, order))


def _dependence(samples: Float64Array) -> Float64Array:
    """Return correlations and partial correlations of samples [k, columns], [2, columns, columns], 0 on diagonals."""
    spread = samples.std(0)
    standard = (samples - samples.mean(0)) / np.maximum(spread, 1e-9)
    correlation = standard.T @ standard / len(standard)
    size = len(correlation)
    precision = np.linalg.inv(correlation + _RIDGE * np.eye(size))
    scale = np.sqrt(np.diag(precision))
    tables = np.stack([correlation, -precision / np.outer(scale, scale)])
    others = ~np.eye(size, dtype=bool)
    tables[0] -= tables[0][others].mean()
    tables[:, ~others] = 0
    return np.asarray(tables / np.maximum(np.linalg.norm(tables, axis=(1, 2), keepdims=True), 1e-12))


def _fill(
    chains: list[list[int]], order: list[tuple[int, int]], unlike: Float64Array, grid: tuple[int, int]
) -> Int64Array:
    """Return the place of every block: those of the ordered columns, then the rest where they are least unlike."""
    across = grid[1]
    places = np.full(len(unlike), -1)
    for chain, (begin, column) in zip(chains, order, strict=False):
        for r, block in enumerate(chain):
            places[block] = (begin + r) * across + column
    left = np.flatnonzero(places < 0)
    free = np.setdiff1d(np.arange(len(unlike)), places)
    rows, columns = linear_sum_assignment(unlike[np.ix_(left, free)])
    places[left[rows]] = free[columns]
    return places
