"""Table: what a scheme's key does to an image, block by block: where every unit comes from, which bits flip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from crypto.arrays import Int32Array, Int64Array, UInt8Array
from crypto.kernels.blocks import block_pixels

Unit = Literal["pixel", "value", "nibble"]


@dataclass(frozen=True, repr=False)
class Table:
    """out_block[i][u] = in_block[order[i]][inner[i, u]] ^ mask[i, u], over the blocks of an image.

    Printing shows shapes alone: what is in a hospital's table is its key.

    Attributes:
        shape: [h, w, c] of the images.
        block: (rows, columns) of a block in pixels.
        order: int64 [N], a permutation of the blocks; None keeps them.
        inner: int64 [1 or N, units], in each row a permutation of a block's units; one row serves all blocks. None
            keeps the units. Units are row-major in the block.
        mask: uint8 [1 or N, bytes], XORed to a block's bytes last; None flips nothing.
        unit: What moves as one: a `pixel` (its channels together), a `value` (one byte) or a `nibble`. Of a block's
            nibbles the low ones come first, then the high ones.
    """

    shape: tuple[int, int, int]
    block: tuple[int, int]
    order: Int64Array | None = None
    inner: Int64Array | None = None
    mask: UInt8Array | None = None
    unit: Unit = "value"

    def __repr__(self) -> str:
        arrays = {"order": self.order, "inner": self.inner, "mask": self.mask}
        shapes = ", ".join(f"{k}={None if v is None else list(v.shape)}" for k, v in arrays.items())
        return f"Table(shape={self.shape}, block={self.block}, {shapes}, unit={self.unit!r})"

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.block[0] * self.block[1] * self.shape[2]

    @classmethod
    def flat(cls, shape: tuple[int, int, int], gather: Int64Array, mask: UInt8Array | None = None) -> Table:
        """Return a table over a whole image.

        Args:
            shape: [h, w, c] of the images.
            gather: Where each of the h·w pixels, h·w·c values or 2·h·w·c nibbles comes from; the length tells which.
            mask: uint8 [h·w·c] or None.
        """
        pixels, values = shape[0] * shape[1], shape[0] * shape[1] * shape[2]
        units: dict[int, Unit] = {2 * values: "nibble", values: "value"}
        unit: Unit = "pixel" if len(gather) == pixels else units[len(gather)]
        return cls(shape, shape[:2], None, gather[None], None if mask is None else mask[None], unit)

    def flattened(self) -> tuple[Int32Array, UInt8Array | None]:
        """Return the table over a whole image, as for `flat`: gather int32 [units], mask uint8 [h·w·c] or None."""
        height, width, channels = self.shape
        cells = block_pixels(height, width, *self.block)  # [N, p]
        values = (cells[..., None] * channels + np.arange(channels)).reshape(len(cells), -1)
        total = height * width * channels
        units = {"pixel": cells, "value": values, "nibble": np.concatenate([values, total + values], 1)}[
            self.unit
        ]
        order = np.arange(len(cells)) if self.order is None else self.order
        inner = np.arange(units.shape[1])[None] if self.inner is None else self.inner
        gather = np.empty(units.size, np.int32)
        gather[units] = np.take_along_axis(units[order], np.broadcast_to(inner, units.shape), 1)
        if self.mask is None:
            return gather, None
        mask = np.empty(total, np.uint8)
        mask[values] = self.mask
        return gather, mask

    def inverse(self) -> Table:
        """Return the table that undoes this one."""
        order, inner, mask = self.order, self.inner, self.mask
        if inner is not None:
            inner = np.argsort(inner, axis=1)
        if mask is not None and inner is not None:
            # in = out[inverse] ^ mask[inverse]: the mask travels back with the units.
            count = max(len(mask), len(inner))
            masks = np.broadcast_to(mask, (count, mask.shape[1]))
            mask = _moved(masks, np.broadcast_to(inner, (count, inner.shape[1])), self)
        if order is not None:
            back = np.argsort(order)
            order = back
            if inner is not None and len(inner) > 1:
                inner = inner[back]
            if mask is not None and len(mask) > 1:
                mask = mask[back]
        return Table(self.shape, self.block, order, inner, mask, self.unit)


def _moved(mask: UInt8Array, inner: Int64Array, table: Table) -> UInt8Array:
    """Return masks uint8 [P, bytes] with their units moved: unit u of the result is unit inner[p, u]."""
    if table.unit == "pixel":
        pixels = mask.reshape(len(mask), -1, table.shape[2])
        return np.take_along_axis(pixels, inner[..., None], 1).reshape(mask.shape)
    if table.unit == "value":
        return np.take_along_axis(mask, inner, 1)
    nibbles = np.take_along_axis(np.concatenate([mask & 15, mask >> 4], 1), inner, 1)
    size = mask.shape[1]
    moved: UInt8Array = nibbles[:, :size] | nibbles[:, size:] << 4
    return moved
