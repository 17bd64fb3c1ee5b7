"""The values of one block over a pool: their distances, and which of them are flipped."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.values.value_distances import relative_signs, tree_signs, value_distances
from crypto.kernels.blocks import to_blocks
from tests.support.pictures import fields


def test_value_distances_are_those_of_a_loop() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    equal, opposite = value_distances(values)
    wide = values.astype(float)
    for k in range(6):
        for other in range(6):
            if k != other:
                assert equal[k, other] == pytest.approx(
                    np.log1p(abs(wide[k] - wide[other])).mean(), rel=1e-5
                )
                both = np.log1p(abs(wide[k] + wide[other] - 255)).mean()
                assert opposite[k, other] == pytest.approx(both, rel=1e-5)


def test_masks_are_found_from_twenty_images() -> None:
    plain = fields(130, 48, 48)
    rng = np.random.default_rng(1)
    for block in to_blocks(plain[:20], 8)[..., 0].transpose(1, 2, 0)[:8]:  # [V, n]
        flipped = rng.random(64) < 0.5
        signs = relative_signs(*value_distances(np.where(flipped[:, None], 255 - block, block)))
        assert (signs == (flipped ^ flipped[0] ^ signs[0])).all()


def test_signs_follow_the_strongest_tree() -> None:
    coupling = np.array([[0, -3, 1, 0], [-3, 0, -2, 0.5], [1, -2, 0, -4], [0, 0.5, -4, 0]], float)
    assert tree_signs(coupling).tolist() == [1, -1, 1, -1]
