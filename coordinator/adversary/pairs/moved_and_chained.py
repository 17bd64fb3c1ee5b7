"""Ciphers by chaotic maps, from known pairs (T3): pixels in one order, under a keystream or a substitution, chained.

The difference of two ciphertexts is that of their images, moved: a keystream cancels out. So each pixel is recognised
by its differences over all pairs, and the stream is what is left. A substituted level is recognised by how often each
image has it, and then each pixel by its levels. Chaining is undone first: it takes no key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from coordinator.adversary.contract import Fit, Recovered
from coordinator.adversary.opened import (
    RecoveredChained,
    RecoveredLevels,
    RecoveredStream,
    put_in_order,
)
from coordinator.adversary.pairs.known_pairs import solve_keystream, solve_substitution
from coordinator.adversary.pairs.unit_signatures import rows_as_ids
from coordinator.adversary.textbook.substitution import LEVELS
from crypto.arrays import AnyArray, Images, Int64Array, UInt8Array
from crypto.kernels.chaining import chainings
from crypto.kernels.table import Table

#: Least share of the pixels that the pairs must tell from all others. Chosen by hand. Of random images of 32×32, two
#: gray ones tell 2 % apart, and three 98 %; two in colour of 256×256 tell 99.6 % apart.
_LEAST_ALONE = 0.9
_ALONE = "the share of pixels that differ from all others in the pairs"


def solve_moved_keystream(plain: Images, sealed: Images) -> list[Recovered | RecoveredStream]:
    """Recover an order of pixels and a keystream over it, XORed or added modulo 256: all that give these pairs.

    Pixels whose differences are equal are interchangeable. Their order is a guess, and the fit says how many
    pixels have none.

    Args:
        plain: uint8 [m, h, w, c], at least 2.
        sealed: uint8 [m, h, w, c], the same images under the key.
    """
    shape: tuple[int, int, int] = plain.shape[1:]
    keys: list[Recovered | RecoveredStream] = []
    if len(plain) < 2:
        return keys
    pixels = [images.reshape(len(images), -1, shape[2]) for images in (plain, sealed)]
    for is_xor in (True, False):
        one, other = (x[1:] ^ x[0] if is_xor else x[1:] - x[0] for x in pixels)
        order = _order(one, other)
        if order is None:
            continue
        fits = (Fit(_share_alone(one), _LEAST_ALONE, _ALONE),)
        moved = pixels[1][0][order]
        stream: UInt8Array = moved ^ pixels[0][0] if is_xor else moved - pixels[0][0]
        if is_xor:
            keys.append(Recovered(Table.flat(shape, order, stream.ravel()), {}, (), fits))
        else:
            keys.append(RecoveredStream(stream.reshape(shape), fits, order))
    return keys


def solve_moved_substitution(plain: Images, sealed: Images) -> RecoveredLevels | None:
    """Recover an order of pixels and a substitution of gray levels that give these pairs; None if there are none.

    Pixels of equal levels are interchangeable; see `solve_moved_keystream`. Levels that no image has another count of
    are taken for one.

    Args:
        plain: uint8 [m, h, w, c], at least 2.
        sealed: uint8 [m, h, w, c], the same images under the key.
    """
    if len(plain) < 2:
        return None
    own, others = (
        np.empty((len(plain), plain[0, ..., 0].size, plain.shape[3]), np.int64) for _ in range(2)
    )
    for c in range(plain.shape[3]):
        values = [images[..., c].reshape(len(images), -1) for images in (plain, sealed)]
        classes = rows_as_ids(*(_level_counts(v) for v in values))
        own[..., c], others[..., c] = (ids[v] for ids, v in zip(classes, values, strict=True))
    order = _order(own, others)
    levels = None if order is None else solve_substitution(plain, put_in_order(sealed, order))
    if levels is None:
        return None
    return replace(levels, order=order, fits=(Fit(_share_alone(own), _LEAST_ALONE, _ALONE),))


def solve_chained(plain: Images, sealed: Images) -> Iterator[RecoveredChained]:
    """Yield every way of chaining, and the key of what was chained, that give these pairs.

    Args:
        plain: uint8 [m, h, w, c].
        sealed: uint8 [m, h, w, c], the same images under the key.
    """
    for chaining in chainings(plain.shape[3]):
        undone = chaining.undo(sealed)
        keys = [
            key for key in solve_keystream(plain, undone) if isinstance(key, (Recovered, RecoveredStream))
        ]
        for key in keys or solve_moved_keystream(plain, undone):
            yield RecoveredChained(chaining, key)
        if (levels := solve_substitution(plain, undone)) is not None:
            yield RecoveredChained(chaining, levels)
        elif (moved := solve_moved_substitution(plain, undone)) is not None:
            yield RecoveredChained(chaining, moved)


def _level_counts(values: UInt8Array) -> Int64Array:
    """Return how often each image uint8 [m, P] has each level: int64 [256, m]."""
    return np.stack([np.bincount(image, minlength=LEVELS) for image in values], 1)


def _share_alone(plain: AnyArray) -> float:
    """Return the share of pixels that have other differences, or levels, than every other pixel: [d, P, c]."""
    signatures = plain.transpose(1, 0, 2).reshape(plain.shape[1], -1)
    counts = np.unique(signatures, axis=0, return_counts=True)[1]
    return float((counts == 1).sum() / len(signatures))


def _order(plain: AnyArray, sealed: AnyArray) -> Int64Array | None:
    """Return which sealed pixel has the differences, or levels, of each plain one; None if they have other ones.

    Args:
        plain: integers [d, P, c], the differences.
        sealed: integers [d, P, c].
    """
    own, others = (x.transpose(1, 0, 2).reshape(x.shape[1], -1) for x in (plain, sealed))
    of_own, of_others = np.lexsort(own.T), np.lexsort(others.T)
    if not np.array_equal(own[of_own], others[of_others]):
        return None
    order = np.empty(len(own), np.int64)
    order[of_own] = of_others
    return order
