"""Colour planes turned alike by what touches in each of them."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.puzzle.plane_alignment import align_planes
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from crypto.arrays import Float64Array, Images
from crypto.kernels.blocks import block_pixels
from tests.support.pictures import smooth

SIDE = 8


def plane_costs(plane: Images, turn: int) -> Float64Array:
    """Return the seam costs of a plane, uint8 [n, h, w, 1], whose blocks all lie in one of the eight turns."""
    _, height, width, _ = plane.shape
    cells = block_pixels(height, width, SIDE)
    turned = np.empty_like(plane).reshape(len(plane), -1, 1)
    flat = plane.reshape(len(plane), -1, 1)
    turned[:, cells[:, grid_symmetries(SIDE)[turn]]] = flat[:, cells]
    sides = block_sides(turned.reshape(plane.shape), cells, SIDE)
    return np.stack(seam_costs(sides, len(cells)))


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_plane_is_turned_back(turn: int) -> None:
    planes = smooth(3, 48, 64, 3, seed=turn)
    lying = (0, turn, 3)
    costs = np.stack([plane_costs(planes[..., k, None], lying[k]) for k in range(3)])
    turns, symmetries = align_planes(costs), grid_symmetries(SIDE)
    assert turns[0] == 0
    for k in range(3):
        # Turned as it lies and then turned back, every pixel is where it was.
        assert (symmetries[turns[k]][symmetries[lying[k]]] == np.arange(SIDE * SIDE)).all()


def test_planes_that_show_nothing_keep_their_turns() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 2, 40, 40))
    noise[1:] += noise[0]  # what little agrees, agrees as the planes lie
    assert align_planes(noise).tolist() == [0, 0, 0]
    assert align_planes(np.zeros((3, 2, 5, 5))).tolist() == [0, 0, 0]
    assert align_planes(noise[:1]).tolist() == [0]
