"""Key recovery from a pool under one learnable encryption (T1; T0 with one image).

Source: our own. Every block goes through the same permutation and reversal of its nibbles, so their second
moments over the pool's blocks tell which is which (nibbles.py), up to the order of the colours and one sign for
all. The scheme itself mostly tells the rest: the tied mask follows from the permutation, and only under the right
colours and sign it is the one that was seen. An independent mask is known as far as it shows: what is seen at a
slot is the reversal before and after the move, so along every cycle of the permutation the seen ones must cancel
out, and the mask is known up to one bit for each cycle. Where that leaves a choice, pictures are taken to
be dark, and red to be brighter than blue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Recovered
from coordinator.adversary.recover.pe import usual_order
from coordinator.adversary.values.nibble_identification import Nibbles, tell_nibbles
from coordinator.adversary.values.value_layout import MOST_VALUES, block_turns
from crypto.kernels.blocks import to_blocks
from crypto.kernels.table import Table
from crypto.schemes.pe import ORDERS

_NIBBLES = 12_000_000  # most nibbles held
#: Share of slots at which a tied mask must fit to be believed.
_FITS = 0.9


def recover(pool: Ciphertexts, seen: np.ndarray, time_left: Callable[[], bool]) -> Recovered | None:
    """key int64 [2V] and reversal bool [2V] from int64 [n] rows; None where no nibbles hang together.

    `more` says whether to go on.
    """
    height, width, channels = shape = pool.spec.image_shape
    block = pool.spec.block
    rows = spaced(seen, max(1, _NIBBLES // (2 * height * width * channels)))
    notes = [f"from {len(rows)} of {len(seen)} images"] if len(rows) < len(seen) else []
    signed = signed_nibbles(pool.images(rows), block)
    found = tell_nibbles(signed, block, channels, time_left)
    if found is None:
        return None
    if len(found.high) > MOST_VALUES:
        notes.append(f"places not refined: {len(found.high)} values a block, at most {MOST_VALUES}")
    found, note = choose(found, signed, block, channels, pool.spec.options["mask"] == "tied")
    notes += [note] if note else []
    key, flips = found.by_slot()
    reversal, _ = reversal_along(key, flips)
    if pool.spec.options["mask"] == "tied" and (tied_flips(key) == flips).all():
        reversal = key > len(found.high)
    if not time_left():
        notes.append("truncated: out of time")
    table = Table(shape, (block, block), None, key[None], flip_bytes(flips)[None], "nibble")
    return Recovered(table.inverse(), {"key": key, "reversal": reversal}, tuple(notes))


def choose(
    found: Nibbles, signed: np.ndarray, block: int, channels: int, tied: bool
) -> tuple[Nibbles, str]:
    """(the nibbles under the colour order and sign that the scheme bears out, a note or "")."""
    ways = [found.moved(turn, negative) for turn, negative in _likely_first(found, signed, block, channels)]
    if tied:
        fits = [float((tied_flips(key) == flips).mean()) for key, flips in (w.by_slot() for w in ways)]
        best = int(np.argmax(fits))
        if fits[best] == 1.0:
            return ways[best], ""
        if fits[best] >= _FITS:
            return ways[best], f"the mask fits at {fits[best]:.3f} of the nibbles"
        return ways[0], "the mask fits nowhere: colours and sign as in usual pictures"
    # An independent mask bears out only what neighbouring blocks leave open: colours and sign.
    for way in ways[: 2 * (len(ORDERS) if channels == 3 else 1)]:
        if reversal_along(*way.by_slot())[1] == 0:
            return way, "the mask is known up to one bit for each cycle of the key"
    return ways[0], "no mask fits: colours and sign as in usual pictures"


def _likely_first(
    found: Nibbles, signed: np.ndarray, block: int, channels: int
) -> Iterator[tuple[np.ndarray, bool]]:
    """Moves of a block's values, and whether all are negated: the likeliest first, then other colours, turns last."""
    turns = block_turns(block, channels)
    if channels == 1:
        yield from ((turn, negative) for turn in turns for negative in (False, True))
        return
    some = signed.reshape(-1, signed.shape[-1])
    opened = found.open(some[np.linspace(0, len(some) - 1, min(len(some), 2000)).astype(np.int64)])
    red, green, blue = ORDERS[usual_order(opened.T.reshape(block * block, 3, -1))]
    # The channel that each of the three found becomes: as named, with red for blue, then with another green.
    named = [(red, green, blue), (blue, green, red)]
    named += [tuple(order) for order in ORDERS if order[1] != green]
    into = [np.argsort(names) for names in named]
    for cells in turns[:8] // channels:
        for order in into:
            move = (cells.reshape(-1, channels) * channels + order).ravel()
            yield from ((move, negative) for negative in (False, True))


def signed_nibbles(images: np.ndarray, block: int) -> np.ndarray:
    """uint8 [n, h, w, c] → float32 [n, rows, columns, 2V]: every block's nibbles less 7.5, low ones first."""
    n, height, width, _ = images.shape
    parts = to_blocks(images, block).reshape(n, height // block, width // block, -1)
    return np.concatenate([parts & 15, parts >> 4], -1).astype(np.float32) - np.float32(7.5)


def tied_flips(key: np.ndarray) -> np.ndarray:
    """int64 [2V] → bool [2V]: which nibbles of the result show reversed under the mask tied to a key."""
    reversal = key > len(key) // 2
    return reversal[key] ^ reversal


def reversal_along(key: np.ndarray, flips: np.ndarray) -> tuple[np.ndarray, int]:
    """(bool [2V] mask with flips = mask[key] ^ mask, the number of cycles along which there is none).

    The mask starts with no reversal at the least position of every cycle of the key.
    """
    reversal, done, odd = np.zeros(len(key), bool), np.zeros(len(key), bool), 0
    for first in range(len(key)):
        slot = first
        while not done[slot]:
            done[slot] = True
            following = key[slot]
            if following == first:
                odd += int(reversal[slot] ^ flips[slot])
                break
            reversal[following] = reversal[slot] ^ flips[slot]
            slot = following
    return reversal, odd


def flip_bytes(flips: np.ndarray) -> np.ndarray:
    """bool [..., 2V] by nibble → uint8 [..., V], the mask over bytes."""
    low, high = np.split(flips.astype(np.uint8) * np.uint8(15), 2, axis=-1)
    return low | high << 4


def spaced(values: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the values, evenly spaced."""
    if len(values) <= limit:
        return values
    return values[np.linspace(0, len(values) - 1, limit).astype(np.int64)]
