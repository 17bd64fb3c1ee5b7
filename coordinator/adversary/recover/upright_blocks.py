"""Blocks set upright by the solution of the `etc` puzzle, for the recovery of `ele`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coordinator.adversary.values.nibbles import Nibbles
from crypto.arrays import AnyArray, BoolArray
from crypto.scheme import load
from crypto.schemes.etc import Etc
from crypto.spec import SchemeSpec
from crypto.symmetry import COLOUR_ORDERS, turned, turned_pixels


def turn_upright(
    parts: Mapping[str, AnyArray], upright: BoolArray, spec: SchemeSpec
) -> Mapping[str, AnyArray]:
    """Return a puzzle's solution with the whole picture turned so that the blocks known to be upright stay so.

    Most of them, if the solution contradicts itself. A solution that does not fit its frame upright is returned as it
    is.

    Args:
        parts: The key parts of `etc` that the puzzle gave.
        upright: bool [N], the blocks known to be upright.
        spec: The scheme `etc`.
    """
    names = sorted(set(parts) - {"K1"})
    states = np.stack([parts[name] for name in names], 1)[upright].astype(np.int64)
    kinds, count = np.unique(states, axis=0, return_counts=True)
    usual = dict(zip(names, kinds[count.argmax()].tolist(), strict=True))
    rows, columns = spec.grid
    if rows != columns and usual["turn"] % 2:
        return parts
    # One symmetry t of the picture moves its cells as it moves the pixels of a block.
    cells = turned(np.arange(rows * columns).reshape(rows, columns), usual["turn"], (0, 1))
    out: dict[str, AnyArray] = {
        "K1": np.argsort(cells.ravel())[parts["K1"]],
        "negative": parts["negative"] ^ bool(usual["negative"]),
    }
    # State s of a block, seen from pictures in state t, is t⁻¹ after s.
    turns = turned_pixels(spec.block)
    relative = np.argsort(turns[usual["turn"]])[turns[parts["turn"]]]  # [N, M²]
    out["turn"] = (relative[:, None] == turns).all(-1).argmax(1)
    if "order" in parts:
        colours = np.argsort(COLOUR_ORDERS[usual["order"]])[COLOUR_ORDERS[parts["order"]]]
        out["order"] = (colours[:, None] == COLOUR_ORDERS).all(-1).argmax(1)
    return out


def set_upright(nibbles: list[Nibbles], spec: SchemeSpec, parts: Mapping[str, AnyArray]) -> list[Nibbles]:
    """Return the nibbles by the values of the upright blocks."""
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, Etc)
    inner = algorithm.table(parts).inner
    assert inner is not None
    return [
        block.permuted(move, bool(is_negative))
        for block, move, is_negative in zip(nibbles, inner, parts["negative"], strict=True)
    ]
