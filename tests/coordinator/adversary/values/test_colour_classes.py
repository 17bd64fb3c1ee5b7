"""Positions of several colours on one grid."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.values.colour_classes import (
    group_gray_pixels,
    lay_out_colours,
    nearest_neighbours,
    split_colours,
)
from crypto.arrays import Float64Array, Int64Array
from tests.support.pictures import is_same_layout


def coloured_distances(side: int, across: float, seed: int) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Return distances, places and colours of shuffled positions. Two colours are `across` further apart than one."""
    rng = np.random.default_rng(seed)
    place, colour = np.divmod(rng.permutation(side * side * 3), 3)
    y, x = np.divmod(place, side)
    far: Float64Array = np.hypot(y[:, None] - y, x[:, None] - x)
    values = far / (far + 3) + across * (colour[:, None] != colour) + 0.02 * rng.random(far.shape)
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0.0)
    return values, place, colour


@pytest.mark.parametrize("across", [0.6, 0.3, 0.27])
def test_colours_are_split(across: float) -> None:
    distances, _, colour = coloured_distances(6, across, 1)
    found = split_colours(distances, 3)
    assert len(set(zip(found.tolist(), colour.tolist(), strict=True))) == 3


def test_colours_that_nothing_tells_apart_are_still_balanced() -> None:
    values = np.random.default_rng(0).random((48, 48))
    found = split_colours((values + values.T) * (1 - np.eye(48)), 3)
    assert np.bincount(found).tolist() == [16, 16, 16]


@pytest.mark.parametrize("across", [0.4, 0.02])
def test_places_and_colours_are_found_together(across: float) -> None:
    distances, place, colour = coloured_distances(6, across, 2)
    assert (group_gray_pixels(distances, 3) is not None) == (across < 0.1)
    found = lay_out_colours(distances, 6, 3)
    assert is_same_layout(found[0] * 3 + found[1], place * 3 + colour, 6, 3)


def test_neighbours_are_mutual_and_never_oneself() -> None:
    distances, _, _ = coloured_distances(4, 0.3, 3)
    near = nearest_neighbours(distances, 2)
    assert (near == near.T).all() and not near.diagonal().any() and (near.sum(1) >= 2).all()
    for i in range(len(near)):
        others = np.delete(np.arange(len(near)), i)
        nearest = others[np.argsort(distances[i, others])[:2]]
        assert near[i, nearest].all()
