"""Which of three gray pictures is Y, Cb and Cr."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.values.ycbcr_planes import gamut_excess, identify_planes
from crypto.arrays import Images
from crypto.schemes.etc import to_planes
from crypto.symmetry import TURN_INVERSES, turned
from tests.support.pictures import smooth


def saturated(n: int) -> Images:
    """Return flat patches of strong colours, uint8 [n, 32, 32, 3]: their planes show the right signs."""
    rng = np.random.default_rng(2)
    colours = rng.choice(np.array([0, 40, 230], np.uint8), (n, 8, 8, 3))
    return colours.repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize("seed", range(4))
def test_planes_are_identified_and_signed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plain = to_planes(saturated(12))[..., 0]
    stack = plain.reshape(12, 32, 3, 32).transpose(0, 2, 1, 3)
    order, turn, negative = rng.permutation(3), rng.integers(0, 8, 3), rng.random(3) < 0.5
    mixed = stack[:, order].copy()
    for p in range(3):
        mixed[:, p] = turned(mixed[:, p], int(turn[p]))
        mixed[:, p] = 255 - mixed[:, p] if negative[p] else mixed[:, p]
    planes = identify_planes(mixed)
    assert planes.is_determined and order[list(planes.sources)].tolist() == [0, 1, 2]
    opened = []
    for source, state, is_negative in zip(planes.sources, planes.turn, planes.negative, strict=True):
        picture = turned(mixed[:, source], state)
        opened.append(255 - picture if is_negative else picture)
    whole = int(TURN_INVERSES[turn[planes.sources[0]]])
    flipped = planes.negative[0] != negative[planes.sources[0]]
    for p in range(3):
        picture = turned(opened[p], whole)
        assert ((255 - picture if flipped else picture) == stack[:, p]).all()


def test_gray_pictures_tell_nothing_of_chroma() -> None:
    gray = np.repeat(smooth(3, 32, 32, 1), 3, 3)
    planes = identify_planes(to_planes(gray)[..., 0].reshape(3, 32, 3, 32).transpose(0, 2, 1, 3))
    assert not planes.is_determined


def test_gamut_excess_counts_what_leaves_rgb() -> None:
    luma, zero = np.full((1, 1, 1), 255, np.float32), np.zeros((1, 1, 1), np.float32)
    assert gamut_excess(luma, zero, zero) == 0
    assert gamut_excess(luma, zero, zero + 10) == pytest.approx(14.02)
