"""How well two blocks' sides fit."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle import grid_layout as layout
from coordinator.adversary.puzzle import seams
from crypto.kernels.blocks import block_pixels


def test_block_sides_by_hand():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    right, left, bottom, top = seams.block_sides(image, block_pixels(4, 4, 2), 2)[0]
    assert right[0].tolist() == [1.5, 5.5] and left[1].tolist() == [1.5, 5.5]
    assert bottom[0].tolist() == [6.0, 7.0] and top[2].tolist() == [6.0, 7.0]


def test_block_sides_of_single_pixels_keep_their_values():
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    assert (seams.block_sides(image, block_pixels(2, 3, 1), 1)[0, :, :, 0] == np.arange(6)).all()


def naive_seam_costs(images: np.ndarray) -> np.ndarray:
    """[n, 4, N, F] → [2, N, N], word for word what seams.py says of itself."""
    n, _, count, _ = images.shape
    off = ~np.eye(count, dtype=bool)
    out = np.zeros((2, count, count))

    def fit(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 1 / (((a[:, None] - b[None]) ** 2).mean(-1) + 4) ** 2 * off

    for direction in (0, 1):
        first, second = images[:, 2 * direction].astype(float), images[:, 2 * direction + 1].astype(float)
        own = [fit(first[t], second[t]) for t in range(n)]
        usual = [[np.sqrt(o.sum(axis) / (count - 1)) for axis in (1, 0)] for o in own]
        for t in range(n):
            out[direction] -= np.log(0.02 + own[t] / usual[t][0][:, None] / usual[t][1])
            if n > 1:
                u = (t + 1) % n
                cross = fit(first[t], second[u]) / usual[t][0][:, None] / usual[u][1]
                out[direction] += 0.5 * np.log(0.02 + cross)
    return out * off


@pytest.mark.parametrize("n", [1, 2, 5])
def test_seam_costs_against_numpy(n):
    images = np.random.default_rng(n).normal(0, 3, (n, 4, 7, 6)).astype(np.float32)
    assert np.allclose(seams.seam_costs(iter(images), 7), naive_seam_costs(images), atol=1e-4)


def test_seam_costs_stop_when_time_is_up():
    images = np.random.default_rng(0).normal(0, 3, (5, 4, 7, 6)).astype(np.float32)
    stopped = seams.seam_costs(iter(images), 7, time_left=lambda: False)
    assert np.allclose(stopped, seams.seam_costs(iter(images[:1]), 7))


def test_seams_of_what_is_black_in_every_image_say_little():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 1), np.uint8)
    images[:, :, :16] = 0
    sides = seams.block_sides(images, block_pixels(32, 32, 8), 8)
    across, down = seams.seam_costs(iter(sides), 16)
    black = [i for i in range(16) if i % 4 < 2]
    within_black = across[np.ix_(black, black)][~np.eye(8, dtype=bool)]
    assert np.ptp(within_black) < 1e-3  # interchangeable: no order of them is preferred
    ramp = np.add.outer(np.arange(32), np.arange(32)) * 3
    smooth = (ramp[None, :, :, None] + 40 * rng.random((20, 1, 1, 1))).astype(np.uint8)
    smooth[:, :, :16] = 0
    across, down = seams.seam_costs(iter(seams.block_sides(smooth, block_pixels(32, 32, 8), 8)), 16)
    assert down[2, 6] < down[0, 4] and across[2, 3] < across[0, 1]  # a true seam of content tells more


def test_inner_seams_are_least_for_the_true_turn():
    ramp = (np.arange(16)[:, None] * 7 + np.arange(16) * 3).astype(np.uint8)
    quarters = ramp.reshape(1, 2, 8, 2, 8).transpose(0, 1, 3, 2, 4).reshape(1, 4, 64, 1)
    scores = [seams.inner_seams(quarters[:, :, turn], 8) for turn in layout.symmetries(8)]
    identity = [i for i, turn in enumerate(layout.symmetries(8)) if (turn == np.arange(64)).all()]
    assert int(np.argmin(scores)) == identity[0]
    assert min(scores) == pytest.approx(0.0, abs=1e-6)
