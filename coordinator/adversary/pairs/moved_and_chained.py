"""Ciphers by chaotic maps, from known pairs (T3): pixels in one order, one keystream over them, values chained.

The difference of two ciphertexts is that of their images, moved: the stream cancels out. So each pixel is recognised
by its differences over all pairs, and the stream is what is left. Chaining is undone first: it takes no key.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordinator.adversary.contract import Fit, Recovered
from coordinator.adversary.opened import RecoveredChained, RecoveredStream
from coordinator.adversary.pairs.known_pairs import solve_keystream, solve_substitution
from crypto.arrays import Images, Int64Array, UInt8Array
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


def _share_alone(plain: UInt8Array) -> float:
    """Return the share of pixels that have other differences than every other pixel: uint8 [d, P, c]."""
    signatures = plain.transpose(1, 0, 2).reshape(plain.shape[1], -1)
    counts = np.unique(signatures, axis=0, return_counts=True)[1]
    return float((counts == 1).sum() / len(signatures))


def _order(plain: UInt8Array, sealed: UInt8Array) -> Int64Array | None:
    """Return which sealed pixel has the differences of each plain one; None if they have other ones.

    Args:
        plain: uint8 [d, P, c], the differences.
        sealed: uint8 [d, P, c].
    """
    own, others = (x.transpose(1, 0, 2).reshape(x.shape[1], -1) for x in (plain, sealed))
    of_own, of_others = np.lexsort(own.T), np.lexsort(others.T)
    if not np.array_equal(own[of_own], others[of_others]):
        return None
    order = np.empty(len(own), np.int64)
    order[of_own] = of_others
    return order
