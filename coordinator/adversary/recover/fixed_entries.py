"""The turn, colour order and shift of a picture that leave most entries of a restricted permutation in place.

No ciphertext tells these apart. A scheme that leaves entries in place (options fixed_blocks, fixed_values) does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coordinator.adversary.puzzle.grid_layout import grid_symmetries
from crypto.arrays import Int64Array
from crypto.symmetry import colour_orders, rotations_and_transposes


@dataclass(frozen=True)
class _Reading:
    """A key in one turn, colour order and shift of the whole picture, which no ciphertext tells apart."""

    k1: Int64Array
    place: Int64Array
    colour: Int64Array

    def fixed_entries(self, fixed: tuple[int, int], channels: int) -> int:
        """Return how many blocks and values stay in place, counting only those that the scheme fixes."""
        blocks = int((self.k1 == np.arange(len(self.k1))).sum())
        values = int((self.place * channels + self.colour == np.arange(len(self.place))).sum())
        return blocks * bool(fixed[0]) + values * bool(fixed[1])


def most_in_place(
    k1: Int64Array,
    place: Int64Array,
    colour: Int64Array,
    shape: tuple[int, int],
    channels: int,
    fixed: tuple[int, int],
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the turn, colour order and shift of the picture that leave most entries in place.

    Args:
        k1: int64 [N], the block order.
        place: int64 [V], the pixel of a block that each sealed value belongs to.
        colour: int64 [V], the colour of each sealed value.
        shape: Rows and columns of blocks.
        channels: Colours of a pixel.
        fixed: How many blocks and how many values the scheme leaves in place. A 0 means that they are not counted.

    Returns:
        (K1, place, colour).
    """
    reading = _Reading(k1, place, colour)
    if any(fixed):
        # The first of equally good readings wins.
        reading = max(
            _readings(reading, shape, channels, fixed), key=lambda r: r.fixed_entries(fixed, channels)
        )
    return reading.k1, reading.place, reading.colour


def _readings(
    reading: _Reading, shape: tuple[int, int], channels: int, fixed: tuple[int, int]
) -> Iterator[_Reading]:
    """Yield the key under every turn, colour order and shift of the picture that fits its shape."""
    rows, columns = shape
    cells = np.arange(rows * columns).reshape(shape)
    side = round((len(reading.place) // channels) ** 0.5)
    # `grid_symmetries` numbers the turns of a block in the order of `rotations_and_transposes`.
    for turn, turned in zip(grid_symmetries(side), rotations_and_transposes(cells), strict=True):
        if turned.shape != shape:
            continue
        for order in colour_orders(channels):
            for down in range(rows if fixed[0] else 1):
                for right in range(columns if fixed[0] else 1):
                    moved = np.roll(turned, (down, right), (0, 1)).ravel()[reading.k1]
                    yield _Reading(moved, turn[reading.place], order[reading.colour])
