"""How similar the positions of a block are over a pool: neighbours in the plain image stay neighbours.

A permutation that every block shares moves pixels, but two pixels that touched in the plain image still hold nearly
equal values wherever they went. Differences d count as d/(d+8), which saturates, and not as squares: one sharp edge
would otherwise outweigh thousands of smooth blocks.
"""

from __future__ import annotations

import numba
import numpy as np

from crypto.arrays import AnyArray, Float32Array, Float64Array, Int64Array, UInt8Array

#: Gray levels at which a difference counts half of what the largest can count.
#: Set once by hand; no measurement is recorded.
HALF_DIFFERENCE = 8.0
#: Least range of values (gray levels) at which a sub-block tells its pixels apart.
#: Set once by hand; no measurement is recorded.
MIN_TEXTURE = 8


def saturate(difference: AnyArray) -> Float32Array:
    """Return d/(d+8) of absolute differences, float32 in [0, 1)."""
    size: Float32Array = np.abs(np.asarray(difference, np.float32))
    return size / (size + np.float32(HALF_DIFFERENCE))


def value_ranges(parts: UInt8Array) -> UInt8Array:
    """Return the largest range of values of each part over its channels, uint8 [m], of uint8 [m, S, c].

    A range of 0 says that the part is constant and carries nothing about the order of its pixels.
    """
    ranges: UInt8Array = (parts.max(1) - parts.min(1)).max(1)
    return ranges


def has_only_flat_blocks(values: UInt8Array, channels: int) -> bool:
    """Return whether no block has more different values than colours: then nothing tells its positions apart.

    Args:
        values: uint8 [..., V], the values of every block.
        channels: Colour components of a pixel.
    """
    ordered = np.sort(values, axis=-1)
    different = (ordered[..., 1:] != ordered[..., :-1]).sum(-1) + 1
    return bool((different <= channels).all())


def textured_rows(parts: UInt8Array, limit: int, seed: int = 0) -> Int64Array:
    """Return rows of the parts that vary, int64 [at most limit], sorted; well-textured ones are preferred.

    The rows are drawn without replacement from a fixed seed, so the same pool always gives the same sample.

    Args:
        parts: uint8 [m, S, c].
        limit: Most rows to draw.
        seed: Of the draw.
    """
    ranges = value_ranges(parts)
    rng = np.random.default_rng(seed)
    strong = rng.permutation(np.flatnonzero(ranges >= MIN_TEXTURE))
    if len(strong) >= limit:
        return np.sort(strong[:limit])
    weak = np.flatnonzero((ranges > 0) & (ranges < MIN_TEXTURE))
    weak = weak[np.argsort(-ranges[weak].astype(np.int64), kind="stable")]
    return np.sort(np.concatenate([strong, weak[: limit - len(strong)]]))


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator] # numba has no types
def _distance_sums(values: UInt8Array, half: np.float32) -> Float64Array:
    """Return the sum of saturating distances over the samples, of every two rows of values [S, samples]."""
    count, samples = values.shape
    out = np.zeros((count, count))
    for k in range(count):
        for other in range(k):
            total = np.float32(0.0)
            for s in range(samples):
                size = np.float32(abs(np.int16(values[k, s]) - np.int16(values[other, s])))
                total += size / (size + half)
            out[k, other] = total
            out[other, k] = total
    return out


def position_distances(parts: UInt8Array) -> Float64Array:
    """Return the mean saturating distance of every two positions, float64 [S, S], 0 on the diagonal.

    Args:
        parts: uint8 [m, S, c]. Channels count as samples of their own; no parts give zeros.
    """
    m, size, channels = parts.shape
    values = np.ascontiguousarray(parts.transpose(1, 0, 2)).reshape(size, m * channels)
    out: Float64Array = _distance_sums(values, np.float32(HALF_DIFFERENCE)) / max(1, m * channels)
    return out
