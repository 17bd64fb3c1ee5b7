"""The executors: they apply a scheme's tables to images. Numba on the CPU, torch on any device.

A table says where every pixel comes from and which bits flip. A scheme computes it once per key; what
follows is memory traffic. Pixels move whole (their channels together), which quarters the table of
schemes that never split a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Table:
    """out[p] = in[gather[p]] ^ mask[p], over an image's units.

    gather: int32 [units], a permutation; None stands for the identity.
    mask: uint8 [units * width] XORed after the gather; None flips nothing.
    width: bytes a unit holds (the channels of a pixel, or 1 where values move alone).
    """

    gather: np.ndarray | None
    mask: np.ndarray | None
    width: int

    def inverse(self) -> Table:
        """The table that undoes this one."""
        if self.gather is None:
            return self
        back = np.empty_like(self.gather)
        back[self.gather] = np.arange(len(self.gather), dtype=self.gather.dtype)
        mask = None if self.mask is None else self.mask.reshape(-1, self.width)[back].reshape(-1)
        return Table(back, mask, self.width)


@numba.njit(parallel=True, cache=True)
def _gather(images: np.ndarray, gather: np.ndarray, out: np.ndarray) -> None:
    n, units, width = images.shape
    for i in numba.prange(n):
        source = images[i]
        target = out[i]
        if width == 1:
            for p in range(units):
                target[p, 0] = source[gather[p], 0]
        elif width == 3:
            for p in range(units):
                q = gather[p]
                target[p, 0] = source[q, 0]
                target[p, 1] = source[q, 1]
                target[p, 2] = source[q, 2]
        else:
            for p in range(units):
                target[p] = source[gather[p]]


def apply(table: Table, images: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, c] → a new uint8 [n, h, w, c]; the input is left untouched."""
    units = math.prod(images.shape[1:]) // table.width
    flat = np.ascontiguousarray(images).reshape(len(images), units, table.width)
    out = np.empty_like(flat)
    if table.gather is None:
        out[...] = flat
    elif len(flat):
        _gather(flat, table.gather, out)
    if table.mask is not None:
        out ^= table.mask.reshape(1, -1, table.width)
    return out.reshape(images.shape)


def apply_torch(table: Table, images: torch.Tensor) -> torch.Tensor:
    """The same on a torch uint8 tensor; the result stays on the tensor's device."""
    import torch

    def on(array: np.ndarray) -> Any:
        return torch.as_tensor(array, device=images.device)

    units = math.prod(images.shape[1:]) // table.width
    flat = images.reshape(len(images), units, table.width)
    out = flat.clone() if table.gather is None else flat[:, on(table.gather).long()]
    if table.mask is not None:
        out = out ^ on(table.mask).reshape(1, -1, table.width)
    return out.reshape(images.shape)


class TableCipher:
    """A cipher whose table is the same for every image."""

    def __init__(self, table: Table) -> None:
        self._forward, self._back = table, table.inverse()

    def encrypt(self, images: np.ndarray, first: int = 0) -> np.ndarray:
        """uint8 [n, h, w, c] → uint8 [n, h, w, c]. `first` (the first image's row) plays no part."""
        return apply(self._forward, images)

    def decrypt(self, images: np.ndarray, first: int = 0) -> np.ndarray:
        """The inverse of encrypt."""
        return apply(self._back, images)
