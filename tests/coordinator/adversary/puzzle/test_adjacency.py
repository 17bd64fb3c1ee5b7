"""Which blocks touch, without any layout, and the order that follows."""

from __future__ import annotations

import numpy as np

from coordinator.adversary.puzzle.adjacency import block_distances, order_blocks
from crypto.kernels.blocks import to_blocks
from tests.support.pictures import fields


def test_neighbours_are_nearest_whatever_the_order_inside() -> None:
    plain = fields(130, 48, 48)
    rng = np.random.default_rng(4)
    blocks = to_blocks(plain[:100], 8)[..., 0].transpose(1, 2, 0)  # [36, 64, n]
    shuffled = np.stack([block[rng.permutation(64)] for block in blocks])
    distances = block_distances(shuffled, 8)
    row, column = np.divmod(np.arange(36), 6)
    touch = abs(row[:, None] - row) + abs(column[:, None] - column) == 1
    near = np.argsort(distances + 9 * np.eye(36), 1)[:, :2]
    assert np.take_along_axis(touch, near, 1).mean() > 0.9
    assert (distances == distances.T).all()


def test_blocks_are_put_in_order_by_their_distances() -> None:
    rng = np.random.default_rng(5)
    row, column = np.divmod(np.arange(36), 6)
    away = abs(row[:, None] - row) + abs(column[:, None] - column)
    distances = np.where(away == 1, 1.0, 1.4) + rng.uniform(0, 0.1, (36, 36))
    start = np.arange(36)
    moved = rng.choice(36, 14, replace=False)
    start[moved] = start[rng.permutation(moved)]
    grid = order_blocks((distances + distances.T) / 2, start.reshape(6, 6))
    assert (away[grid[:, 1:], grid[:, :-1]] == 1).all() and (away[grid[1:], grid[:-1]] == 1).all()
