"""A pool of which every block was put right inside: what is left to solve is encryption-then-compression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.adversary.contract import Ciphertexts
from crypto.arrays import AnyArray, BoolArray, Rows
from crypto.kernels.executors import apply
from crypto.kernels.table import Table
from crypto.spec import SchemeSpec

_MID_GRAY = np.uint8(128)
#: The bits of a high nibble, and the middle of the 16 values that share one.
_HIGH_NIBBLE, _MIDDLE = np.uint8(0xF0), np.uint8(8)


@dataclass(frozen=True)
class HalfOpened:
    """Sealed images with the inside of every block put back, as far as it is right.

    Attributes:
        pool: The sealed images.
        spec: The scheme that is left, `etc` or `block_pixel`.
        table: Puts the inside of every block back.
        unsigned: None, or bool [h, w, c], the values of the half-opened images whose sign nobody knows. They are
            shown in mid-gray, so that they speak for no sign of their block.
        is_coarse: Whether only the high nibbles of the values are known. The low ones are shown in the middle.
    """

    pool: Ciphertexts
    spec: SchemeSpec
    table: Table
    unsigned: BoolArray | None = None
    is_coarse: bool = False

    def __len__(self) -> int:
        return len(self.pool)

    def images(self, rows: Rows) -> AnyArray:
        """Return the half-opened images of these rows."""
        opened: AnyArray = apply(self.table, self.pool.images(rows))
        if self.is_coarse:
            opened &= _HIGH_NIBBLE
            opened |= _MIDDLE
        if self.unsigned is not None:
            opened[:, self.unsigned] = _MID_GRAY
        return opened
