"""Key recovery of block_pixel where blocks are small: every block laid out by how alike its values are over the pool.

Each block place is a table of V values by n images, as in ele.py, with whole values instead of nibbles:

1. the signs of the values by their correlations, up to the sign of all (values/nibble_statistics.py);
2. the layout that explains the correlations best (values/layout_fit.py), up to the eight turns, the colours and the
   sign of the block;
3. what is left is encryption-then-compression, whose recovery sets every block upright and gives K1 (etc.py);
4. with all blocks upright, their mean correlations are a template of this very pool. The blocks are laid out with it
   again, and step 3 is repeated.

The search takes time as V³, so that it is for small blocks. It needs some ten images more than a block has values to
be right: README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.recover.block_pixel_rounds import (
    Insides,
    refine_in_rounds,
    set_upright,
    upright_parts,
    upright_places,
)
from coordinator.adversary.recover.pool_reading import random_rows
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.constant_planes import constant_planes
from coordinator.adversary.values.layout_fit import LAYOUT_FIT, LEAST_LAYOUT_FIT, LayoutSearch
from coordinator.adversary.values.nibble_statistics import consistent_signs, correlations
from coordinator.adversary.values.value_layout import place_values
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import BoolArray, Float32Array, Float64Array, Int64Array, Rows
from crypto.kernels.blocks import to_blocks
from crypto.scheme import load
from crypto.schemes.block_pixel import BlockPixel
from crypto.spec import SchemeSpec

#: Most values of a block that are laid out so: a search over 192 takes seconds a block.
MOST_SMALL_VALUES = 64
#: Most images used. Set once; not tuned further.
_IMAGES = 500
#: Layouts that explain so much are not sought again. Set once; not tuned further.
_GOOD_FIT = 0.98
#: Fewer images than this tell nothing about a block's values. Set once; not tuned further.
LEAST_SMALL_IMAGES = 24


@dataclass(frozen=True)
class _Layouts:
    """What is known of N sealed blocks of V values.

    Attributes:
        tables: float32 [N, n, V], their values about mid-gray, in signs that agree within a block.
        varies: bool [N, V], whether each value varies.
        flip: bool [N, V], the values that are negated in `tables`.
        places: int64 [N, V], the plain value that each is, up to the turns, colours and sign of its block.
        fit: float64 [N], how much of the correlations the layout explains; NaN where nothing varies.
    """

    tables: Float32Array
    varies: BoolArray
    flip: BoolArray
    places: Int64Array
    fit: Float64Array

    @property
    def insides(self) -> Insides:
        """The same without the tables."""
        return Insides(self.places, self.flip, self.varies)

    @property
    def median_fit(self) -> float:
        """The median fit of the blocks that vary; 1 if there is none."""
        known = self.fit[~np.isnan(self.fit)]
        return float(np.median(known)) if len(known) else 1.0


def recover_small_blocks(
    pool: Ciphertexts, pool_rows: Rows, read: MemoryPool, time_left: TimeLeft
) -> Recovered | None:
    """Recover K1, K2 and mask.

    Args:
        pool: Sealed images under one key.
        pool_rows: int64 [n], the rows that may be used.
        read: Images of these rows that were read, by which the key is refined.
        time_left: Asked between blocks.

    Returns:
        The key; None if no layout can be made a picture of.
    """
    spec = pool.spec
    algorithm = load(spec).algorithm
    assert isinstance(algorithm, BlockPixel)
    rows = random_rows(pool_rows, _IMAGES)
    notes = [f"from {len(rows)} of {len(pool_rows)} images"] if len(rows) < len(pool_rows) else []
    layouts = _lay_out_each(pool, rows, time_left)
    solution = set_upright(pool, rows, layouts.insides, time_left)
    if solution is None:
        return None
    # The upright blocks show together how alike the values of a block are, and each is laid out by that again.
    upright = upright_places(spec, solution, layouts.insides)
    again = _lay_out_alike(layouts, upright, spec, time_left)
    better = set_upright(pool, rows, again.insides, time_left) if time_left() else None
    if better is not None and _seam_fit(better) >= _seam_fit(solution):
        layouts, solution = again, better
    refined = refine_in_rounds(read, upright_parts(spec, solution, layouts.insides), time_left)
    fits = (Fit(layouts.median_fit, LEAST_LAYOUT_FIT, f"{LAYOUT_FIT}, median over the blocks"),)
    notes += [] if time_left() else ["truncated: out of time"]
    table = algorithm.table(refined.parts).inverse()
    return Recovered(table, refined.parts, tuple(notes), (*fits, *(refined.fits or solution.fits)))


def _seam_fit(solution: Recovered) -> float:
    return min((fit.value for fit in solution.fits), default=1.0)


def _lay_out_each(pool: Ciphertexts, rows: Rows, time_left: TimeLeft) -> _Layouts:
    """Return the layout of each block by itself, as long as there is time."""
    block, channels = pool.spec.block, pool.spec.image_shape[2]
    sealed = to_blocks(pool.images(rows), block)  # [n, N, S, c]
    tables = sealed.reshape(*sealed.shape[:2], -1).transpose(1, 0, 2).astype(np.float32) - np.float32(127.5)
    count, _, size = tables.shape
    varies = np.ptp(tables, axis=1) > 0
    flip, fit = tables[:, 0] > 0, np.where(varies.any(1), 0.0, np.nan)
    places = np.tile(np.arange(size), (count, 1))
    for i in np.flatnonzero(varies.any(1)).tolist():
        if not time_left():
            break
        lively = tables[i][:, varies[i]]
        signs = consistent_signs(correlations(lively, lively))
        # Pictures are assumed to be dark, as everywhere: the puzzle turns blocks that are not.
        if (lively * signs).mean() > 0:
            signs = -signs
        flip[i, varies[i]] = signs < 0
        tables[i][:, varies[i]] *= signs
        places[i], fit[i] = _lay_out(tables[i], varies[i], block, channels, time_left)
    return _Layouts(tables, varies, flip, places, fit)


def _lay_out(
    table: Float32Array, varies: BoolArray, block: int, channels: int, time_left: TimeLeft
) -> tuple[Int64Array, float]:
    """Return the plain value that each position of a block is, int64 [V], and the layout's fit.

    Colour planes that never vary are left out of the search, and come last.

    Args:
        table: float32 [n, V], the values of a block over the pool, in signs that agree.
        varies: bool [V], whether each of them varies.
        block: The block side in pixels.
        channels: Colours of a pixel.
        time_left: Asked between searches.
    """
    planes = constant_planes(varies, block * block, channels)
    chosen = varies if planes else np.ones(len(varies), bool)
    colours = channels - planes
    lively = table[:, chosen]
    search = LayoutSearch(correlations(lively, lively)[None], block, colours)
    layout = search.improve(search.judge(np.arange(lively.shape[1])), time_left)
    value = np.arange(len(varies)).reshape(-1, channels)
    places = np.empty(len(varies), np.int64)
    places[chosen] = value[:, :colours].ravel()[layout.places]
    places[~chosen] = value[:, colours:].ravel()
    return places, layout.fit


def _lay_out_alike(
    layouts: _Layouts, upright: Int64Array, spec: SchemeSpec, time_left: TimeLeft
) -> _Layouts:
    """Return the layouts found with the mean correlations of all blocks as the template, where they fit better.

    Args:
        layouts: The layouts of the blocks by themselves.
        upright: int64 [N, V], the same with all blocks upright.
        spec: The scheme.
        time_left: Asked between blocks.
    """
    order = np.argsort(upright, axis=1)
    measured = [correlations(table, table) for table in layouts.tables]
    usual = np.mean([each[np.ix_(by, by)] for each, by in zip(measured, order, strict=True)], axis=0)
    places, fit = layouts.places.copy(), layouts.fit.copy()
    # Empty planes would count as well explained.
    for i in np.flatnonzero((fit < _GOOD_FIT) & layouts.varies.all(1)).tolist():
        if not time_left():
            break
        search = LayoutSearch(measured[i][None], spec.block, spec.image_shape[2])
        found = place_values(measured[i][None], usual[None], spec.block, spec.image_shape[2], time_left)
        layout = search.judge(found)
        if layout.fit > fit[i]:
            places[i], fit[i] = layout.places, layout.fit
    return replace(layouts, places=places, fit=fit)
