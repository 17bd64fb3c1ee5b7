"""How alike the positions of a block are, over a pool: neighbours in the plain image stay neighbours.

A permutation that every block shares moves pixels, but two pixels that touched in the plain image still
hold nearly equal values wherever they went. A saturating distance d/(d+8) is used, not squares: one
sharp edge would otherwise outweigh thousands of smooth blocks.
"""

from __future__ import annotations

import numba
import numpy as np

#: Grey levels at which a difference counts half of what the largest can count.
HALF_DIFFERENCE = 8.0
#: Least range of values (grey levels) at which a sub-block tells its pixels apart.
TEXTURE = 8


def saturate(difference: np.ndarray) -> np.ndarray:
    """d/(d+8) of absolute differences, float32 in [0, 1)."""
    size = np.abs(np.asarray(difference, np.float32))
    return size / (size + np.float32(HALF_DIFFERENCE))


def spread(parts: np.ndarray) -> np.ndarray:
    """uint8 [m, S, c] → uint8 [m], the largest range of values in a part over its channels.

    0 says that the part is constant and carries nothing about the order of its pixels.
    """
    return (parts.max(1) - parts.min(1)).max(1)


def flat_blocks(values: np.ndarray, channels: int) -> bool:
    """Whether no block, uint8 [..., V], has more different values than colours: nothing tells its places apart."""
    ordered = np.sort(values, axis=-1)
    different = (ordered[..., 1:] != ordered[..., :-1]).sum(-1) + 1
    return bool((different <= channels).all())


def textured(parts: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """int64 [at most limit], rows of uint8 [m, S, c] that vary, the well textured ones first.

    Drawn without replacement from a fixed seed, so the same pool always gives the same sample.
    """
    ranges = spread(parts)
    rng = np.random.default_rng(seed)
    strong = rng.permutation(np.flatnonzero(ranges >= TEXTURE))
    if len(strong) >= limit:
        return np.sort(strong[:limit])
    weak = np.flatnonzero((ranges > 0) & (ranges < TEXTURE))
    weak = weak[np.argsort(-ranges[weak].astype(np.int64), kind="stable")]
    return np.sort(np.concatenate([strong, weak[: limit - len(strong)]]))


@numba.njit(cache=True, fastmath=True)
def _sums(values: np.ndarray, half: np.float32) -> np.ndarray:
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


def position_distances(parts: np.ndarray) -> np.ndarray:
    """uint8 [m, S, c] → float64 [S, S]: mean saturating distance of every two positions, 0 on the diagonal.

    Channels count as samples of their own. m = 0 gives zeros.
    """
    m, size, channels = parts.shape
    values = np.ascontiguousarray(parts.transpose(1, 0, 2)).reshape(size, m * channels)
    out: np.ndarray = _sums(values, np.float32(HALF_DIFFERENCE)) / max(1, m * channels)
    return out
