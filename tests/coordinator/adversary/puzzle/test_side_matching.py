"""Pairs of sides whose turns, signs and colour orders are unknown: the closed form against a search of all states."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coordinator.adversary.puzzle import side_matching
from crypto.symmetry import COLOUR_ORDERS
from tests.support.pictures import smooth
from tests.support.puzzles import side_difference, walks_of


@pytest.mark.parametrize("channels", [1, 3])
def test_best_pairs_against_a_search_of_all_states(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_matching, "PARTNERS", 3)
    monkeypatch.setattr(side_matching, "MOST_MOMENTS", 16 * channels**2 * 5)  # strips of five sides
    walks = walks_of(np.random.default_rng(5).integers(0, 256, (2, 8, 8, channels), np.uint8), 4)
    orders = [list(p) for p in COLOUR_ORDERS] if channels == 3 else [[0]]
    flat = walks.reshape(2, 16, 4, channels)
    best = {}
    for p, q, same_direction in itertools.product(range(16), range(16), range(2)):
        if p // 4 != q // 4:
            best[p, q, same_direction] = min(
                (side_difference(flat[:, p], flat[:, q], same_direction, s, np.array(o)), s, k)
                for s in (1, -1)
                for k, o in enumerate(orders)
            )
    pairs = side_matching.best_pairs(walks)
    assert (pairs[:, 0] < pairs[:, 2]).all()
    listed = set()
    for i, a, j, b, same_direction, sign, order in pairs.tolist():
        p, q = 4 * i + a, 4 * j + b
        gap = side_difference(flat[:, p], flat[:, q], same_direction, sign, np.array(orders[order]))
        assert gap == pytest.approx(best[p, q, same_direction][0], rel=1e-3, abs=0.1)
        listed |= {(p, q, same_direction), (q, p, same_direction)}
    for p in range(16):
        nearest = min((v[0], key) for key, v in best.items() if key[0] == p)
        assert nearest[1] in listed


def test_pair_costs_and_typical_likelihoods_against_loops() -> None:
    walks = walks_of(smooth(2, 8, 8, 3, seed=6), 4)
    typical = side_matching.typical_likelihoods(walks)
    assert typical.shape == (2, 4, 4) and (typical > 0).all()
    pair = np.array([[0, 1, 3, 2, 1, -1, 4]])
    expected = 0.0
    for k in range(2):
        for o, weight in ((k, -1.0), (1 - k, 0.5)):
            gap = side_difference(walks[k, 0, 1], walks[o, 3, 2][:, None][:, 0], 1, -1, COLOUR_ORDERS[4])
            ratio = 1 / ((gap + 4) ** 2 * typical[k, 0, 1] * typical[o, 3, 2])
            expected += weight * np.log(ratio + 0.02)
    assert side_matching.pair_costs(walks, typical, pair)[0] == pytest.approx(expected, rel=1e-4)


def test_margins_compare_a_pair_with_its_rivals() -> None:
    pairs = np.array([[0, 0, 1, 0, 0, 1, 0], [0, 0, 2, 0, 0, 1, 0], [1, 1, 2, 1, 0, 1, 0]])
    margins = side_matching.pair_margins(pairs, np.array([-5.0, -2.0, -1.0]), 3)
    assert margins.tolist() == [-3.0, 3.0, -1.0]
