"""Colour planes that are the same in every image, such as an empty one: their nibbles tell nothing, and are left out.

A constant nibble correlates with none. Left among the others it is taken for a low nibble, and drives a low one of
the other colours out to the high ones. Which of the constant nibbles is which changes no opened image, as long as
each shows the value that it always has.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coordinator.adversary.values.nibbles import Nibbles
from crypto.arrays import AnyArray, BoolArray, Float32Array


def constant_planes(varies: BoolArray, plane: int, channels: int) -> int:
    """Return how many colour planes never vary; 0 unless what is constant in a block are whole planes.

    Args:
        varies: bool [V], or [2V] for nibbles: whether each varies.
        plane: How many of them a plane has.
        channels: Colour components of a pixel.
    """
    planes, rest = divmod(int((~varies).sum()), plane)
    return planes if not rest and planes < channels else 0


def with_constant_planes(lively: Nibbles, varies: BoolArray, block: int) -> Nibbles:
    """Return the nibbles of a block, constant ones among them, from those of the colours that vary.

    The constant planes are the last colours.

    Args:
        lively: The nibbles that vary, by slot among them and by value of fewer colours.
        varies: bool [2V], whether each nibble varies.
        block: The block side in pixels.
    """
    slots, constant = np.flatnonzero(varies), np.flatnonzero(~varies)
    size, count = block * block, len(varies) // 2
    channels, colours = count // size, len(slots) // 2 // size
    low, high = np.split(np.arange(len(constant)), 2)
    value = np.arange(count).reshape(size, channels)
    moving, still = value[:, :colours].ravel(), value[:, colours:].ravel()

    def merged(of_lively: AnyArray, of_constant: AnyArray) -> AnyArray:
        out: AnyArray = np.empty(count, of_lively.dtype)
        out[moving], out[still] = of_lively, of_constant
        return out

    return Nibbles(
        high=merged(slots[lively.high], constant[high]),
        low=merged(slots[lively.low], constant[low]),
        high_flip=merged(lively.high_flip, np.zeros(len(still), bool)),
        low_flip=merged(lively.low_flip, np.zeros(len(still), bool)),
        confidence=merged(lively.confidence, np.zeros(len(still))),
        fit=lively.fit,
    )


def with_dark_constants(nibbles: Nibbles, sealed: Float32Array, varies: BoolArray) -> Nibbles:
    """Return the nibbles with those that never vary reversed where that makes them darker.

    No ciphertext tells the sign of a value that never varies. Most are black: an empty plane, the border of a scan.

    Args:
        nibbles: The nibbles of a block.
        sealed: float32 [2V], the signed nibbles of any sealed block.
        varies: bool [2V], whether each nibble varies.
    """
    return replace(
        nibbles,
        high_flip=np.where(varies[nibbles.high], nibbles.high_flip, sealed[nibbles.high] > 0),
        low_flip=np.where(varies[nibbles.low], nibbles.low_flip, sealed[nibbles.low] > 0),
    )
