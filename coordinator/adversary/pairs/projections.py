"""The places and matrices of `block_projection` from known pairs (T3): linear regression.

Source: textbook. The rows of a block at its place are y = x·R + noise in every pair. So:

1. a sealed block is the block whose rows explain it best: the one that leaves the least of it outside the span that
   these rows have over all pairs. One assignment decides for all blocks (`shuffle`);
2. R is the least-squares solution; if it is known to be orthogonal, the nearest rotation (Procrustes' problem).

Rows must be more than a row has values, or every block explains every other: a note says so, and the places of blocks
that are alike in all pairs stay open. The authors of DisguisedNets count on no pairs being known.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordinator.adversary.opened import RecoveredProjection
from crypto.arrays import AnyArray, Float64Array, Images, Int64Array
from crypto.kernels.blocks import to_blocks
from crypto.scheme import load
from crypto.schemes.block_projection import BlockProjection
from crypto.spec import SchemeSpec

#: Singular values that count, as a share of the largest.
_RANK = 1e-6


def solve_projection(
    spec: SchemeSpec, plain: Images, sealed: AnyArray
) -> tuple[RecoveredProjection | None, str]:
    """Recover the key from pairs of the scheme's shapes and dtypes; return it and what stayed open."""
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, BlockProjection)
    offset = algorithm.noise / 2
    before, after = _stacked(plain, spec), _stacked(sealed, spec) - offset
    count, rows, size = before.shape
    notes = []
    order = np.arange(count)
    if algorithm.moves_blocks:
        if rows <= size:
            return None, f"{rows} rows of a block are known: more than its {size} values are needed"
        order = _order(before, after)
    in_place = np.empty_like(after)
    in_place[order] = after
    if algorithm.count == 1:
        before, in_place = before.reshape(1, -1, size), in_place.reshape(1, -1, size)
    ranks = np.array([np.linalg.matrix_rank(rows_of_place, tol=None) for rows_of_place in before])
    matrices = np.linalg.pinv(before, rcond=_RANK) @ in_place
    if algorithm.is_orthogonal:
        left, _, right = np.linalg.svd(before.transpose(0, 2, 1) @ in_place)
        matrices = left @ right
    else:
        # What the pairs do not show is left as it is, so that a matrix can be undone.
        singular = np.linalg.svd(matrices, compute_uv=False)[:, -1] < _RANK
        matrices[singular] += np.eye(size)
    if (ranks < size).any():
        notes.append(f"{int((ranks < size).sum())} of {len(ranks)} matrices are known in part")
    if algorithm.noise:
        notes.append("the images keep their noise")
    whole = np.broadcast_to(matrices, (count, size, size)).astype(np.float32)
    return RecoveredProjection(whole, order, offset), "; ".join(notes)


def _stacked(images: AnyArray, spec: SchemeSpec) -> Float64Array:
    """Return the rows of every block over all images, float64 [N, m·M, M·c]."""
    blocks = to_blocks(images, spec.block).astype(np.float64)
    rows = blocks.reshape(*blocks.shape[:2], spec.block, -1).transpose(1, 0, 2, 3)
    return rows.reshape(len(rows), -1, rows.shape[3])


def _order(before: Float64Array, after: Float64Array) -> Int64Array:
    """Return which plain block each sealed block is, int64 [N]: the one that leaves least of it unexplained."""
    costs = np.empty((len(after), len(before)))
    squares = (after**2).sum((1, 2))
    for place, rows in enumerate(before):
        left, values, _ = np.linalg.svd(rows, full_matrices=False)
        span = left[:, values > _RANK * max(float(values[0]), 1e-300)]
        costs[:, place] = squares - ((span.T @ after) ** 2).sum((1, 2))
    # A small block that leaves little because it is small must not be taken for a good match.
    costs /= np.maximum(squares[:, None], 1e-9)
    rows_of, places = linear_sum_assignment(costs)
    order = np.empty(len(after), np.int64)
    order[rows_of] = places
    return order
