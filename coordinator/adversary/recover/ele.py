"""Key recovery from a pool under one extended learnable encryption (T1).

Source: our own. Every block of the sealed picture has a permutation and a reversal mask of its own. Each block is
therefore identified alone, from its nibbles over the pool (values/nibble_identification.py): up to its eight
symmetries, its colour order and its sign, because nothing yet says what its neighbours are. A tied mask determines
these too, since it fits only the right ones. The blocks that their masks confirm then show how alike the values of a
block are in this very pool, and the others are tried again with that knowledge.

The rest is a puzzle. With the blocks upright it is that of shuffled blocks (puzzle/seams.py, puzzle/assembly.py).
Otherwise it is that of encryption-then-compression (etc.py), which also sets the blocks upright.

In blocks of more than MOST_SEARCHED values, which no mask ever confirmed, high nibbles are laid out as the values of
block_pixel are, and the low ones follow (ele_large_blocks.py).

It takes some hundred images, because each image is one sample of a block's nibbles. With an independent mask the
picture is recovered up to its symmetries, sign and colour order, and each mask up to one bit for each cycle of its
key.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.puzzle.assembly import LEAST_SEAM_FIT, SEAM_FIT, assemble, places_of, seam_fit
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from coordinator.adversary.recover import etc
from coordinator.adversary.recover.ele_large_blocks import (
    MOST_LARGE_NIBBLES,
    find_nibbles,
    lay_out_large_blocks,
)
from coordinator.adversary.recover.half_opened import HalfOpened
from coordinator.adversary.recover.le import (
    MOST_NIBBLES,
    choose_state,
    flips_to_bytes,
    signed_nibbles,
    solve_reversal,
    tied_flips,
)
from coordinator.adversary.recover.upright_blocks import set_upright, turn_upright
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.layout_fit import LAYOUT_FIT, LEAST_LAYOUT_FIT, MOST_SEARCHED
from coordinator.adversary.values.nibble_identification import identify_nibbles, rematch_low_nibbles
from coordinator.adversary.values.nibble_statistics import correlations
from coordinator.adversary.values.nibbles import Nibbles
from coordinator.adversary.values.value_layout import place_values
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array, Rows
from crypto.kernels.blocks import block_pixels
from crypto.kernels.table import Table
from crypto.scheme import describe

#: Most images whose seams are compared. Set once; not tuned further.
_SEAM_IMAGES = 200
#: Fewer images than this tell nothing about a block's nibbles. Set once; not tuned further.
LEAST_IMAGES = 24
#: How often the identification of a block is tried, each time from other random starts. Set once; not tuned further.
_TRIES = 2
#: Starts of the search for a block's layout. About one in ten reaches the truth (README.md).
_STARTS = 120
#: Share of blocks that their masks must confirm for all to be taken as upright. Set once; not tuned further.
_UPRIGHT_SHARE = 0.9
#: Share of blocks that their masks must confirm for the key to be believed. Chosen by hand: with half of the blocks
#: wrong inside, no picture is opened.
_LEAST_CONFIRMED = 0.5


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover keys int64 [N, 2V], reversal bool [N, 2V] and K1 int64 [N].

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None with fewer than LEAST_IMAGES images or if the nibbles of no block correlate.
    """
    height, width, channels = shape = pool.spec.image_shape
    block, is_tied = pool.spec.block, pool.spec.options["mask"] == "tied"
    if len(pool_rows) < LEAST_IMAGES:
        return None
    is_large = block**2 * channels > MOST_SEARCHED
    most = (MOST_LARGE_NIBBLES if is_large else MOST_NIBBLES) // (2 * height * width * channels)
    rows = evenly_spaced(pool_rows, max(LEAST_IMAGES, most))
    notes = [f"from {len(rows)} of {len(pool_rows)} images"] if len(rows) < len(pool_rows) else []
    signed = signed_nibbles(pool.images(rows), block)
    signed = signed.reshape(len(rows), -1, signed.shape[-1])  # [n, N, 2V]
    nibbles, unidentified, confirmed = _identify_blocks(signed, block, channels, is_tied, time_left)
    if unidentified == len(nibbles):
        return None
    if unidentified:
        notes.append(f"{unidentified} of {len(nibbles)} blocks tell nothing")
    inside = _sealing_table(shape, block, nibbles, None).inverse()
    large = None
    if is_large:
        coarse = HalfOpened(pool, describe("block_pixel", shape, block), inside, is_coarse=True)
        large = lay_out_large_blocks(coarse, rows, signed, nibbles, time_left)
    if large is not None:
        solved, nibbles = large
        order, fits = solved.parts["K1"], solved.fits
        notes += [note for note in solved.notes if not note.startswith("truncated")]
    else:
        if is_tied:
            notes.append(f"{int(confirmed.sum())} of {len(nibbles)} blocks confirmed by their masks")
        half_opened = HalfOpened(pool, describe("etc", shape, block), inside)
        order, nibbles, order_fit = _order_blocks(
            half_opened, evenly_spaced(rows, _SEAM_IMAGES), nibbles, confirmed, time_left
        )
        fits = _fits(nibbles, confirmed, is_tied) + ((order_fit,) if order_fit is not None else ())
    if not time_left():
        notes.append("truncated: out of time")
    keys, reversal = _keys(nibbles, order, is_tied)
    table = _sealing_table(shape, block, nibbles, order).inverse()
    return Recovered(table, {"keys": keys, "reversal": reversal, "K1": order}, tuple(notes), fits)


def _fits(nibbles: list[Nibbles], confirmed: BoolArray, is_tied: bool) -> tuple[Fit, ...]:
    """Return how well the nibbles of the blocks are known: by their masks, or by how much their layouts explain."""
    if is_tied:
        share = float(confirmed.mean())
        return (Fit(share, _LEAST_CONFIRMED, "the share of blocks that their masks confirm"),)
    fit = float(np.median([block_nibbles.fit for block_nibbles in nibbles]))
    return (Fit(fit, LEAST_LAYOUT_FIT, LAYOUT_FIT + ", median over the blocks"),)


def _identify_blocks(
    signed: Float32Array, block: int, channels: int, is_tied: bool, time_left: TimeLeft
) -> tuple[list[Nibbles], int, BoolArray]:
    """Return the nibbles of every block, how many blocks tell nothing, and bool [N], which masks confirm."""
    nibbles: list[Nibbles] = []
    unidentified, confirmed = 0, np.zeros(signed.shape[1], bool)
    for k in range(signed.shape[1]):
        result, confirmed[k] = _identify_block(
            signed[:, k, None, None], block, channels, is_tied, time_left
        )
        unidentified += result is None
        nibbles.append(result if result is not None else unmoved(signed.shape[2] // 2))
    if unidentified < len(nibbles) and confirmed.any() and not confirmed.all():
        _retry_unconfirmed(nibbles, confirmed, signed, block, channels, time_left)
    return nibbles, unidentified, confirmed


def _identify_block(
    signed: Float32Array, block: int, channels: int, is_tied: bool, time_left: TimeLeft
) -> tuple[Nibbles | None, bool]:
    """Return the nibbles of one block over the pool, and whether its tied mask confirms them."""
    if signed.shape[-1] // 2 > MOST_SEARCHED:
        return find_nibbles(signed[:, 0, 0]), False

    def fits(candidate: Nibbles) -> bool:
        return not choose_state(candidate, signed, block, channels, is_tied)[1]

    best = None
    for seed in range(_TRIES):
        nibbles = identify_nibbles(
            signed, block, channels, time_left, seed, is_confirmed=fits if is_tied else None
        )
        if nibbles is None or not is_tied:
            return nibbles, False
        nibbles, note = choose_state(nibbles, signed, block, channels, is_tied)
        if not note:
            return nibbles, True
        best = nibbles if best is None or nibbles.fit > best.fit else best
        if not time_left():
            break
    return best, False


def _retry_unconfirmed(
    nibbles: list[Nibbles],
    confirmed: BoolArray,
    signed: Float32Array,
    block: int,
    channels: int,
    time_left: TimeLeft,
) -> None:
    """Identify the unconfirmed blocks again, in place, by the correlations in the confirmed ones."""

    def correlate(k: int) -> Float64Array:
        values = nibbles[k].to_values(signed[:, k])
        return correlations(values, values)

    usual = np.mean([correlate(k) for k in np.flatnonzero(confirmed).tolist()], axis=0)
    for k in np.flatnonzero(~confirmed).tolist():
        block_nibbles = signed[:, k, None, None]
        for seed in range(_TRIES):
            places = place_values(
                correlate(k)[None], usual[None], block, channels, time_left, _STARTS, seed
            )
            moved = nibbles[k].permuted(places)
            for candidate in (moved, rematch_low_nibbles(moved, block_nibbles, usual)):
                state, note = choose_state(candidate, block_nibbles, block, channels, True)
                if not note:
                    nibbles[k], confirmed[k] = state, True
                    break
            if confirmed[k] or not time_left():
                break


def _order_blocks(
    half_opened: HalfOpened,
    rows: Rows,
    nibbles: list[Nibbles],
    confirmed: BoolArray,
    time_left: TimeLeft,
) -> tuple[Int64Array, list[Nibbles], Fit | None]:
    """Return K1 int64 [N], the nibbles, upright by the puzzle if not by masks, and the order's fit."""
    spec = half_opened.spec
    if int(confirmed.sum()) >= _UPRIGHT_SHARE * len(nibbles):
        upright, fit = _order_upright_blocks(half_opened, rows, time_left)
        return upright, nibbles, fit
    solution = etc.recover(half_opened, rows, time_left)
    if solution is None or not solution.parts:
        return np.arange(len(nibbles)), nibbles, None
    parts = turn_upright(solution.parts, confirmed, spec) if confirmed.any() else solution.parts
    return parts["K1"], set_upright(nibbles, spec, parts), solution.fits[0] if solution.fits else None


def _order_upright_blocks(
    half_opened: HalfOpened, rows: Rows, time_left: TimeLeft
) -> tuple[Int64Array, Fit]:
    """Return K1, int64 [N], by seams, the place that every block belongs to, and how well it fits."""
    spec = half_opened.spec
    height, width, _ = spec.image_shape
    cells = block_pixels(height, width, spec.block)
    sides = (s for row in rows for s in block_sides(half_opened.images(row[None]), cells, spec.block))
    across, down = seam_costs(sides, len(cells), time_left)
    grid = assemble(across, down, spec.grid, time_left)
    return places_of(grid), Fit(seam_fit(grid, across, down), LEAST_SEAM_FIT, SEAM_FIT)


def _keys(nibbles: list[Nibbles], order: Int64Array, is_tied: bool) -> tuple[Int64Array, BoolArray]:
    """Return keys int64 [N, 2V] and reversal bool [N, 2V] in the order of the plain blocks."""
    size = 2 * len(nibbles[0].high)
    keys, reversal = np.empty((len(nibbles), size), np.int64), np.empty((len(nibbles), size), bool)
    for k, (slots, flips) in enumerate(block.by_slot() for block in nibbles):
        fits = is_tied and bool((tied_flips(slots) == flips).all())
        mask = slots > len(slots) // 2 if fits else solve_reversal(slots, flips)[0]
        keys[order[k]], reversal[order[k]] = slots, mask
    return keys, reversal


def _sealing_table(
    shape: tuple[int, int, int], block: int, nibbles: list[Nibbles], order: Int64Array | None
) -> Table:
    """Return the table that seals, where block k of the result has the nibbles nibbles[k]."""
    slots = [block_nibbles.by_slot() for block_nibbles in nibbles]
    inner, flips = np.stack([inner for inner, _ in slots]), np.stack([flips for _, flips in slots])
    return Table(shape, (block, block), order, inner, flips_to_bytes(flips), "nibble")


def unmoved(size: int) -> Nibbles:
    """Return the nibbles of `size` values that stay where they are."""
    values, none = np.arange(size), np.zeros(size, bool)
    return Nibbles(values + size, values, none, none, np.zeros(size))
