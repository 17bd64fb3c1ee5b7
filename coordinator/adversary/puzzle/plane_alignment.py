"""Colour planes turned alike: each plane is laid out on its own, and the seams between blocks say how it lies.

A plane that is laid out in another turn still shows which blocks touch, but on other sides: what is right of a block
in one plane is below it in the other. Which blocks touch is the same in all planes, so the turns under which the seam
costs of the planes agree are those that lay them alike. No plane is compared with another by its values. Planes that
differ in brightness, as in stained tissue, align as well as others.
"""

from __future__ import annotations

import itertools

import numpy as np

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from crypto.arrays import Float64Array, Int64Array
from crypto.symmetry import TURNS

#: Planes are turned only if they then agree this many times as well as they do now.
#: Set once by hand; no measurement is recorded.
_LEAST_GAIN = 1.5
#: Rows and columns of the steps right, left, down, up: the relations in which two blocks touch.
_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
#: Which of these relations are right and down: a grid is described by these two.
_RIGHT, _DOWN = 0, 2


def align_planes(costs: Float64Array) -> Int64Array:
    """Return the turn of each colour plane under which the seams of all planes agree, int64 [c].

    Turns are numbered as the rows of `grid_symmetries`. Plane 0 keeps its turn. So do all planes if no other turns
    agree clearly better.

    Args:
        costs: float64 [c, 2, N, N], the costs across and down of every plane (`seam_costs`).
    """
    planes = len(costs)
    products = {pair: _relation_products(costs[pair[0]], costs[pair[1]]) for pair in _pairs(planes)}
    sources = _turned_relations()

    def agreement(turns: tuple[int, ...]) -> float:
        return sum(
            float(products[a, b][sources[turns[a], step], sources[turns[b], step]])
            for a, b in products
            for step in (_RIGHT, _DOWN)
        )

    choices = [(0, *rest) for rest in itertools.product(range(TURNS), repeat=planes - 1)]
    agreements = [agreement(turns) for turns in choices]
    best = int(np.argmax(agreements))
    is_better = agreements[best] > _LEAST_GAIN * max(agreements[0], 0.0)
    return np.array(choices[best if is_better else 0], np.int64)


def _pairs(planes: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(planes), 2))


def _relation_products(first: Float64Array, second: Float64Array) -> Float64Array:
    """Return the correlations of the costs of two planes in every two relations of blocks, float64 [4, 4]."""
    relations = []
    for plane in (first, second):
        centred = [table - table.mean() for table in plane]
        scaled = [table / max(float(np.linalg.norm(table)), 1e-12) for table in centred]
        relations.append((scaled[0], scaled[0].T, scaled[1], scaled[1].T))
    return np.array([[float((a * b).sum()) for b in relations[1]] for a in relations[0]])


def _turned_relations() -> Int64Array:
    """Return int64 [8, 4]: which relation of blocks turns into right, left, down and up under each turn."""
    out = np.empty((TURNS, len(_STEPS)), np.int64)
    centre = 4  # of a grid of 3×3
    for turn, moved in enumerate(grid_symmetries(3)):
        for relation, (down, right) in enumerate(_STEPS):
            places = np.divmod(moved[[centre, centre + 3 * down + right]], 3)
            step = (int(np.diff(places[0])[0]), int(np.diff(places[1])[0]))
            out[turn, _STEPS.index(step)] = relation
    return out
