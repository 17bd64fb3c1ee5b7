"""What a scheme moves as one, and pairing units by what a key does to them leaves unchanged.

Source: our own. `Layout` says of every scheme that is a table which units it moves, whether blocks move, whether one
order serves all blocks, and whether units are inverted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from crypto.errors import CipherwardError
from crypto.kernels.blocks import quarter_pixels, to_blocks
from crypto.scheme import load
from crypto.spec import SchemeSpec


@dataclass(frozen=True)
class Layout:
    """The shape of a scheme's key.

    shape: of sealed images. block: its side in pixels. unit: what moves as one. moves_blocks: whether blocks change
    places. shared: whether one order of the units, and one set of inversions, serves all blocks. signed: whether
    units are inverted. quarters: units keep to the four sub-blocks, all in the same order. single: units stay.
    """

    shape: tuple[int, int, int]
    block: int
    unit: Literal["pixel", "value", "nibble"] = "value"
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

    def upright(self, signatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """([g, u, s] with every unit's first value in the lower half, bool [g, u] which were inverted)."""
        flips = signatures[..., 0] > self.top // 2
        if not self.signed:
            return signatures, np.zeros_like(flips)
        return np.where(flips[..., None], self.top - signatures, signatures), flips


def layout_of(spec: SchemeSpec) -> Layout:
    """Raises CipherwardError for a scheme that is no table of units."""
    shape, block = load(spec).sealed_shape, spec.block
    if spec.name == "pe":
        return Layout(shape, 1, signed=True, single=not spec.options["colour_shuffle"])
    known = {
        "plain": Layout(shape, block, "pixel", True, True, quarters=block % 2 == 0),
        "block_pixel_shuffle": Layout(shape, block, "pixel", True, True, quarters=True),
        "value_shuffle": Layout(shape, block, "value", True, True),
        "block_pixel": Layout(shape, block, "value", True, False, signed=True),
        "le": Layout(shape, block, "nibble", False, True, signed=True),
        "ele": Layout(shape, block, "nibble", True, False, signed=True),
    }
    if spec.name not in known:
        raise CipherwardError(f"{spec.name} is no table of units")
    return known[spec.name]


def cut(layout: Layout, images: np.ndarray) -> np.ndarray:
    """uint8 [m, h, w, c] → int32 [m, N, P, U]: units by block and, with quarters, by sub-block (else P = 1)."""
    m, channels = len(images), images.shape[3]
    if layout.single:
        return images.reshape(m, -1, 1, 1).astype(np.int32)
    blocks = to_blocks(images, layout.block).astype(np.int32)  # [m, N, M², c]
    if layout.unit == "pixel":
        units = blocks @ (256 ** np.arange(channels, dtype=np.int32))
    else:
        units = blocks.reshape(m, blocks.shape[1], -1)
    if layout.unit == "nibble":
        units = np.concatenate([units & 15, units >> 4], 2)
    if layout.quarters:
        return units[:, :, quarter_pixels(layout.block)]
    return units[:, :, None]


def rows_as_ids(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two [k, s] → two int64 [k]: equal numbers for equal rows."""
    both = np.ascontiguousarray(np.concatenate([source, target]))
    rows = both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()
    ids = np.unique(rows, return_inverse=True)[1].reshape(-1)
    return ids[: len(source)], ids[len(source) :]


def pair_up(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """int64 [g, u] twice, numbers of equal things → (int64 [g, u], bool [g, u], bool).

    Target j of a group is source gather[j], a permutation; equal ones are paired in their order. The second says
    which targets have equals in their group, the last whether both sides hold the same things.
    """
    first, second = (np.argsort(v, axis=1, kind="stable") for v in (source, target))
    ordered = np.take_along_axis(target, second, 1)
    fits = bool((np.take_along_axis(source, first, 1) == ordered).all())
    gather = np.empty_like(first)
    np.put_along_axis(gather, second, first, 1)
    same = np.zeros(ordered.shape, bool)
    equal = ordered[:, 1:] == ordered[:, :-1]
    same[:, 1:] |= equal
    same[:, :-1] |= equal
    loose = np.empty_like(same)
    np.put_along_axis(loose, second, same, 1)
    return gather, loose, fits
