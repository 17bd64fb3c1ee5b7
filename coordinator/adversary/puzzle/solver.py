"""The puzzle of blocks that were moved, turned, negated and recoloured: where each belongs, and in which state.

Source: A. Gallagher, "Jigsaw puzzles with pieces of unknown orientation" (CVPR 2012), over a pool. The surest
pairs of sides (fits.py) join first; each cluster carries place, turn, sign and colour order of its blocks, and
is moved as one. What the frame keeps apart is joined by states alone. Every block then stands upright, so that
seams.py and assemble.py find the places as they do for blocks that were only moved; last, each block's state is
tried anew beside its neighbours, and so on in turn until nothing changes.

Right up to the eight symmetries of the picture, the sign and the colour order of the whole, and shifts by whole
blocks where nothing tells the border. The darker sign is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coordinator.adversary.puzzle.assembly import assemble
from coordinator.adversary.puzzle.block_refinement import improve
from coordinator.adversary.puzzle.block_symmetry import THEN, as_sides, upright_walks, walks
from coordinator.adversary.puzzle.seams import seam_costs
from coordinator.adversary.puzzle.side_matching import best_pairs, pair_margins, usual_fits, weigh
from coordinator.adversary.puzzle.spanning_tree import alone, join, tie
from coordinator.adversary.puzzle.swap_search import total_cost
from coordinator.adversary.time_budget import always

_WEIGHED = 40  # most images that are weighed one by one
_ROUNDS = 4  # of places and states in turn


@dataclass(frozen=True)
class Solved:
    """A picture put together from N blocks.

    grid: int64 [rows, columns], the block that belongs in each cell.
    turn, negative, order: int64, bool, int64 [N], what sets each given block upright: turned as in
    crypto/schemes/etc.py, 255 - v where negative, then its components taken in ORDERS[order] (crypto/schemes/pe.py).
    size: the most blocks that sure joins tied together, pairs that beat all rivals: near N where the puzzle is clear.
    """

    grid: np.ndarray
    turn: np.ndarray
    negative: np.ndarray
    order: np.ndarray
    size: int


def solve(
    sides: np.ndarray,
    channels: int,
    shape: tuple[int, int],
    time_left: Callable[[], bool] = always,
    frame: tuple[int, int] | None = None,
) -> Solved:
    """float32 [n, 4, N, M·c], what `block_sides` gives of n images, → the picture of shape (rows, columns).

    frame: rows and columns that no cluster of sure joins outgrows, where the picture is made of smaller ones.
    `more` is asked between steps and ends the search early by returning False.
    """
    walked, count = walks(sides, channels), shape[0] * shape[1]
    if count == 1:
        zero = np.zeros(1, np.int64)
        return Solved(zero.reshape(1, 1), zero, _darker(walked, zero > 0), zero, 1)
    pairs = best_pairs(walked, time_left)
    few = min(len(walked), _WEIGHED)
    walked = walked[np.linspace(0, len(walked) - 1, few).astype(np.int64)]
    usual = usual_fits(walked)
    costs = weigh(walked, usual, pairs, time_left)
    margins = pair_margins(pairs, costs, count)
    pairs = pairs[np.lexsort((costs, margins))]
    sure = join(pairs[: int((margins < 0).sum())], alone(count), frame or shape, time_left)
    tied = tie(pairs, join(pairs, sure, frame or shape, time_left), time_left)
    turn, negative, order = tied.turn, tied.sign < 0, tied.order
    grid, cost = _places(walked, (turn, negative, order), shape, time_left)
    if shape[0] != shape[1] and frame is None and time_left():  # upright may also mean lying on a side
        lying = THEN[turn, 1]
        other, other_cost = _places(walked, (lying, negative, order), shape, time_left)
        if other_cost < cost:
            turn, grid, cost = lying, other, other_cost
    for _ in range(_ROUNDS):
        if not time_left():
            break
        states = improve(walked, usual, grid, turn, negative, order, time_left)
        if all((new == old).all() for new, old in zip(states, (turn, negative, order), strict=True)):
            break
        new_grid, new_cost = _places(walked, states, shape, time_left)
        if new_cost >= cost:
            break
        (turn, negative, order), grid, cost = states, new_grid, new_cost
    return Solved(grid, turn, _darker(walked, negative), order, int(np.bincount(sure.name).max()))


def _places(
    walked: np.ndarray,
    states: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int],
    time_left: Callable[[], bool],
) -> tuple[np.ndarray, float]:
    """(grid, its cost): the blocks set upright by their states and put in their places."""
    sides = as_sides(upright_walks(walked, *states))
    across, down = seam_costs(sides, shape[0] * shape[1], time_left)
    grid = assemble(across, down, shape, time_left)
    return grid, total_cost(grid, across, down)


def _darker(walked: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """bool [N]: the same signs, or all the others, so that the whole is rather dark."""
    level = walked.mean((0, 2, 3, 4)) * np.where(negative, -1, 1)
    return negative ^ (level.sum() > 0)
