"""What it costs to put two blocks side by side."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.puzzle.seams import block_sides, inner_seam_cost, seam_costs
from crypto.arrays import Float32Array, Float64Array
from crypto.kernels.blocks import block_pixels


def test_block_sides_by_hand() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    right, left, bottom, top = block_sides(image, block_pixels(4, 4, 2), 2)[0]
    assert right[0].tolist() == [1.5, 5.5] and left[1].tolist() == [1.5, 5.5]
    assert bottom[0].tolist() == [6.0, 7.0] and top[2].tolist() == [6.0, 7.0]


def test_block_sides_of_single_pixels_keep_their_values() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    assert (block_sides(image, block_pixels(2, 3, 1), 1)[0, :, :, 0] == np.arange(6)).all()


def naive_seam_costs(images: Float32Array) -> Float64Array:
    """Return [2, N, N] of sides [n, 4, N, F], word for word as the docstring of seams.py says it."""
    n, _, count, _ = images.shape
    off_diagonal = ~np.eye(count, dtype=bool)
    out = np.zeros((2, count, count))

    def likelihood(a: Float64Array, b: Float64Array) -> Float64Array:
        result: Float64Array = 1 / (((a[:, None] - b[None]) ** 2).mean(-1) + 4) ** 2 * off_diagonal
        return result

    for direction in (0, 1):
        first, second = images[:, 2 * direction].astype(float), images[:, 2 * direction + 1].astype(float)
        same = [likelihood(first[t], second[t]) for t in range(n)]
        typical = [[np.sqrt(s.sum(axis) / (count - 1)) for axis in (1, 0)] for s in same]
        for t in range(n):
            out[direction] -= np.log(0.02 + same[t] / typical[t][0][:, None] / typical[t][1])
            if n > 1:
                u = (t + 1) % n
                cross = likelihood(first[t], second[u]) / typical[t][0][:, None] / typical[u][1]
                out[direction] += 0.5 * np.log(0.02 + cross)
    return out * off_diagonal


@pytest.mark.parametrize("n", [1, 2, 5])
def test_seam_costs_against_numpy(n: int) -> None:
    images = np.random.default_rng(n).normal(0, 3, (n, 4, 7, 6)).astype(np.float32)
    assert np.allclose(seam_costs(iter(images), 7), naive_seam_costs(images), atol=1e-4)


def test_seam_costs_stop_when_time_is_up() -> None:
    images = np.random.default_rng(0).normal(0, 3, (5, 4, 7, 6)).astype(np.float32)
    stopped = seam_costs(iter(images), 7, time_left=lambda: False)
    assert np.allclose(stopped, seam_costs(iter(images[:1]), 7))


def test_seams_of_what_is_black_in_every_image_say_little() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 1), np.uint8)
    images[:, :, :16] = 0
    sides = block_sides(images, block_pixels(32, 32, 8), 8)
    across, down = seam_costs(iter(sides), 16)
    black = [i for i in range(16) if i % 4 < 2]
    within_black = across[np.ix_(black, black)][~np.eye(8, dtype=bool)]
    assert np.ptp(within_black) < 1e-3  # interchangeable: no order of them is preferred
    ramp = np.add.outer(np.arange(32), np.arange(32)) * 3
    smooth = (ramp[None, :, :, None] + 40 * rng.random((20, 1, 1, 1))).astype(np.uint8)
    smooth[:, :, :16] = 0
    across, down = seam_costs(iter(block_sides(smooth, block_pixels(32, 32, 8), 8)), 16)
    assert down[2, 6] < down[0, 4] and across[2, 3] < across[0, 1]  # a true seam of content tells more


def test_inner_seams_cost_least_for_the_true_turn() -> None:
    ramp = (np.arange(16)[:, None] * 7 + np.arange(16) * 3).astype(np.uint8)
    quarters = ramp.reshape(1, 2, 8, 2, 8).transpose(0, 1, 3, 2, 4).reshape(1, 4, 64, 1)
    costs = [inner_seam_cost(quarters[:, :, turn], 8) for turn in grid_symmetries(8)]
    identity = [i for i, turn in enumerate(grid_symmetries(8)) if (turn == np.arange(64)).all()]
    assert int(np.argmin(costs)) == identity[0]
    assert min(costs) == pytest.approx(0.0, abs=1e-6)
