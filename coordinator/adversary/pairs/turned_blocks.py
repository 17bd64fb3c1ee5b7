"""The key of `etc` from known pairs (T3): every block is recognised in its turn, sign and colour order.

Source: textbook. A block's values, folded about mid-gray and sorted, are the same in every state. Among the plain
blocks with the same folded values, each is tried in its 8 turns, 2 signs and 6 colour orders.
"""

from __future__ import annotations

import itertools

import numpy as np

from coordinator.adversary.contract import Recovered
from coordinator.adversary.pairs.unit_signatures import pair_up, rows_as_ids
from crypto.arrays import AnyArray, Images, Int64Array, UInt8Array
from crypto.kernels.blocks import to_blocks
from crypto.schemes.etc import Etc, to_planes
from crypto.spec import SchemeSpec
from crypto.symmetry import TURNS, colour_orders, turned_pixels

#: A block's state: its turn, whether it is negated (0 or 1), its colour order.
_State = tuple[int, int, int]


def solve_turned_blocks(spec: SchemeSpec, plain: Images, sealed: AnyArray) -> Recovered | None:
    """Recover K1, turn, negative and, in colour, order.

    Args:
        spec: The scheme `etc`.
        plain: uint8 [m, *image_shape].
        sealed: uint8 [m, *sealed_shape], the same images under the key.

    Returns:
        The key, or None if the pairs are not of one key.
    """
    algorithm = Etc(spec)
    if spec.options["form"] == "gray":
        plain = to_planes(plain)
    x, y = (to_blocks(v, spec.block).transpose(1, 0, 2, 3) for v in (plain, sealed))  # [N, m, M², c]
    blocks, channels = len(x), x.shape[3]
    folded = [np.minimum(v, 255 - v).reshape(blocks, len(plain), -1) for v in (x, y)]
    plain_ids, sealed_ids = rows_as_ids(*(np.sort(v, axis=2).reshape(blocks, -1) for v in folded))
    _, ambiguous, is_match = pair_up(plain_ids[None], sealed_ids[None])
    if not is_match:
        return None
    candidates: dict[int, list[int]] = {}
    for block, number in enumerate(plain_ids.tolist()):
        candidates.setdefault(number, []).append(block)
    states: list[_State] = list(
        itertools.product(range(TURNS), (0, 1), range(len(colour_orders(channels))))
    )
    order = np.empty(blocks, np.int64)
    chosen: list[_State] = []
    open_blocks = ambiguous[0].copy()
    for i, number in enumerate(sealed_ids.tolist()):
        for block in candidates[number]:
            fitting = _fitting_states(x[block], y[i], states, spec.block)
            if fitting:
                order[i] = block
                chosen.append(fitting[0])
                open_blocks[i] |= len(fitting) > 1
                candidates[number].remove(block)
                break
        else:
            return None
    return _recovered(algorithm, order, chosen, channels, int(open_blocks.sum()))


def _fitting_states(
    plain: UInt8Array, sealed: UInt8Array, states: list[_State], block: int
) -> list[_State]:
    """Return the states in which a plain block [m, M², c] equals a sealed one."""
    cells, orders = turned_pixels(block), colour_orders(plain.shape[2])
    return [
        (turn, sign, order)
        for turn, sign, order in states
        if np.array_equal(plain[:, cells[turn]][..., orders[order]] ^ np.uint8(255 * sign), sealed)
    ]


def _recovered(
    algorithm: Etc, order: Int64Array, states: list[_State], channels: int, open_blocks: int
) -> Recovered:
    """Return the key of blocks int64 [N] in these states, of which some stay open."""
    turn, sign, colours = np.array(states).T
    parts: dict[str, AnyArray] = {"K1": order, "turn": turn, "negative": sign.astype(bool)}
    if channels == 3:
        parts["order"] = colours
    notes = [f"{open_blocks} of {len(order)} blocks are open in place or state"] if open_blocks else []
    return Recovered(algorithm.table(parts).inverse(), parts, tuple(notes))
