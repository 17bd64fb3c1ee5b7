"""Recover a key from similarities of a stem's weights: lay units out on their grid, and order the blocks (T5).

The blocks are ordered by the position embeddings or by the seams of the ciphertexts. Similarity of weights holds at
short range only, and the search for a layout ends in local optima. So several scalings of the similarities compete.
The ciphertexts, whose neighbouring values are similar, choose among the layouts. They must also support the layout
more than random ones. They do not support stems of another key, untrained stems and mere noise, and the attack
claims nothing from those.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Knowledge, Recovered
from coordinator.adversary.puzzle.assembly import Assembler, assemble
from coordinator.adversary.puzzle.distances import position_distances, textured_rows
from coordinator.adversary.puzzle.grid_layout import grid_kernel, lay_out
from coordinator.adversary.puzzle.qap import assignment_cost, swap_descent
from coordinator.adversary.puzzle.swap_search import total_cost
from coordinator.adversary.recover import block_pixel_shuffle, value_shuffle
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.training.stem_similarity import cosine_distances, scale_spectrum
from coordinator.adversary.values.colour_classes import lay_out_colours
from crypto.arrays import AnyArray, Float64Array, Int64Array, Rows
from crypto.spec import SchemeSpec
from crypto.symmetry import rotations_and_transposes

NOT_SUPPORTED = "the ciphertexts do not bear out what the stem shows: nothing identifiable"
#: Position embeddings of more blocks than this are not laid out. Set by hand; not tuned further.
_MAX_POSITIONS = 1024
#: Layouts to try: the power of the singular values, and that of the distances. Set once; how the list was chosen is
#: not recorded.
_SCALINGS = ((1.0, 1.0), (0.75, 0.5), (1.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.25, 1.0))
#: Two layouts are the same if their supports differ relatively by no more than this: float rounding.
_SAME_SUPPORT = 1e-6
#: At most so many images, and so many of their blocks or sub-blocks, check a layout. Set by hand; not tuned further.
_CHECKED_IMAGES, _CHECKED_BLOCKS = 64, 1000
#: Random layouts to compare with. Set by hand; not tuned further.
_RANDOM_LAYOUTS = 100
#: Standard deviations by which a layout must be better than random ones. Set once; how it was chosen is not recorded.
#: The tests hold it against random stems, stems of another key, and noise.
_MIN_SUPPORT = 5.0
#: Reaches, in cells, of the kernels under which swaps straighten a layout, one after another. Without such swaps a
#: layout bends (K1 .857, coordinator/adversary/README.md). Set once; how the reaches were chosen is not recorded.
_KERNEL_REACHES = (3.0, 2.0, 1.5, 1.0)
#: Share of the seams' evidence that an order by position embeddings must reach. Set once; how it was chosen is not
#: recorded.
_MIN_EVIDENCE_SHARE = 0.8


def lay_out_straightened(
    distances: Float64Array, height: int, width: int, time_left: TimeLeft
) -> Int64Array:
    """Return places on a grid, int64 [S], from distances float64 [S, S], up to the grid's symmetries.

    Similarity of weights holds at short range only, and bends the layout of `lay_out`. Swaps under a wide kernel
    first, then under narrower ones, straighten it. The cheaper of the two layouts is returned.
    """
    bent = lay_out(distances, height, width, time_left)
    scaled = distances / max(float(np.median(distances)), 1e-12)
    straight, kernel = bent, grid_kernel(height, width)
    for reach in _KERNEL_REACHES:
        if time_left():
            straight = swap_descent(scaled, grid_kernel(height, width, reach), straight)
    return min((bent, straight), key=lambda places: assignment_cost(scaled, kernel, places))


def recover_key(
    knowledge: Knowledge, weights: AnyArray, positions: AnyArray | None = None
) -> tuple[Recovered | None, str]:
    """Recover the pool's key from the weights of every unit.

    The turn of the layout comes from the seams of the ciphertexts, as in pooled key recovery. So does the order of
    the blocks if the position embeddings do not show one.

    Args:
        knowledge: what the attack was given.
        weights: [units, F].
        positions: position embeddings [N, D] of the blocks, or None.

    Returns:
        The key, or None if the ciphertexts support no layout; and what must be known of it.
    """
    pool, pool_rows = knowledge.pool, np.asarray(knowledge.pool_rows, np.int64)
    spec, time_left = pool.spec, knowledge.budget.time_left
    assembler: Assembler = assemble
    if positions is not None and spec.blocks <= _MAX_POSITIONS:
        assembler = _assembler_by_positions(
            lay_out_straightened(cosine_distances(positions), *spec.grid, time_left)
        )
    distances = ciphertext_distances(pool, pool_rows)
    if distances is None:
        return None, NOT_SUPPORTED
    place, colour = _best_layout(weights, spec, distances, time_left)
    if layout_support(distances, place, colour) < _MIN_SUPPORT:
        return None, NOT_SUPPORTED if time_left() else f"truncated: out of time; {NOT_SUPPORTED}"
    if spec.name == "value_shuffle":
        key = value_shuffle.recover_block_order(pool, pool_rows, place, colour, time_left, assembler)
    else:
        blocks = block_pixel_shuffle.sample_varied_blocks(pool, pool_rows)
        k2 = block_pixel_shuffle.choose_turn(place, blocks, spec.block // 2)
        key = block_pixel_shuffle.recover_block_order(pool, pool_rows, k2, time_left, assembler)
    return key, "; ".join(key.notes)


def _best_layout(
    weights: AnyArray, spec: SchemeSpec, distances: Float64Array, time_left: TimeLeft
) -> tuple[Int64Array, Int64Array]:
    """Return the places and colours of the units, int64 [units], that the ciphertexts' distances support most.

    Swaps end in local optima. Which one depends on how similarities are scaled: some scaling ends in the right one.
    """
    best = -np.inf
    layout = (np.arange(len(weights)), np.zeros(len(weights), np.int64))
    for spectrum_power, distance_power in _SCALINGS:
        scaled = weights if spectrum_power == 1.0 else scale_spectrum(weights, spectrum_power)
        similarities = cosine_distances(scaled) ** distance_power
        if spec.name == "value_shuffle" and spec.image_shape[2] > 1:
            place, colour = lay_out_colours(similarities, spec.block, spec.image_shape[2], time_left)
        else:
            side = spec.block if spec.name == "value_shuffle" else spec.block // 2
            place = lay_out_straightened(similarities, side, side, time_left)
            colour = np.zeros(len(weights), np.int64)
        support = layout_support(distances, place, colour)
        if np.isfinite(best) and abs(support - best) <= _SAME_SUPPORT * abs(best):
            break  # two scalings, one layout
        if support > best:
            best, layout = support, (place, colour)
        if not time_left():
            break
    return layout


def _assembler_by_positions(places: Int64Array) -> Assembler:
    """Return an assembler that lays blocks by int64 [N] places, known up to a turn, if the seams agree.

    It chooses the turn with the cheapest seams. Positions tell apart what seams cannot, such as black blocks and a
    black frame. A layout with blocks in wrong places has less of the seams' evidence than what the seams alone
    assemble. Then it returns the latter.
    """

    def assemble_by_positions(
        across: AnyArray, down: AnyArray, shape: tuple[int, int], time_left: TimeLeft
    ) -> Int64Array:
        assembled = assemble(across, down, shape, time_left)
        picture = np.argsort(places).reshape(shape)
        grids = [
            np.ascontiguousarray(grid) for grid in rotations_and_transposes(picture) if grid.shape == shape
        ]
        best = min(grids, key=lambda grid: total_cost(grid, across, down))
        # Costs are negative evidence, and a random order's sum to about nothing.
        limit = _MIN_EVIDENCE_SHARE * total_cost(assembled, across, down)
        return best if total_cost(best, across, down) <= limit else assembled

    return assemble_by_positions


def layout_of_key(spec: SchemeSpec, k2: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the places and colours of the units under K2, as `is_supported` takes them."""
    channels = spec.image_shape[2] if spec.name == "value_shuffle" else 1
    place, colour = np.divmod(k2, channels)
    return place, colour


def is_supported(pool: Ciphertexts, pool_rows: Rows, place: Int64Array, colour: Int64Array) -> bool:
    """Return whether units that a layout puts side by side hold similar values in the ciphertexts.

    Args:
        pool: the ciphertexts.
        pool_rows: int64 [n], the rows to look at.
        place: int64 [units], the cell of every unit on a square grid.
        colour: int64 [units], the colour of every unit.
    """
    distances = ciphertext_distances(pool, np.asarray(pool_rows))
    return distances is not None and layout_support(distances, place, colour) >= _MIN_SUPPORT


def ciphertext_distances(pool: Ciphertexts, pool_rows: Rows) -> Float64Array | None:
    """Return distances of the units' values in ciphertexts, float64 [units, units], or None if nothing varies."""
    if pool.spec.name == "value_shuffle":
        blocks = value_shuffle.sample_varied_blocks(pool, pool_rows[:_CHECKED_IMAGES])
    else:
        blocks = block_pixel_shuffle.sample_varied_blocks(pool, pool_rows[:_CHECKED_IMAGES])
        blocks = blocks.reshape(-1, *blocks.shape[2:])
    return position_distances(blocks[textured_rows(blocks, _CHECKED_BLOCKS)]) if len(blocks) else None


def layout_support(distances: Float64Array, place: Int64Array, colour: Int64Array) -> float:
    """Return how much nearer units are that a layout puts side by side than they are under random orders.

    The unit is the standard deviation over random orders, in which any unit stands beside any other.

    Args:
        distances: float64 [units, units], from the ciphertexts.
        place: int64 [units], the cell of every unit on a square grid.
        colour: int64 [units], the colour of every unit.
    """
    side = round(float(place.max() + 1) ** 0.5)
    kernel = grid_kernel(side, side)[np.ix_(place, place)] * (colour[:, None] == colour)
    rng = np.random.default_rng(0)
    orders = (rng.permutation(len(place)) for _ in range(_RANDOM_LAYOUTS))
    chance = np.array([float((distances[np.ix_(o, o)] * kernel).sum()) for o in orders])
    return float((chance.mean() - (distances * kernel).sum()) / max(float(chance.std()), 1e-12))
