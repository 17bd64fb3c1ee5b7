"""Key recovery from a pool under one learnable encryption (T1; T0 with one image).

Source: our own. Every block goes through the same permutation and reversal of its nibbles. The second moments of the
nibbles over the pool's blocks therefore tell which is which (values/nibble_identification.py), up to the order of the
colours and one sign for all.

The scheme itself mostly tells the rest. The tied mask follows from the permutation, and it equals the observed mask
only under the right colours and sign. An independent mask is known only in part. What shows at a slot is the reversal
before the move combined with the one after it. Along every cycle of the permutation the observed flips must therefore
cancel out, and the mask is known up to one bit for each cycle. Where that leaves a choice, pictures are assumed to be
dark, and red to be brighter than blue.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.constant_planes import with_dark_constants
from coordinator.adversary.values.layout_fit import LAYOUT_FIT, LEAST_LAYOUT_FIT
from coordinator.adversary.values.nibble_identification import identify_nibbles
from coordinator.adversary.values.nibbles import Nibbles
from coordinator.adversary.values.usual_colours import usual_order
from coordinator.adversary.values.value_layout import MOST_VALUES, block_symmetries
from crypto.arrays import BoolArray, Float32Array, Int64Array, Rows, UInt8Array
from crypto.kernels.blocks import to_blocks
from crypto.kernels.table import Table
from crypto.symmetry import COLOUR_ORDERS, colour_orders

#: Most nibbles in memory: 48 MB of float32.
MOST_NIBBLES = 12_000_000
#: Share of nibbles at which a tied mask must fit to be believed. Set once; not tuned further.
_LEAST_FIT = 0.9
#: With fewer known flips than this a fit may be chance: there are some thousand states of a block to choose from.
_LEAST_KNOWN = 24
#: Blocks that decide which colour is which. Set once; not tuned further.
_COLOUR_BLOCKS = 2000


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover key int64 [2V] and reversal bool [2V].

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        time_left: Asked between steps. When it returns False, the best key so far is returned.

    Returns:
        The key, or None if the nibbles do not correlate.
    """
    height, width, channels = shape = pool.spec.image_shape
    block, is_tied = pool.spec.block, pool.spec.options["mask"] == "tied"
    rows = evenly_spaced(pool_rows, max(1, MOST_NIBBLES // (2 * height * width * channels)))
    notes = [f"from {len(rows)} of {len(pool_rows)} images"] if len(rows) < len(pool_rows) else []
    signed = signed_nibbles(pool.images(rows), block)

    def fits(candidate: Nibbles) -> bool:
        return not choose_state(candidate, signed, block, channels, is_tied)[1]

    nibbles = identify_nibbles(signed, block, channels, time_left, is_confirmed=fits if is_tied else None)
    if nibbles is None:
        return None
    if len(nibbles.high) > MOST_VALUES:
        notes.append(f"places not refined: {len(nibbles.high)} values a block, at most {MOST_VALUES}")
    nibbles, note = choose_state(nibbles, signed, block, channels, is_tied)
    notes += [note] if note else []
    fit = layout_fit(nibbles, is_confirmed=is_tied and not note)
    key, flips = nibbles.by_slot()
    reversal, _ = solve_reversal(key, flips)
    if is_tied and (tied_flips(key) == flips).all():
        reversal = key > len(nibbles.high)
    if not time_left():
        notes.append("truncated: out of time")
    table = Table(shape, (block, block), None, key[None], flips_to_bytes(flips)[None], "nibble")
    return Recovered(table.inverse(), {"key": key, "reversal": reversal}, tuple(notes), (fit,))


def layout_fit(nibbles: Nibbles, is_confirmed: bool) -> Fit:
    """Return how well the layout of the values explains the pool: wholly if the scheme's own mask confirms it."""
    if is_confirmed:
        return Fit(1.0, LEAST_LAYOUT_FIT, "the tied mask fits at every nibble that varies")
    return Fit(nibbles.fit, LEAST_LAYOUT_FIT, LAYOUT_FIT)


def choose_state(
    nibbles: Nibbles, signed: Float32Array, block: int, channels: int, is_tied: bool
) -> tuple[Nibbles, str]:
    """Return the nibbles in the turn, colour order and sign that the scheme's mask confirms.

    Args:
        nibbles: The nibbles of a block, up to those symmetries.
        signed: float32 [n, rows, columns, 2V], signed nibbles of sealed blocks.
        block: The side of a block in pixels.
        channels: Colours of a pixel.
        is_tied: Whether the mask follows from the permutation.

    Returns:
        The nibbles, and a note ("" if the tied mask fits exactly, where it can be known). Values that never vary are
        dark.
    """
    flat = signed.reshape(-1, signed.shape[-1])
    varies = np.ptp(flat, axis=0) > 0
    state, note = _fitting_state(nibbles, signed, varies, block, channels, is_tied)
    return (state if varies.all() else with_dark_constants(state, flat[0], varies)), note


def _fitting_state(
    nibbles: Nibbles, signed: Float32Array, varies: BoolArray, block: int, channels: int, is_tied: bool
) -> tuple[Nibbles, str]:
    """Return the state that the mask confirms, and a note, as `choose_state` does; constants have any sign."""
    if is_tied:
        best, best_fit = nibbles, -1.0
        for move, is_negative in _moves_of_any_sign(nibbles, signed, block, channels):
            state = nibbles.permuted(move, is_negative)
            key, flips = state.by_slot()
            # Which of the nibbles that never vary is which is not known, nor are the flips that follow from it.
            is_known = varies & varies[key]
            is_enough = is_known.all() or is_known.sum() >= _LEAST_KNOWN
            fit = float((tied_flips(key) == flips)[is_known].mean()) if is_enough else 0.0
            if fit > best_fit:
                best, best_fit = state, fit
            if fit == 1.0:
                return best, ""
        if best_fit >= _LEAST_FIT:
            return best, f"the mask fits at {best_fit:.3f} of the nibbles"
        usual = nibbles.permuted(*next(_candidate_moves(nibbles, signed, block, channels)))
        return usual, "the mask fits nowhere: colours and sign as in usual pictures"
    states = [
        nibbles.permuted(move, is_negative)
        for move, is_negative in _candidate_moves(nibbles, signed, block, channels)
    ]
    # An independent mask confirms only colours and sign, which neighbouring blocks leave open: the first candidates.
    for state in states[: 2 * len(colour_orders(channels))]:
        if solve_reversal(*state.by_slot())[1] == 0:
            return state, "the mask is known up to one bit for each cycle of the key"
    return states[0], "no mask fits: colours and sign as in usual pictures"


def _moves_of_any_sign(
    nibbles: Nibbles, signed: Float32Array, block: int, channels: int
) -> Iterator[tuple[Int64Array, bool | BoolArray]]:
    """Yield the candidate moves, then each of them with some colours negated and some not.

    Colours that hardly correlate in this pool, or only negatively, come out with signs of their own.
    """
    moves = list(_candidate_moves(nibbles, signed, block, channels))
    yield from moves
    for signs in itertools.product((False, True), repeat=channels):
        if len(set(signs)) > 1:
            negative = np.tile(np.array(signs), block * block)
            yield from ((move, negative) for move, is_negative in moves if not is_negative)


def _candidate_moves(
    nibbles: Nibbles, signed: Float32Array, block: int, channels: int
) -> Iterator[tuple[Int64Array, bool]]:
    """Yield moves of a block's values, and whether all are negated.

    The likeliest come first, then other colours, and other turns last.
    """
    symmetries = block_symmetries(block, channels)
    if channels == 1:
        yield from ((move, is_negative) for move in symmetries for is_negative in (False, True))
        return
    blocks = signed.reshape(-1, signed.shape[-1])
    opened = nibbles.to_values(blocks[evenly_spaced(np.arange(len(blocks)), _COLOUR_BLOCKS)])
    red, green, blue = COLOUR_ORDERS[usual_order(opened.T.reshape(block * block, 3, -1))].tolist()
    # What each of the three channels is named: as usual, with red for blue, then with another green.
    names = [(red, green, blue), (blue, green, red)]
    names += [tuple(order) for order in COLOUR_ORDERS.tolist() if order[1] != green]
    orders = [np.argsort(name) for name in names]
    for cells in symmetries[:8] // channels:
        for order in orders:
            move = (cells.reshape(-1, channels) * channels + order).ravel()
            yield from ((move, is_negative) for is_negative in (False, True))


def signed_nibbles(images: UInt8Array, block: int) -> Float32Array:
    """Return each block's nibbles less 7.5, low ones first, float32 [n, rows, columns, 2V], of uint8 [n, h, w, c]."""
    n, height, width, _ = images.shape
    parts = to_blocks(images, block).reshape(n, height // block, width // block, -1)
    signed: Float32Array = np.concatenate([parts & 15, parts >> 4], -1).astype(np.float32) - np.float32(7.5)
    return signed


def tied_flips(key: Int64Array) -> BoolArray:
    """Return bool [2V]: which nibbles of the result show reversed under the mask tied to a key int64 [2V]."""
    reversal = key > len(key) // 2
    flips: BoolArray = reversal[key] ^ reversal
    return flips


def solve_reversal(key: Int64Array, flips: BoolArray) -> tuple[BoolArray, int]:
    """Return a mask, bool [2V] with flips = mask[key] ^ mask, and the number of cycles along which there is none.

    The mask starts with no reversal at the least position of every cycle of the key.
    """
    reversal, done, unsolved = np.zeros(len(key), bool), np.zeros(len(key), bool), 0
    for first in range(len(key)):
        slot = first
        while not done[slot]:
            done[slot] = True
            following = key[slot]
            if following == first:
                unsolved += int(reversal[slot] ^ flips[slot])
                break
            reversal[following] = reversal[slot] ^ flips[slot]
            slot = following
    return reversal, unsolved


def flips_to_bytes(flips: BoolArray) -> UInt8Array:
    """Return uint8 [..., V], the mask over bytes, from bool [..., 2V], the flips of nibbles."""
    low, high = np.split(flips.astype(np.uint8) * np.uint8(15), 2, axis=-1)
    mask: UInt8Array = low | high << 4
    return mask
