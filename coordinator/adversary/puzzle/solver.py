"""The puzzle of blocks that were moved, turned, negated and recoloured: where each belongs, and in which state.

Source: A. Gallagher, "Jigsaw puzzles with pieces of unknown orientation" (CVPR 2012), over a pool of images.

1. The surest pairs of sides (side_matching.py) are joined first. Each cluster carries place, turn, sign and
   colour order of its blocks, and is moved as one (spanning_tree.py).
2. Clusters that the frame keeps apart are joined by states alone.
3. Every block then stands upright, so that seams.py and assembly.py find the places as they do for blocks that
   were only moved.
4. Each block's state is chosen again beside its neighbours (block_refinement.py), and then the places again, until
   nothing changes.

The solution is right up to the eight symmetries of the picture, the sign and the colour order of the whole, and
shifts by whole blocks if nothing shows the border. The darker sign is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.adversary.puzzle.assembly import assemble, seam_fit
from coordinator.adversary.puzzle.block_refinement import refine_states
from coordinator.adversary.puzzle.block_symmetry import sides_to_walks, transform_walks, walks_to_sides
from coordinator.adversary.puzzle.seams import seam_costs
from coordinator.adversary.puzzle.side_matching import (
    best_pairs,
    pair_costs,
    pair_margins,
    typical_likelihoods,
)
from coordinator.adversary.puzzle.spanning_tree import join_pairs, join_states, single_blocks
from coordinator.adversary.puzzle.swap_search import total_cost
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft, always
from crypto.arrays import BoolArray, Float32Array, Int64Array
from crypto.symmetry import TURN_PRODUCTS

#: Most images that are compared one by one: a bound on time. Set once by hand; no measurement is recorded.
_MOST_IMAGES = 40
#: Most rounds of states and places in turn. Set once by hand; no measurement is recorded.
_ROUNDS = 4

#: Turn int64 [N], negative bool [N] and colour order int64 [N] of every block.
States = tuple[Int64Array, BoolArray, Int64Array]


@dataclass(frozen=True)
class Solution:
    """A picture put together from N blocks.

    Turn, negative and order set each sealed block upright: turned as in crypto/symmetry.py, then 255 - v if negative,
    then its components taken in COLOUR_ORDERS[order].

    Attributes:
        grid: int64 [rows, columns], the block that belongs in each cell.
        turn: int64 [N].
        negative: bool [N].
        order: int64 [N].
        largest_cluster: The most blocks that were joined by sure pairs, which beat all rivals: near N if the
            puzzle is clear.
        fit: The share of the evidence of the blocks' best seams that the picture uses (`seam_fit`).
    """

    grid: Int64Array
    turn: Int64Array
    negative: BoolArray
    order: Int64Array
    largest_cluster: int
    fit: float = 1.0


def solve(
    sides: Float32Array,
    channels: int,
    shape: tuple[int, int],
    time_left: TimeLeft = always,
    frame: tuple[int, int] | None = None,
) -> Solution:
    """Put a picture together from the sides of its blocks.

    Args:
        sides: float32 [n, 4, N, M·c], from `seams.block_sides`, of n images.
        channels: c.
        shape: Rows and columns of the picture.
        time_left: Asked between steps. The search ends early if it returns False.
        frame: Rows and columns that no cluster of sure pairs may outgrow, if the picture is made of smaller ones.
    """
    walks, count = sides_to_walks(sides, channels), shape[0] * shape[1]
    if count == 1:
        zero = np.zeros(1, np.int64)
        return Solution(zero.reshape(1, 1), zero, _darker_signs(walks, zero > 0), zero, 1)
    pairs = best_pairs(walks, time_left)
    walks = evenly_spaced(walks, _MOST_IMAGES)
    typical = typical_likelihoods(walks)
    costs = pair_costs(walks, typical, pairs, time_left)
    margins = pair_margins(pairs, costs, count)
    pairs = pairs[np.lexsort((costs, margins))]
    sure_pairs = pairs[: int((margins < 0).sum())]
    sure = join_pairs(sure_pairs, single_blocks(count), frame or shape, time_left)
    joined = join_states(pairs, join_pairs(pairs, sure, frame or shape, time_left), time_left)
    states: States = joined.turn, joined.sign < 0, joined.order
    grid, cost, fit = _find_places(walks, states, shape, time_left)
    if (
        shape[0] != shape[1] and frame is None and time_left()
    ):  # a picture that is not square may lie on its side
        lying: States = TURN_PRODUCTS[states[0], 1], states[1], states[2]
        other_grid, other_cost, other_fit = _find_places(walks, lying, shape, time_left)
        if other_cost < cost:
            states, grid, cost, fit = lying, other_grid, other_cost, other_fit
    for _ in range(_ROUNDS):
        if not time_left():
            break
        new_states = refine_states(walks, typical, grid, *states, time_left)
        if all((new == old).all() for new, old in zip(new_states, states, strict=True)):
            break
        new_grid, new_cost, new_fit = _find_places(walks, new_states, shape, time_left)
        if new_cost >= cost:
            break
        states, grid, cost, fit = new_states, new_grid, new_cost, new_fit
    turn, negative, order = states
    largest_cluster = int(np.bincount(sure.label).max())
    return Solution(grid, turn, _darker_signs(walks, negative), order, largest_cluster, fit)


def _find_places(
    walks: Float32Array, states: States, shape: tuple[int, int], time_left: TimeLeft
) -> tuple[Int64Array, float, float]:
    """Return the grid of the blocks set upright by their states, int64 [rows, columns], its cost, and its fit."""
    sides = walks_to_sides(transform_walks(walks, *states))
    across, down = seam_costs(sides, shape[0] * shape[1], time_left)
    grid = assemble(across, down, shape, time_left)
    return grid, total_cost(grid, across, down), seam_fit(grid, across, down)


def _darker_signs(walks: Float32Array, negative: BoolArray) -> BoolArray:
    """Return the same signs, or all the opposite ones, so that the whole is rather dark; bool [N]."""
    level = walks.mean((0, 2, 3, 4)) * np.where(negative, -1, 1)
    signs: BoolArray = negative ^ (level.sum() > 0)
    return signs
