"""From the likeness of a stem's weights to a key: units laid out on their grid, blocks by positions or by seams.

Likeness of weights is told near by only, and a search for the layout ends in local optima; so several scalings of it
compete, and the ciphertexts, whose neighbouring values are near, choose among what they give. They must also bear the
layout out against random ones. Stems of another key, untrained ones and mere noise are not borne out, and nothing is
claimed of those.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Knowledge, Recovered
from coordinator.adversary.puzzle.assembly import Lay, assemble
from coordinator.adversary.puzzle.distances import position_distances, textured
from coordinator.adversary.puzzle.grid_layout import cost, grid_kernel, lay_out, swap_down
from coordinator.adversary.puzzle.swap_search import total_cost
from coordinator.adversary.recover import block_pixel_shuffle, value_shuffle
from coordinator.adversary.training.stem_similarity import apart, toned
from coordinator.adversary.values.colour_classes import colour_layout
from crypto.spec import SchemeSpec

NOT_BORNE_OUT = "the ciphertexts do not bear out what the stem shows: nothing identifiable"
#: Of more blocks than this their positions are not laid out.
_MOST_PLACES = 1024
#: Layouts that are tried: the power of the principal strengths, and that of the distances.
_SCALINGS = ((1.0, 1.0), (0.75, 0.5), (1.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.25, 1.0))
_SAME = 1e-6  # relative difference of two layouts that are one
_IMAGES = 64  # most images that a layout is checked on
_CHECKED = 1000  # sub-blocks or blocks that a layout is checked on
_SHUFFLED = 100  # random layouts it is compared with
_FAR = 5.0  # standard deviations below those from which on it is borne out
_REACHES = (3.0, 2.0, 1.5, 1.0)  # of the kernels that a layout is straightened under, in cells
_ENOUGH = 0.8  # share of the seams' evidence that an order by positions must hold


def laid(distances: np.ndarray, height: int, width: int, time_left: Callable[[], bool]) -> np.ndarray:
    """float64 [S, S] → int64 [S] places on the grid up to its symmetries: lay_out's, or cheaper ones.

    Likeness of weights is told near by only, and bends a layout; swaps under a wide kernel first, then under
    narrower ones, straighten it.
    """
    found = lay_out(distances, height, width, time_left)
    scaled = distances / max(float(np.median(distances)), 1e-12)
    start, kernel = found, grid_kernel(height, width)
    for reach in _REACHES:
        if time_left():
            start = swap_down(scaled, grid_kernel(height, width, reach), start)
    return min((found, start), key=lambda places: cost(scaled, kernel, places))


def open_by(
    knowledge: Knowledge, weights: np.ndarray, positions: np.ndarray | None = None
) -> tuple[Recovered | None, str]:
    """(the key, what must be known of it) from the weights of every unit, [units, F]; no key where none is borne out.

    positions: [N, D], of the tokens, or None. The turn of the layout, and the order of the blocks where the
    positions do not show one, come from the seams of the ciphertexts, as in pooled key recovery.
    """
    pool, seen = knowledge.pool, np.asarray(knowledge.pool_rows, np.int64)
    spec = pool.spec

    def time_left() -> bool:
        return knowledge.budget.left() > 0

    lay: Lay = assemble
    if positions is not None and spec.blocks <= _MOST_PLACES:
        lay = _by_positions(laid(apart(positions), *spec.grid, time_left))
    near = sealed_distances(pool, seen)
    if near is None:
        return None, NOT_BORNE_OUT
    place, colour = _places(weights, spec, near, time_left)
    if nearer_than_chance(near, place, colour) < _FAR:
        return None, NOT_BORNE_OUT if time_left() else f"truncated: out of time; {NOT_BORNE_OUT}"
    if spec.name == "value_shuffle":
        found = value_shuffle.placed(pool, seen, place, colour, time_left, lay)
    else:
        blocks = block_pixel_shuffle.varied_blocks(pool, seen)
        k2 = block_pixel_shuffle.upright(place, blocks, spec.block // 2)
        found = block_pixel_shuffle.placed(pool, seen, k2, time_left, lay)
    return found, "; ".join(found.notes)


def _places(
    weights: np.ndarray, spec: SchemeSpec, near: np.ndarray, time_left: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """(place, colour) int64 [units], of several layouts the one that the ciphertexts' distances bear out most.

    Swaps end in local optima. Which one depends on how distances are scaled: some scaling ends in the right one.
    """
    best, found = -np.inf, (np.arange(len(weights)), np.zeros(len(weights), np.int64))
    for tone, power in _SCALINGS:
        distances = apart(weights if tone == 1.0 else toned(weights, tone)) ** power
        if spec.name == "value_shuffle" and spec.image_shape[2] > 1:
            place, colour = colour_layout(distances, spec.block, spec.image_shape[2], time_left)
        else:
            side = spec.block if spec.name == "value_shuffle" else spec.block // 2
            place, colour = laid(distances, side, side, time_left), np.zeros(len(weights), np.int64)
        score = nearer_than_chance(near, place, colour)
        if np.isfinite(best) and abs(score - best) <= _SAME * abs(best):
            break  # two scalings, one layout
        if score > best:
            best, found = score, (place, colour)
        if not time_left():
            break
    return found


def _by_positions(places: np.ndarray) -> Lay:
    """Lays blocks by int64 [N] places up to a turn: the turn that the seams like best, where they like it well.

    Positions tell apart what seams cannot, such as black blocks and a black frame. A layout with blocks in wrong
    places holds less of the seams' evidence than what is assembled by the seams, and gives way to it.
    """

    def lay(
        across: np.ndarray, down: np.ndarray, shape: tuple[int, int], time_left: Callable[[], bool]
    ) -> np.ndarray:
        assembled = assemble(across, down, shape, time_left)
        picture = np.argsort(places).reshape(shape)
        turned = [np.rot90(face, turns) for face in (picture, picture.T) for turns in range(4)]
        fitting = [np.ascontiguousarray(grid) for grid in turned if grid.shape == shape]
        best = min(fitting, key=lambda grid: total_cost(grid, across, down))
        # Costs are negative evidence, and a random order's sum to about nothing.
        enough = total_cost(best, across, down) <= _ENOUGH * total_cost(assembled, across, down)
        return best if enough else assembled

    return lay


def in_place(spec: SchemeSpec, k2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place, colour) of every unit under K2, as `borne_out` takes them."""
    channels = spec.image_shape[2] if spec.name == "value_shuffle" else 1
    place, colour = np.divmod(k2, channels)
    return place, colour


def borne_out(pool: Ciphertexts, seen: np.ndarray, place: np.ndarray, colour: np.ndarray) -> bool:
    """Whether units that int64 [units] places and colours put side by side hold like values in the ciphertexts."""
    near = sealed_distances(pool, np.asarray(seen))
    return near is not None and nearer_than_chance(near, place, colour) >= _FAR


def sealed_distances(pool: Ciphertexts, seen: np.ndarray) -> np.ndarray | None:
    """float64 [units, units]: how far the units' values are apart in some ciphertexts; None where nothing varies."""
    if pool.spec.name == "value_shuffle":
        parts = value_shuffle.varied_blocks(pool, seen[:_IMAGES])
    else:
        parts = block_pixel_shuffle.varied_blocks(pool, seen[:_IMAGES])
        parts = parts.reshape(-1, *parts.shape[2:])
    return position_distances(parts[textured(parts, _CHECKED)]) if len(parts) else None


def nearer_than_chance(near: np.ndarray, place: np.ndarray, colour: np.ndarray) -> float:
    """How much nearer than under random orders those units are that a layout puts side by side.

    near: float64 [units, units]. In standard deviations of the random orders, whatever stands beside what.
    """
    side = round(float(place.max() + 1) ** 0.5)
    kernel = grid_kernel(side, side)[np.ix_(place, place)] * (colour[:, None] == colour)
    rng = np.random.default_rng(0)
    orders = (rng.permutation(len(place)) for _ in range(_SHUFFLED))
    chance = np.array([float((near[np.ix_(o, o)] * kernel).sum()) for o in orders])
    return float((chance.mean() - (near * kernel).sum()) / max(float(chance.std()), 1e-12))
