"""The executors: they apply a scheme's table to images. Numba on the CPU, torch on any device.

A scheme computes its table once per key. What follows is memory traffic: a block is read in one order and written in
another, so that no random access leaves the first-level cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from crypto.arrays import Int64Array, UInt8Array, UInt32Array, require_images
from crypto.cores import cores
from crypto.kernels.blocks import block_pixels
from crypto.kernels.table import Table
from crypto.kernels.unaligned import load4, store4

if TYPE_CHECKING:
    import torch

_VALUES, _PIXELS, _NIBBLES = 0, 1, 2
#: Bytes of images that are worth starting a thread for.
_BYTES_PER_THREAD = 1 << 20

# Every unit has a function of its own: with pixels and values in one, the compiled code is half as fast. Addresses
# are sums of unsigned numbers, or go through load4 and store4: Numba's care for negative ones costs as much as the
# work.
#
# Parameters of the functions that move a block: source and target are where its first byte is read in `image` and
# written in `result`; stride is the bytes of a row of the image; rows and width are the block's rows and the bytes of
# each; places says where each unit is found, in bytes from the block's first one.


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _move_pixels(
    image: UInt8Array,
    result: UInt8Array,
    source: int,
    target: int,
    stride: int,
    rows: int,
    pixels: int,
    places: UInt32Array,
    words: int,
) -> None:
    """Move a block of RGB pixels.

    `words` is how many pixels of a row, from its start, may be read and written as four bytes.
    """
    for r in range(rows):
        row, unit = target + r * stride, r * pixels
        for k in range(words):
            store4(result, row + 3 * k, load4(image, source + load4(places, unit + k)))
        for k in range(words, pixels):
            q, p = np.uint64(source) + places[unit + k], np.uint64(row + 3 * k)
            result[p] = image[q]
            result[p + np.uint64(1)] = image[q + np.uint64(1)]
            result[p + np.uint64(2)] = image[q + np.uint64(2)]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _move_values(
    image: UInt8Array,
    result: UInt8Array,
    source: int,
    target: int,
    stride: int,
    rows: int,
    width: int,
    places: UInt32Array,
) -> None:
    """Move a block of bytes."""
    for r in range(rows):
        row, unit = np.uint64(target + r * stride), np.uint64(r * width)
        for k in range(np.uint64(width)):
            result[row + k] = image[np.uint64(source) + places[unit + k]]


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator] # no types
def _move_nibbles(
    source: UInt8Array,
    target: UInt8Array,
    offsets: UInt32Array,
    places: UInt32Array,
    nibbles: UInt8Array,
) -> None:
    """Move the nibbles of a block.

    source and target begin at the block's first byte; its bytes are at `offsets` from there. places holds numbers of
    nibbles, and `nibbles` is memory for all of them.
    """
    size = len(offsets)
    for k in range(size):
        nibbles[k] = source[offsets[k]] & np.uint8(15)
        nibbles[size + k] = source[offsets[k]] >> np.uint8(4)
    for k in range(size):
        target[offsets[k]] = nibbles[places[k]] | nibbles[places[size + k]] << np.uint8(4)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _flip(result: UInt8Array, target: int, stride: int, rows: int, width: int, mask: UInt8Array) -> None:
    """XOR a mask, uint8 [rows*width], to a block."""
    for r in range(rows):
        row, unit = np.uint64(target + r * stride), np.uint64(r * width)
        for k in range(np.uint64(width)):
            result[row + k] ^= mask[unit + k]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator] # numba has no types
def _apply(
    images: UInt8Array,
    out: UInt8Array,
    stride: int,
    rows: int,
    width: int,
    order: Int64Array,
    places: UInt32Array,
    mask: UInt8Array,
    unit: int,
) -> None:
    """Apply a prepared table to images uint8 [n, h*w*c], block by block, into `out` of the same shape."""
    across, size = stride // width, rows * width
    reach = (rows - 1) * stride + width
    nibbles = np.empty(2 * size if unit == _NIBBLES else 0, np.uint8)
    offsets = np.empty(size if unit == _NIBBLES else 0, np.uint32)
    for k in range(len(offsets)):
        offsets[k] = k // width * stride + k % width
    for i in range(len(images)):
        image, result = images[i], out[i]
        for b in range(len(order)):
            source = order[b] // across * rows * stride + order[b] % across * width
            target = b // across * rows * stride + b % across * width
            where = places[b] if len(places) > 1 else places[0]
            if unit == _PIXELS:
                # A pixel's three bytes are read and written as four where a fourth belongs to the image. The extra
                # byte that is written belongs to a pixel or block still to come, except at the end of the image's
                # row.
                words = width // 3 if source + reach < len(image) else 0
                if words and b % across == across - 1:
                    words -= 1
                _move_pixels(image, result, source, target, stride, rows, width // 3, where, words)
            elif unit == _VALUES:
                _move_values(image, result, source, target, stride, rows, width, where)
            else:
                read, written = image[source : source + reach], result[target : target + reach]
                _move_nibbles(read, written, offsets, where, nibbles)
            if mask.size:
                flips = mask[b] if len(mask) > 1 else mask[0]
                _flip(result, target, stride, rows, width, flips)


@dataclass(frozen=True, repr=False)  # the arrays are a key
class Prepared:
    """A table as the Numba executor takes it: unsigned indices, which need no check for negative ones.

    Attributes:
        order: int64 [N], the block that is read for each block of the result.
        places: uint32 [1 or N, units], where each unit is found, in bytes from the block's first one; for nibbles,
            its number.
        mask: uint8 [1 or N, bytes], or empty.
        unit: _VALUES, _PIXELS or _NIBBLES.
    """

    order: Int64Array
    places: UInt32Array
    mask: UInt8Array
    unit: int


def prepare(table: Table) -> Prepared:
    """Return a table in the form that `run` takes."""
    height, width, channels = table.shape
    rows, columns = table.block
    count = height * width // (rows * columns)
    within = np.arange(rows)[:, None] * width * channels + np.arange(columns * channels)  # [rows, bytes]
    order = np.arange(count) if table.order is None else table.order
    unit = {"value": _VALUES, "pixel": _PIXELS if channels == 3 else _VALUES, "nibble": _NIBBLES}[
        table.unit
    ]
    if table.unit == "pixel":
        within = within[:, ::channels]
    starts = np.arange(2 * within.size) if table.unit == "nibble" else within.ravel()
    places = starts[None] if table.inner is None else starts[table.inner]
    mask = np.zeros((0, 0), np.uint8) if table.mask is None else np.ascontiguousarray(table.mask, np.uint8)
    return Prepared(order.astype(np.int64), places.astype(np.uint32), mask, unit)


def apply(table: Table, images: UInt8Array) -> UInt8Array:
    """Return a table applied to images uint8 [n, h, w, c], on all cores; the input is left untouched."""
    return run(table, prepare(table), images)


def run(table: Table, prepared: Prepared, images: UInt8Array, out: UInt8Array | None = None) -> UInt8Array:
    """Apply a prepared table to images.

    Args:
        table: The table.
        prepared: What `prepare` made of it.
        images: uint8 [n, h, w, c].
        out: Contiguous array for the result, uint8 [n, h, w, c]; None makes one.

    Returns:
        The result, uint8 [n, h, w, c].
    """
    height, width, channels = table.shape
    require_images(images, table.shape, "uint8")
    flat = np.ascontiguousarray(images).reshape(-1, height * width * channels)
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("the result's array is not contiguous")  # reshape would fill a copy of it
    result = np.empty_like(flat) if out is None else out.reshape(flat.shape)

    def apply_to(start: int, stop: int) -> None:
        _apply(
            flat[start:stop],
            result[start:stop],
            width * channels,
            table.block[0],
            table.block[1] * channels,
            prepared.order,
            prepared.places,
            prepared.mask,
            prepared.unit,
        )

    # Python's threads: Numba's are not safe when several Python threads call at once.
    parts = min(len(flat), 1 + flat.nbytes // _BYTES_PER_THREAD)
    if parts > 1:
        parts = min(parts, cores())
    if parts < 2:
        apply_to(0, len(flat))
    else:
        edges = [len(flat) * i // parts for i in range(parts + 1)]
        with ThreadPoolExecutor(parts) as threads:
            list(threads.map(apply_to, edges[:-1], edges[1:]))
    return result.reshape(images.shape)


def apply_torch(table: Table, images: torch.Tensor) -> torch.Tensor:
    """Return a table applied to a uint8 tensor [n, h, w, c]; the result stays on its device."""
    import torch

    height, width, channels = table.shape
    require_images(images, table.shape, "uint8")
    cells = torch.as_tensor(block_pixels(height, width, *table.block), device=images.device)  # [N, p]
    n, pixels = len(images), cells.shape[1]
    flat = images.reshape(n, height * width, channels)
    order = slice(None) if table.order is None else torch.as_tensor(table.order, device=images.device)
    blocks = flat[:, cells[order]]  # [n, N, p, c]
    unit_shapes = {
        "pixel": (pixels, channels),
        "value": (pixels * channels, 1),
        "nibble": (2 * table.block_bytes, 1),
    }
    units = blocks.reshape(n, len(cells), table.block_bytes)
    if table.unit == "nibble":
        units = torch.cat([units & 15, units >> 4], 2)
    units = units.reshape(n, len(cells), *unit_shapes[table.unit])
    if table.inner is not None:
        inner = torch.as_tensor(table.inner, device=images.device)
        if len(inner) == 1:
            units = units[:, :, inner[0]]
        else:
            units = units[:, torch.arange(len(cells), device=images.device)[:, None], inner]
    units = units.flatten(2)
    if table.unit == "nibble":
        units = units[..., : table.block_bytes] | units[..., table.block_bytes :] << 4
    if table.mask is not None:
        units = units ^ torch.tensor(table.mask, device=images.device)
    out = torch.empty_like(flat)
    out[:, cells] = units.reshape(n, len(cells), pixels, channels)
    return out.reshape(images.shape)
