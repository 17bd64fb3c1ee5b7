"""Turns, colour orders and moves against hand-written answers."""

from __future__ import annotations

import numpy as np
import pytest

from crypto.symmetry import (
    COLOUR_ORDERS,
    ORDER_INVERSES,
    ORDER_PRODUCTS,
    TURN_INVERSES,
    TURN_PRODUCTS,
    TURNS,
    Move,
    Orbit,
    colour_orders,
    rotations_and_transposes,
    turned,
    turned_pixels,
)
from tests.support import reference_schemes

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("turn", range(TURNS))
def test_turns_are_the_reference_s(turn: int) -> None:
    expected = np.stack([reference_schemes.turned(image, turn) for image in IMAGES])
    assert np.array_equal(turned(IMAGES, turn), expected)
    assert np.array_equal(turned(IMAGES[0], turn, (0, 1)), expected[0])
    assert np.array_equal(IMAGES.reshape(2, 25, 3)[:, turned_pixels(5)[turn]], expected.reshape(2, 25, 3))
    assert np.array_equal(Move(turn=turn).apply(IMAGES, 1), expected)


def test_products_and_inverses_of_turns() -> None:
    for first in range(TURNS):
        assert np.array_equal(turned(turned(IMAGES, first), int(TURN_INVERSES[first])), IMAGES)
        for second in range(TURNS):
            product = turned(IMAGES, int(TURN_PRODUCTS[first, second]))
            assert np.array_equal(turned(turned(IMAGES, first), second), product)


def test_products_and_inverses_of_colour_orders() -> None:
    for first, order in enumerate(COLOUR_ORDERS):
        assert np.array_equal(IMAGES[..., order][..., COLOUR_ORDERS[ORDER_INVERSES[first]]], IMAGES)
        for second, other in enumerate(COLOUR_ORDERS):
            product = IMAGES[..., COLOUR_ORDERS[ORDER_PRODUCTS[first, second]]]
            assert np.array_equal(IMAGES[..., order][..., other], product)
    assert colour_orders(3) is COLOUR_ORDERS and colour_orders(1).tolist() == [[0]]


def test_rotations_and_transposes_are_the_eight_turns() -> None:
    grid = np.arange(12).reshape(3, 4)
    states = [state.tolist() for state in rotations_and_transposes(grid)]
    assert states[0] == grid.tolist() and states[4] == grid.T.tolist() and len(states) == TURNS
    for turn in range(TURNS):
        assert turned(grid, turn, (0, 1)).tolist() in states


def test_a_union_leaves_open_what_either_orbit_does() -> None:
    union = Orbit(turns=True).union(Orbit(negatives=True, shifts=True))
    assert union == Orbit(turns=True, negatives=True, shifts=True)
    assert union.size((8, 8, 1)) == 8 * 2 * 49
