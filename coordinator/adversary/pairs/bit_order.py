"""One order of all bits, under a keystream or none, from known pairs (T3).

It holds every cipher that moves pixels, values or bits, within planes or between them, and XORs a keystream. The
difference of two ciphertexts is that of their images, moved: the keystream cancels out. So each bit is recognised by
its differences over all pairs, and the stream is what is left.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Fit
from coordinator.adversary.opened import RecoveredBits
from crypto.arrays import BoolArray, Images, UInt8Array

#: Least share of the bits that the pairs must tell from all others. Chosen by hand. Forty random images tell all bits
#: of a colour picture of 256×256 apart but for a few; twenty tell 98 % of those of a gray one of 32×32.
_LEAST_ALONE = 0.9
_ALONE = "the share of bits that differ from all others in the pairs"


def solve_bits(plain: Images, sealed: Images) -> RecoveredBits | None:
    """Recover an order of all bits, and the flips over it, that give these pairs; None if there are none.

    Bits whose differences are equal are interchangeable. Their order is a guess, and the fit says how many bits have
    none.

    Args:
        plain: uint8 [m, h, w, c], at least 2.
        sealed: uint8 [m, h, w, c], the same images under the key.
    """
    if len(plain) < 2:
        return None
    own, others = (_signatures(images[1:] ^ images[0]) for images in (plain, sealed))
    of_own, of_others = np.lexsort(own.T), np.lexsort(others.T)
    if not np.array_equal(own[of_own], others[of_others]):
        return None
    order = np.empty(len(own), np.int64)
    order[of_own] = of_others
    flips = (_bits(plain[:1])[0] ^ _bits(sealed[:1])[0][order]).astype(bool)
    fits = (Fit(_share_alone(own[of_own]), _LEAST_ALONE, _ALONE),)
    return RecoveredBits(order.reshape(-1, 8), fits, flips.reshape(-1, 8))


def _bits(images: Images) -> UInt8Array:
    """Return all bits of images uint8 [n, h, w, c], uint8 [n, 8 V], in the order of `RecoveredBits`."""
    return np.unpackbits(images.reshape(len(images), -1), axis=1, bitorder="little")


def _signatures(differences: Images) -> UInt8Array:
    """Return the differences of each bit over all pairs, packed: uint8 [d, h, w, c] → uint8 [8 V, bytes]."""
    return np.packbits(_bits(differences), axis=0).T


def _share_alone(ordered: UInt8Array) -> float:
    """Return the share of signatures that equal no other; equal ones follow each other."""
    equal: BoolArray = np.asarray((ordered[1:] == ordered[:-1]).all(1))
    alone = ~(np.append(equal, False) | np.append(False, equal))
    return float(alone.mean())
