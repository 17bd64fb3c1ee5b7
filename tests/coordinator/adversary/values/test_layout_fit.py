"""How well a layout explains correlations, and better layouts by the template of a pool."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from coordinator.adversary.time_budget import always
from coordinator.adversary.values.layout_fit import LayoutSearch, explain
from coordinator.adversary.values.value_layout import block_symmetries
from crypto.arrays import Float64Array, Int64Array


def measured(block: int, channels: int, decay: float, seed: int) -> tuple[Float64Array, Int64Array]:
    """Return correlations float64 [3, V, V] of shuffled values that fade with distance, and their places."""
    values = np.arange(block * block * channels)
    row, column, colour = values // (block * channels), values // channels % block, values % channels
    relations = [
        np.hypot(row + down - row[:, None], column + right - column[:, None])
        for down, right in ((0, 0), (0, block), (block, 0))
    ]
    plain = np.exp(-decay * np.stack(relations)) * 0.9 ** np.abs(colour[:, None] - colour)
    rng = np.random.default_rng(seed)
    noise = 0.02 * rng.normal(size=plain.shape)
    noise[0] = (noise[0] + noise[0].T) / 2
    places = rng.permutation(len(values))
    return (plain + noise)[:, places[:, None], places], places


def test_only_the_true_layout_explains_much() -> None:
    correlations, places = measured(4, 3, 0.7, 0)
    rng = np.random.default_rng(1)
    assert explain(correlations, places, 4, 3)[0] > 0.97
    assert max(explain(correlations, rng.permutation(48), 4, 3)[0] for _ in range(50)) < 0.3
    swapped = places.copy()
    swapped[:4] = np.roll(places[:4], 1)
    assert explain(correlations, swapped, 4, 3)[0] < 0.95
    for state in block_symmetries(4, 3)[::8]:  # the orders of the colours
        assert explain(correlations, state[places], 4, 3)[0] > 0.97


def test_relations_that_were_not_measured_do_not_count() -> None:
    correlations, places = measured(4, 1, 0.4, 2)
    missing = correlations.copy()
    missing[1:] = 0.0
    assert explain(missing, places, 4, 1)[0] == pytest.approx(explain(correlations[:1], places, 4, 1)[0])
    assert explain(np.zeros((3, 16, 16)), places, 4, 1)[0] == 0.0


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_layouts_are_found_from_distances(decay: float) -> None:
    correlations, places = measured(4, 3, decay, 3)
    found = list(LayoutSearch(correlations, 4, 3).from_distances(always))
    best = max(found, key=lambda layout: layout.fit)
    orders = block_symmetries(4, 3)[::8]
    assert any((state[places] == best.places).all() for state in orders)
    gray, gray_places = measured(5, 1, decay, 4)
    layouts = LayoutSearch(gray, 5, 1).from_distances(always)
    assert any((layout.places == gray_places).all() for layout in layouts)


def test_the_own_template_improves_a_layout() -> None:
    correlations, places = measured(4, 3, 0.9, 5)
    wrong = places.copy()
    wrong[:24] = np.roll(places[:24], 5)
    search = LayoutSearch(correlations, 4, 3)
    start = search.judge(wrong)
    fits = [layout.fit for layout in search.from_own_template(start, always)]
    assert fits == sorted(fits) and fits[-1] > start.fit
    assert list(search.from_own_template(search.judge(places), always)) == []


def test_colours_that_are_nearer_than_neighbours_are_laid_out() -> None:
    values = np.arange(48)
    row, column, colour = values // 12, values // 3 % 4, values % 3
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    nearness = np.array([[1.0, 0.99, 0.9], [0.99, 1.0, 0.94], [0.9, 0.94, 1.0]])
    plain = np.exp(-0.05 * squared**0.45) * nearness[colour[:, None], colour]
    rng = np.random.default_rng(7)
    noise = 0.003 * rng.normal(size=(48, 48))
    places = rng.permutation(48)
    correlations = (plain + (noise + noise.T) / 2)[None][:, places[:, None], places]
    search = LayoutSearch(correlations, 4, 3)
    start = search.judge(rng.permutation(48))
    best = search.improve(start, always)
    assert best.fit > search.judge(places).fit - 1e-6 > start.fit
    assert any((state[places] == best.places).all() for state in block_symmetries(4, 3))


def test_planes_that_lie_in_other_turns_are_turned_alike() -> None:
    correlations, places = measured(4, 3, 0.5, 8)
    green = places % 3 == 1
    turned = places.copy()
    turned[green] = grid_symmetries(4)[3][places[green] // 3] * 3 + 1
    search = LayoutSearch(correlations[:1], 4, 3)
    best = search.with_planes_turned(search.judge(turned), always)
    assert best.fit > 0.97 > search.judge(turned).fit
