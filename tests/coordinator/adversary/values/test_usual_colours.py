"""The names of three unlabelled colours."""

from __future__ import annotations

import numpy as np

from coordinator.adversary.values.usual_colours import usual_order
from crypto.symmetry import COLOUR_ORDERS


def test_the_usual_order_names_red_green_and_blue() -> None:
    rng = np.random.default_rng(6)
    green = rng.normal(size=500)
    red, blue = green + 0.6 * rng.normal(size=500) + 0.3, green + 0.6 * rng.normal(size=500) - 0.3
    for k, order in enumerate(COLOUR_ORDERS):
        shown = np.empty((500, 3, 1))
        shown[:, order, 0] = np.stack([red, green, blue], 1)
        assert usual_order(shown) == k
    assert usual_order(np.zeros((4, 3, 1))) in range(6)
