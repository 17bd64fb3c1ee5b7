"""The puzzle of turned, negated and recoloured blocks: whole pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle.solver import Solution, solve
from crypto.arrays import Images
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.symmetry import TURNS, turned
from tests.support.pictures import smooth
from tests.support.puzzles import disorder, set_states, sides_of


def put_together(images: Images, block: int, solution: Solution) -> Images:
    """Return the images with every block upright and in its place."""
    upright = set_states(to_blocks(images, block), solution.turn, solution.negative, solution.order)
    return from_blocks(upright[:, solution.grid.ravel()], *images.shape[1:3])


def is_symmetric(guess: Images, plain: Images) -> bool:
    """Return whether some turn, sign and colour order of the whole makes them equal."""
    for turn in range(TURNS):
        state = turned(guess, turn)
        for order in itertools.permutations(range(plain.shape[3])):
            if state.shape == plain.shape:
                recoloured = state[..., order]
                if (recoloured == plain).all() or (255 - recoloured == plain).all():
                    return True
    return False


@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "block"),
    [
        (3, 64, 64, 1, 8),
        (1, 64, 64, 3, 8),
        (3, 48, 80, 1, 8),
        (2, 48, 32, 3, 8),
        (20, 24, 24, 3, 4),
        (2, 96, 96, 3, 16),
    ],
)
def test_the_picture_is_put_together_exactly(
    n: int, height: int, width: int, channels: int, block: int
) -> None:
    plain = smooth(n, height, width, channels, seed=1)
    mixed = disorder(plain, block, 9)
    solution = solve(sides_of(mixed, block), channels, (height // block, width // block))
    assert is_symmetric(put_together(mixed, block, solution), plain)
    assert solution.largest_cluster == solution.grid.size
    again = solve(sides_of(mixed, block), channels, (height // block, width // block))
    assert all(
        np.array_equal(a, b) for a, b in zip(vars(solution).values(), vars(again).values(), strict=True)
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 5)])
def test_pictures_of_few_blocks(shape: tuple[int, int]) -> None:
    images = smooth(2, 8 * shape[0], 8 * shape[1], 1)
    solution = solve(sides_of(images, 8), 1, shape)
    assert sorted(solution.grid.ravel()) == list(range(shape[0] * shape[1]))
    assert put_together(images, 8, solution).mean() < 127.5  # the darker sign


def test_without_time_every_block_still_has_a_place() -> None:
    mixed = disorder(smooth(2, 32, 32, 3), 8, 1)
    solution = solve(sides_of(mixed, 8), 3, (4, 4), lambda: False)
    assert sorted(solution.grid.ravel()) == list(range(16))


def test_noise_joins_few_blocks() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 1), np.uint8)
    solution = solve(sides_of(images, 8), 1, (8, 8))
    assert sorted(solution.grid.ravel()) == list(range(64)) and solution.largest_cluster < 32
