"""Key recovery from a pool under one extended learnable encryption (T1).

Source: our own. Every block of the sealed picture has a permutation and a reversal mask of its own, so each is told
by itself from what it holds over the pool (nibbles.py): up to its eight symmetries, its colour order and its sign,
since nothing yet says what lies beside it. A tied mask says these too, for it only fits the right ones; the blocks
that it confirms then show how alike the values of a block are in this very pool, and the others are tried again.

What is left is a puzzle: with the blocks upright that of shuffled blocks (seams.py, assemble.py), otherwise that
of encryption-then-compression (recover/etc.py), which also sets the blocks upright.

It takes some hundred images: each is one sample of a block's nibbles. With an independent mask the picture
stays known up to its symmetries, sign and colour order, and each mask up to one bit for each cycle of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Recovered
from coordinator.adversary.puzzle.assembly import assemble
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from coordinator.adversary.recover import etc
from coordinator.adversary.recover.le import (
    choose,
    flip_bytes,
    reversal_along,
    signed_nibbles,
    spaced,
    tied_flips,
)
from coordinator.adversary.values.nibble_identification import Nibbles, correlations, tell_nibbles
from coordinator.adversary.values.value_layout import place_values
from crypto.kernels.blocks import block_pixels
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.scheme import describe, load
from crypto.schemes.etc import Etc, turned_pixels
from crypto.schemes.pe import ORDERS
from crypto.spec import SchemeSpec

_NIBBLES = 12_000_000  # most nibbles held
_SEAM_IMAGES = 200
#: Fewer images than this tell nothing of a block's nibbles.
LEAST_IMAGES = 24
_TRIES, _STARTS = 2, 120
#: Share of blocks that their masks must have confirmed for all to be taken as upright.
_UPRIGHT = 0.9


@dataclass(frozen=True)
class _HalfOpened:
    """The pool with every block's nibbles put back: encryption-then-compression, as far as they are right."""

    pool: Ciphertexts
    spec: SchemeSpec
    opens: Table

    def __len__(self) -> int:
        return len(self.pool)

    def images(self, rows: np.ndarray) -> np.ndarray:
        opened: np.ndarray = apply(self.opens, self.pool.images(rows))
        return opened


def recover(pool: Ciphertexts, seen: np.ndarray, time_left: Callable[[], bool]) -> Recovered | None:
    """keys int64 [N, 2V], reversal bool [N, 2V] and K1 int64 [N] from int64 [n] rows.

    None with too few images, or where the nibbles of no block hang together. `more` says whether to go on.
    """
    height, width, channels = shape = pool.spec.image_shape
    block, tied = pool.spec.block, pool.spec.options["mask"] == "tied"
    if len(seen) < LEAST_IMAGES:
        return None
    rows = spaced(seen, max(LEAST_IMAGES, _NIBBLES // (2 * height * width * channels)))
    notes = [f"from {len(rows)} of {len(seen)} images"] if len(rows) < len(seen) else []
    signed = signed_nibbles(pool.images(rows), block)
    signed = signed.reshape(len(rows), -1, signed.shape[-1])  # [n, N, 2V]
    found, untold, sure = [], 0, np.zeros(signed.shape[1], bool)
    for k in range(signed.shape[1]):
        told, sure[k] = _tell_block(signed[:, k, None, None], block, channels, tied, time_left)
        untold += told is None
        found.append(told if told is not None else unmoved(signed.shape[2] // 2))
    if untold == len(found):
        return None
    if sure.any() and not sure.all():
        _tell_by_others(found, sure, signed, block, channels, time_left)
    upright = int(sure.sum())
    if untold:
        notes.append(f"{untold} of {len(found)} blocks tell nothing")
    if tied:
        notes.append(f"{upright} of {len(found)} blocks confirmed by their masks")
    spec = describe("etc", shape, block)
    half = _HalfOpened(pool, spec, _table(shape, block, found, None).inverse())
    few = spaced(rows, _SEAM_IMAGES)
    if upright >= _UPRIGHT * len(found):
        order = _upright_order(half, few, time_left)
    else:
        puzzle = etc.recover(half, few, time_left)
        order = np.arange(len(found))
        if puzzle is not None and puzzle.parts:
            parts = _unturned(puzzle.parts, sure, spec) if upright else puzzle.parts
            order, found = parts["K1"], _set_upright(found, spec, parts)
    if not time_left():
        notes.append("truncated: out of time")
    held = [nibbles.by_slot() for nibbles in found]
    keys = np.empty((len(found), signed.shape[2]), np.int64)
    reversal = np.empty(keys.shape, bool)
    for k, (slots, flips) in enumerate(held):
        fits = tied and bool((tied_flips(slots) == flips).all())
        mask = slots > len(slots) // 2 if fits else reversal_along(slots, flips)[0]
        keys[order[k]], reversal[order[k]] = slots, mask
    table = _table(shape, block, found, order).inverse()
    return Recovered(table, {"keys": keys, "reversal": reversal, "K1": order}, tuple(notes))


def _tell_block(
    signed: np.ndarray, block: int, channels: int, tied: bool, time_left: Callable[[], bool]
) -> tuple[Nibbles | None, bool]:
    """(the nibbles of one block over the pool, whether its tied mask confirms them)."""
    told = None
    for seed in range(_TRIES):
        told = tell_nibbles(signed, block, channels, time_left, seed)
        if told is None or not tied:
            break
        told, note = choose(told, signed, block, channels, tied)
        if not note:
            return told, True
        if not time_left():
            break
    return told, False


def _tell_by_others(
    found: list[Nibbles],
    sure: np.ndarray,
    signed: np.ndarray,
    block: int,
    channels: int,
    time_left: Callable[[], bool],
) -> None:
    """Tries the blocks that are not sure again, in place: by the correlations of those that are."""

    def alike(k: int) -> np.ndarray:
        whole = found[k].open(signed[:, k])
        return correlations(whole, whole)

    usual = np.mean([alike(k) for k in np.flatnonzero(sure).tolist()], axis=0)
    for k in np.flatnonzero(~sure).tolist():
        for seed in range(_TRIES):
            places = place_values(alike(k)[None], usual[None], block, channels, time_left, _STARTS, seed)
            told, note = choose(found[k].moved(places), signed[:, k, None, None], block, channels, True)
            if not note or not time_left():
                found[k], sure[k] = told, not note
                break


def _upright_order(half: _HalfOpened, rows: np.ndarray, time_left: Callable[[], bool]) -> np.ndarray:
    """int64 [N], K1: which place of the picture every block belongs to, from seams."""
    height, width, _ = half.spec.image_shape
    cells = block_pixels(height, width, half.spec.block)
    sides = (s for row in rows for s in block_sides(half.images(row[None]), cells, half.spec.block))
    across, down = seam_costs(sides, len(cells), time_left)
    order = np.empty(len(cells), np.int64)
    order[assemble(across, down, half.spec.grid, time_left).ravel()] = np.arange(len(cells))
    return order


def _unturned(
    parts: Mapping[str, np.ndarray], sure: np.ndarray, spec: SchemeSpec
) -> Mapping[str, np.ndarray]:
    """The puzzle's parts, the whole picture turned so that most of the blocks known to be upright stay so."""
    states = [part for name, part in sorted(parts.items()) if name != "K1"]
    kinds, count = np.unique(np.stack(states, 1)[sure].astype(np.int64), axis=0, return_counts=True)
    usual = dict(zip(sorted(set(parts) - {"K1"}), kinds[count.argmax()], strict=True))
    rows, columns = spec.grid
    if rows != columns and usual["turn"] % 2:
        return parts  # this picture does not fit its frame upright
    # One symmetry t of the picture moves its cells as it moves the pixels of a block.
    cells = np.arange(rows * columns).reshape(rows, columns)
    cells = np.rot90(cells, usual["turn"] % 4)
    cells = cells[:, ::-1] if usual["turn"] >= 4 else cells
    out = {
        "K1": np.argsort(cells.ravel())[parts["K1"]],
        "negative": parts["negative"] ^ bool(usual["negative"]),
    }
    # State s of a block, seen from pictures in state t, is t⁻¹ after s.
    turns = turned_pixels(spec.block)
    seen = np.argsort(turns[usual["turn"]])[turns[parts["turn"]]]  # [N, M²]
    out["turn"] = (seen[:, None] == turns).all(-1).argmax(1)
    if "order" in parts:
        colours = np.argsort(ORDERS[usual["order"]])[ORDERS[parts["order"]]]
        out["order"] = (colours[:, None] == ORDERS).all(-1).argmax(1)
    return out


def _set_upright(found: list[Nibbles], spec: SchemeSpec, parts: Mapping[str, np.ndarray]) -> list[Nibbles]:
    """The nibbles by the values of the upright blocks."""
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, Etc)
    inner = algorithm.table(parts).inner
    assert inner is not None
    return [
        n.moved(turn, bool(less)) for n, turn, less in zip(found, inner, parts["negative"], strict=True)
    ]


def _table(
    shape: tuple[int, int, int], block: int, found: list[Nibbles], order: np.ndarray | None
) -> Table:
    """The table that seals, where block k of the result has the nibbles found[k]."""
    held = [nibbles.by_slot() for nibbles in found]
    inner, flips = np.stack([slots for slots, _ in held]), np.stack([flips for _, flips in held])
    return Table(shape, (block, block), order, inner, flip_bytes(flips), "nibble")


def unmoved(size: int) -> Nibbles:
    """The nibbles of `size` values that stay where they are."""
    values, none = np.arange(size), np.zeros(size, bool)
    return Nibbles(values + size, values, none, none, np.zeros(size))
