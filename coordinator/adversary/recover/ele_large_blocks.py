"""The insides of large blocks of extended learnable encryption, as those of 16 pixels.

No tied mask confirms a layout of some hundred values: values that are nearly alike change places, and one wrong place
is enough. A search over them takes more than a second a block, and in most blocks its layouts fit hardly better than
the first one. Low nibbles are the other difficulty: of 256 values in 50 brain scans a fifth found their own, and the
others are noise to a search for places.

Which nibbles are high, and their relative signs, depend on no layout. High nibbles alone are values in steps of 16,
in an order and with a mask of their own in every block. That is block_pixel, whose recovery (block_pixel.py) lays
values out by robust distances, beside those of the neighbouring blocks. The low nibbles are matched then, by the
correlations of neighbouring values in all blocks of this very pool. Whole values are finer than steps of 16, and are
assigned to their cells once more by what surrounds each (values/surroundings.py).
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Recovered
from coordinator.adversary.recover import block_pixel
from coordinator.adversary.recover.half_opened import HalfOpened
from coordinator.adversary.sampling import evenly_spaced
from coordinator.adversary.time_budget import TimeLeft
from coordinator.adversary.values.constant_planes import with_dark_constants
from coordinator.adversary.values.nibble_identification import rematch_low_nibbles
from coordinator.adversary.values.nibble_statistics import (
    consistent_signs,
    correlations,
    find_high_nibbles,
    is_beyond_noise,
)
from coordinator.adversary.values.nibbles import Nibbles
from coordinator.adversary.values.surroundings import assign_by_surroundings
from crypto.arrays import Float32Array, Int64Array, Rows
from crypto.kernels.blocks import from_blocks
from crypto.spec import SchemeSpec

#: Nibbles of all images together that are used: 400 MB of float32. Set once by hand; no measurement is recorded.
MOST_LARGE_NIBBLES = 100_000_000
#: Images by which whole values are assigned. Set once by hand; no measurement is recorded.
_ASSIGNED_IMAGES = 100


def find_nibbles(signed: Float32Array) -> Nibbles | None:
    """Return the high nibbles of one block, dark and in agreeing signs; None if they do not correlate.

    Neither their order nor that of the low nibbles means anything yet.

    Args:
        signed: float32 [n, 2V], the signed nibbles of a block over the pool.
    """
    varies = np.ptp(signed, axis=0) > 0
    if not varies.any():
        return None
    all_correlations = correlations(signed, signed)
    high = find_high_nibbles(all_correlations)
    high_correlations = all_correlations[np.ix_(high, high)]
    if not is_beyond_noise(high_correlations, len(signed)):
        return None
    signs = consistent_signs(high_correlations)
    if (signed[:, high].mean(0) * signs).sum() > 0:
        signs = -signs
    low, none = np.setdiff1d(np.arange(signed.shape[1]), high), np.zeros(len(high), bool)
    nibbles = Nibbles(high, low, signs < 0, none, np.zeros(len(high)))
    return with_dark_constants(nibbles, signed[0], varies)


def lay_out_large_blocks(
    coarse: HalfOpened, rows: Rows, signed: Float32Array, nibbles: list[Nibbles], time_left: TimeLeft
) -> tuple[Recovered, list[Nibbles]] | None:
    """Return the key of block_pixel that is left, and the nibbles under it; None if nothing can be recovered.

    Args:
        coarse: The pool with the high nibbles of every block put together.
        rows: int64 [n], the rows that may be used.
        signed: float32 [n, N, 2V], the signed nibbles of all blocks in these rows.
        nibbles: The nibbles of every block, as they are put together.
        time_left: Asked between steps.
    """
    if block_pixel.is_too_large(coarse.spec):
        return None
    solved = block_pixel.recover(coarse, rows, time_left)
    if solved is None:
        return None
    # A mask is by position of the half-opened block, and `permuted` wants it by plain value.
    laid_out = [
        each.permuted(places, negative[np.argsort(places)])
        for each, places, negative in zip(
            nibbles, solved.parts["K2"], solved.parts["mask"].astype(bool), strict=True
        )
    ]
    matched = _match_low_nibbles(laid_out, signed, time_left)
    return solved, _assign_whole_values(matched, signed, solved.parts["K1"], coarse.spec, time_left)


def _match_low_nibbles(nibbles: list[Nibbles], signed: Float32Array, time_left: TimeLeft) -> list[Nibbles]:
    """Return the nibbles of every block with low ones that suit their high ones, as long as there is time."""
    template, matched = np.zeros((len(nibbles[0].high),) * 2), list(nibbles)
    for k, block in enumerate(nibbles):
        high = signed[:, k, block.high] * np.where(block.high_flip, np.float32(-1), np.float32(1))
        template += correlations(high, high) / len(nibbles)
    np.fill_diagonal(template, 1.0)
    for k, block in enumerate(nibbles):
        varies = np.ptp(signed[:, k], axis=0) > 0
        if not time_left():
            break
        if varies.any():
            rematched = rematch_low_nibbles(block, signed[:, k], template)
            matched[k] = with_dark_constants(rematched, signed[0, k], varies)
    return matched


def _assign_whole_values(
    nibbles: list[Nibbles], signed: Float32Array, order: Int64Array, spec: SchemeSpec, time_left: TimeLeft
) -> list[Nibbles]:
    """Return the nibbles of every block, with all values assigned to the cells that suit what surrounds them.

    Args:
        nibbles: The nibbles of every sealed block, by plain value.
        signed: float32 [n, N, 2V], the signed nibbles of all blocks.
        order: int64 [N], the place of each sealed block.
        spec: The shape of the images and the side of a block.
        time_left: Asked before every block.
    """
    height, width, channels = spec.image_shape
    sample = evenly_spaced(np.arange(len(signed)), _ASSIGNED_IMAGES)
    values = np.stack([each.to_values(signed[sample, k]) for k, each in enumerate(nibbles)], 1)  # [n, N, V]
    bytes_ = np.clip(np.round(values + 127.5), 0, 255).astype(np.uint8)
    pictures = from_blocks(
        bytes_[:, np.argsort(order)].reshape(len(sample), len(nibbles), -1, channels), height, width
    )
    places = np.tile(np.arange(values.shape[2]).reshape(-1, channels), (len(nibbles), 1, 1))  # [N, S, c]
    for c in range(channels):
        picture = np.ascontiguousarray(pictures[..., c].transpose(1, 2, 0))
        places[..., c] = assign_by_surroundings(picture, spec.block, time_left)[order] * channels + c
    return [each.permuted(places[k].ravel()) for k, each in enumerate(nibbles)]
