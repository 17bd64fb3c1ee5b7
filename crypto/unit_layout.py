"""The shape of a scheme's key: which units of an image it moves, whether blocks move, what is shared and inverted.

Source: our own, from the schemes' steps. Attacks with known or chosen plaintext read it to pair units.
"""

from __future__ import annotations

from dataclasses import dataclass

from crypto.kernels.table import Unit


@dataclass(frozen=True)
class UnitLayout:
    """The shape of the key of a scheme that is a table of units.

    Attributes:
        shape: Shape [h, w, c] of sealed images.
        block: Side of a block in pixels.
        unit: What moves as one.
        moves_blocks: Whether blocks change places.
        shared: Whether one order of the units, and one set of inversions, serves all blocks.
        signed: Whether units are inverted.
        quarters: Whether units keep to the four sub-blocks, all in the same order.
        single: Whether units stay where they are.
    """

    shape: tuple[int, int, int]
    block: int
    unit: Unit = "value"
    moves_blocks: bool = False
    shared: bool = False
    signed: bool = False
    quarters: bool = False
    single: bool = False

    @property
    def top(self) -> int:
        """The largest value of a unit that can be inverted."""
        return 15 if self.unit == "nibble" else 255

    @property
    def units(self) -> int:
        """Units of a block; of a sub-block where they keep to it; 1 where they stay."""
        pixels = self.block**2 // (4 if self.quarters else 1)
        sizes = {"pixel": pixels, "value": pixels * self.shape[2], "nibble": 2 * pixels * self.shape[2]}
        return 1 if self.single else sizes[self.unit]
