"""The constrained tree: clusters that carry place, turn, sign and colour order."""

from __future__ import annotations

import itertools

import numpy as np

from coordinator.adversary.puzzle.block_symmetry import TURN_STEPS
from coordinator.adversary.puzzle.side_matching import (
    best_pairs,
    pair_costs,
    pair_margins,
    typical_likelihoods,
)
from coordinator.adversary.puzzle.spanning_tree import Clusters, join_pairs, join_states, single_blocks
from crypto.arrays import Int64Array
from crypto.symmetry import ORDER_INVERSES, ORDER_PRODUCTS, TURN_INVERSES, TURN_PRODUCTS
from tests.support.pictures import smooth
from tests.support.puzzles import disorder, random_states, walks_of


def true_pairs(shape: tuple[int, int]) -> Int64Array:
    """Return the pairs of an upright picture: right sides beside left ones, bottoms above tops."""
    cells = np.arange(shape[0] * shape[1]).reshape(shape)
    across = [
        [i, 1, j, 3, 0, 1, 0] for i, j in zip(cells[:, :-1].ravel(), cells[:, 1:].ravel(), strict=True)
    ]
    down = [[i, 2, j, 0, 0, 1, 0] for i, j in zip(cells[:-1].ravel(), cells[1:].ravel(), strict=True)]
    return np.array(across + down)


def test_joins_put_an_upright_picture_together() -> None:
    clusters = join_pairs(true_pairs((3, 4)), single_blocks(12), (3, 4))
    assert len(set(clusters.label)) == 1 and (clusters.turn == clusters.turn[0]).all()
    steps = clusters.position - clusters.position[0]
    back = TURN_STEPS[TURN_INVERSES[clusters.turn[0]]]
    assert [tuple(back @ s) for s in steps] == [(k // 4, k % 4) for k in range(12)]


def test_joins_that_overlap_or_leave_the_frame_are_refused() -> None:
    row = true_pairs((1, 3))
    assert len(set(join_pairs(row, single_blocks(3), (2, 2)).label)) == 2
    twice = np.array([[0, 1, 1, 3, 0, 1, 0], [0, 1, 2, 3, 0, 1, 0]])
    framed = join_pairs(twice, single_blocks(3), (3, 3))
    assert framed.label[0] == framed.label[1] != framed.label[2]
    unframed = join_states(twice, framed)
    assert len(set(unframed.label)) == 1 and framed.label[2] == 2


def test_joins_carry_turn_sign_and_order() -> None:
    walks = walks_of(disorder(smooth(3, 16, 16, 3, seed=1), 8, 4), 8)
    pairs = best_pairs(walks)
    margins = pair_margins(pairs, pair_costs(walks, typical_likelihoods(walks), pairs), 4)
    clusters = join_pairs(pairs[np.argsort(margins)], single_blocks(4), (2, 2))
    assert isinstance(clusters, Clusters) and len(set(clusters.label)) == 1
    expected = set()
    turn, negative, order = random_states(4, 3, 4)
    for whole, sign, colours in itertools.product(range(8), (1, -1), range(6)):
        upright = TURN_PRODUCTS[TURN_INVERSES[turn], whole]
        orders = ORDER_PRODUCTS[ORDER_INVERSES[order], colours]
        expected.add((*upright, *np.where(negative, -sign, sign), *orders))
    assert (*clusters.turn, *clusters.sign, *clusters.order) in expected
