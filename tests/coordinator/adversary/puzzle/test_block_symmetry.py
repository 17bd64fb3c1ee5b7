"""The states of a block and what each does to its sides."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle.block_symmetry import (
    FACING_WALK,
    IS_REVERSED,
    MIDDLE_GRAY,
    TURN_FACING,
    TURN_STEPS,
    sides_to_walks,
    transform_walks,
    walks_to_sides,
)
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.symmetry import (
    COLOUR_ORDERS,
    ORDER_INVERSES,
    ORDER_PRODUCTS,
    TURN_INVERSES,
    TURN_PRODUCTS,
    turned_pixels,
)
from tests.support.puzzles import random_states, set_states, walks_of


@pytest.mark.parametrize("channels", [1, 3])
def test_transformed_walks_are_the_walks_of_transformed_blocks(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 8, channels), np.uint8)
    states = random_states(6, channels, 3)
    transformed = from_blocks(set_states(to_blocks(images, 4), *states), 12, 8)
    assert np.allclose(transform_walks(walks_of(images, 4), *states), walks_of(transformed, 4))


def test_a_walk_is_read_clockwise_and_walks_to_sides_undoes_it() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    lines = np.stack([image[0, :, 2, 0], image[0, :, 0, 0], image[0, 2, :, 0], image[0, 0, :, 0]])
    sides = lines.astype(np.float32)[None, :, None]  # right, left, bottom, top
    walks = sides_to_walks(sides, 1)
    expected = [[0, 1, 2], [2, 5, 8], [8, 7, 6], [6, 3, 0]]
    assert (walks[0, 0, :, :, 0] + MIDDLE_GRAY).tolist() == expected
    assert np.allclose(walks_to_sides(walks) + MIDDLE_GRAY, sides)


def test_tables_of_turns_and_orders() -> None:
    cells = np.arange(16)
    pixels = turned_pixels(4)
    for a, b in itertools.product(range(8), range(8)):
        assert (cells[pixels[a]][pixels[b]] == cells[pixels[TURN_PRODUCTS[a, b]]]).all()
    assert (TURN_PRODUCTS[np.arange(8), TURN_INVERSES] == 0).all()
    for a, b in itertools.product(range(6), range(6)):
        assert (COLOUR_ORDERS[a][COLOUR_ORDERS[b]] == COLOUR_ORDERS[ORDER_PRODUCTS[a, b]]).all()
    assert (ORDER_PRODUCTS[np.arange(6), ORDER_INVERSES] == 0).all()
    # A quarter turn counter-clockwise takes a step right to a step up.
    assert (TURN_STEPS[1] @ [0, 1]).tolist() == [-1, 0]
    for turn, direction, backward in itertools.product(range(8), range(4), range(2)):
        same = TURN_FACING[FACING_WALK[turn, direction], backward, direction]
        assert (same == turn) == (backward == IS_REVERSED[turn, direction])
