"""The executors: they apply a scheme's table to images. Numba on the CPU, torch on any device.

A scheme computes its table once per key; what follows is memory traffic: a block is read in one order and
written in another, so that no random access leaves the first-level cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from crypto.cores import cores
from crypto.kernels.blocks import block_pixels
from crypto.kernels.table import Table
from crypto.kernels.unaligned import load4, store4

if TYPE_CHECKING:
    import torch

# NumPy arrays stay NumPy arrays, on the CPU; torch tensors stay tensors, on their device.
Images = Any

_VALUES, _PIXELS, _NIBBLES = 0, 1, 2


# Pixels and values apart: together in one function, the compiled code is half as fast. Addresses are sums of
# unsigned numbers, or go through load4 and store4: Numba's care for negative ones costs as much as the work.


@numba.njit(nogil=True, cache=True)
def _move_pixels(
    image: np.ndarray,
    result: np.ndarray,
    come: int,
    go: int,
    stride: int,
    rows: int,
    pixels: int,
    where: np.ndarray,
    words: int,
) -> None:
    """A block of RGB pixels. words: how many of a row, from its start, may be read and written as four bytes."""
    for r in range(rows):
        to, at = go + r * stride, r * pixels
        for k in range(words):
            store4(result, to + 3 * k, load4(image, come + load4(where, at + k)))
        for k in range(words, pixels):
            q, p = np.uint64(come) + where[at + k], np.uint64(to + 3 * k)
            result[p] = image[q]
            result[p + np.uint64(1)] = image[q + np.uint64(1)]
            result[p + np.uint64(2)] = image[q + np.uint64(2)]


@numba.njit(nogil=True, cache=True)
def _move_values(
    image: np.ndarray,
    result: np.ndarray,
    come: int,
    go: int,
    stride: int,
    rows: int,
    width: int,
    where: np.ndarray,
) -> None:
    """A block of bytes."""
    for r in range(rows):
        to, at = np.uint64(go + r * stride), np.uint64(r * width)
        for k in range(np.uint64(width)):
            result[to + k] = image[np.uint64(come) + where[at + k]]


@numba.njit(nogil=True, cache=True)
def _flip(result: np.ndarray, go: int, stride: int, rows: int, width: int, flips: np.ndarray) -> None:
    """XORs a mask, uint8 [rows*width], to a block."""
    for r in range(rows):
        to, at = np.uint64(go + r * stride), np.uint64(r * width)
        for k in range(np.uint64(width)):
            result[to + k] ^= flips[at + k]


@numba.njit(nogil=True, cache=True)
def _apply(
    images: np.ndarray,
    out: np.ndarray,
    stride: int,
    rows: int,
    width: int,
    order: np.ndarray,
    place: np.ndarray,
    mask: np.ndarray,
    unit: int,
) -> None:
    """uint8 [n, h*w*c] to uint8 [n, h*w*c], block by block.

    stride: bytes of a row of the image. rows, width: rows of a block, and bytes of each. place: uint32
    [1 or N, units], where each unit is found, in bytes from the block's first one; for nibbles, its number.
    """
    across, size = stride // width, rows * width
    reach = (rows - 1) * stride + width
    nibbles = np.empty(2 * size if unit == _NIBBLES else 0, np.uint8)
    home = np.empty(size if unit == _NIBBLES else 0, np.uint32)
    for k in range(len(home)):
        home[k] = k // width * stride + k % width
    for i in range(len(images)):
        image, result = images[i], out[i]
        for b in range(len(order)):
            come = order[b] // across * rows * stride + order[b] % across * width
            go = b // across * rows * stride + b % across * width
            where = place[b] if len(place) > 1 else place[0]
            if unit == _PIXELS:
                # A pixel's three bytes are read and written as four where a fourth belongs to the image. The one
                # too many that is written is of a pixel or block still to come, save at the end of the image's row.
                words = width // 3 if come + reach < len(image) else 0
                if words and b % across == across - 1:
                    words -= 1
                _move_pixels(image, result, come, go, stride, rows, width // 3, where, words)
            elif unit == _VALUES:
                _move_values(image, result, come, go, stride, rows, width, where)
            else:
                block, target = image[come : come + reach], result[go : go + reach]
                for k in range(size):
                    nibbles[k] = block[home[k]] & np.uint8(15)
                    nibbles[size + k] = block[home[k]] >> np.uint8(4)
                for k in range(size):
                    target[home[k]] = nibbles[where[k]] | nibbles[where[size + k]] << np.uint8(4)
            if not mask.size:
                continue
            flips = mask[b] if len(mask) > 1 else mask[0]
            if unit == _NIBBLES:
                target = result[go : go + reach]
                for k in range(size):
                    target[home[k]] ^= flips[k]
            else:
                _flip(result, go, stride, rows, width, flips)


_WORTH_A_THREAD = 1 << 20  # bytes


@dataclass(frozen=True)
class Prepared:
    """A table as the Numba executor wants it: unsigned indices, which need no check for negative ones."""

    order: np.ndarray
    place: np.ndarray
    mask: np.ndarray
    unit: int


def prepare(table: Table) -> Prepared:
    """A table made ready, once, for `run`."""
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
    place = starts[None] if table.inner is None else starts[table.inner]
    mask = np.zeros((0, 0), np.uint8) if table.mask is None else np.ascontiguousarray(table.mask, np.uint8)
    return Prepared(order.astype(np.int64), place.astype(np.uint32), mask, unit)


def apply(table: Table, images: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, c] → a new uint8 [n, h, w, c], on all cores; the input is left untouched."""
    return run(table, prepare(table), images)


def must_be(images: Images, shape: tuple[int, ...], kind: str) -> None:
    """Raises ValueError for images of another shape or dtype: a cast would seal something else."""
    if tuple(images.shape[1:]) != shape or str(images.dtype).removeprefix("torch.") != kind:
        raise ValueError(
            f"{kind} [n, {', '.join(map(str, shape))}] expected, not {images.dtype} {list(images.shape)}"
        )


def run(table: Table, ready: Prepared, images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """`apply` with a table that was prepared before; into `out`, a contiguous uint8 [n, h, w, c], where given."""
    height, width, channels = table.shape
    must_be(images, table.shape, "uint8")
    flat = np.ascontiguousarray(images).reshape(-1, height * width * channels)
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("the result's array is not contiguous")  # reshape would fill a copy of it
    result = np.empty_like(flat) if out is None else out.reshape(flat.shape)

    def part(start: int, stop: int) -> None:
        _apply(
            flat[start:stop],
            result[start:stop],
            width * channels,
            table.block[0],
            table.block[1] * channels,
            ready.order,
            ready.place,
            ready.mask,
            ready.unit,
        )

    # Threads of our own: Numba's are not safe where several Python threads call at once.
    parts = min(len(flat), 1 + flat.nbytes // _WORTH_A_THREAD)
    if parts > 1:
        parts = min(parts, cores())
    if parts < 2:
        part(0, len(flat))
    else:
        edges = [len(flat) * i // parts for i in range(parts + 1)]
        with ThreadPoolExecutor(parts) as threads:
            list(threads.map(part, edges[:-1], edges[1:]))
    return result.reshape(images.shape)


def apply_torch(table: Table, images: torch.Tensor) -> torch.Tensor:
    """The same on a torch uint8 tensor; the result stays on the tensor's device."""
    import torch

    height, width, channels = table.shape
    must_be(images, table.shape, "uint8")
    cells = torch.as_tensor(block_pixels(height, width, *table.block), device=images.device)  # [N, p]
    n, pixels = len(images), cells.shape[1]
    flat = images.reshape(n, height * width, channels)
    order = slice(None) if table.order is None else torch.as_tensor(table.order, device=images.device)
    blocks = flat[:, cells[order]]  # [n, N, p, c]
    wide = {
        "pixel": (pixels, channels),
        "value": (pixels * channels, 1),
        "nibble": (2 * table.block_bytes, 1),
    }
    units = blocks.reshape(n, len(cells), table.block_bytes)
    if table.unit == "nibble":
        units = torch.cat([units & 15, units >> 4], 2)
    units = units.reshape(n, len(cells), *wide[table.unit])
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
