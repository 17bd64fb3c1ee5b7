"""A bound on how far one hospital moves the model in a round, as the plan's `max_update_norm` sets it.

The norm of an update is bounded by `max_update_norm` times the median of the round's norms. Of an even number of
norms, the median is the lower one of the middle two: with two hospitals, the one that sends less sets the bound. An
update that is longer is scaled down to the bound and keeps its direction; all others stay as they are, to the bit.
Half of the hospitals or more cannot be held by this, nor can small steps in a wrong direction.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crypto.arrays import Float32Array

#: Weights that are taken at once, so that float64 needs little memory.
_CHUNK = 1 << 20


def update_norm(after: Float32Array, before: Float32Array) -> float:
    """Return the Euclidean norm of after − before, both float32 [n], computed in float64."""
    squares = 0.0
    for start in range(0, len(after), _CHUNK):
        part = after[start : start + _CHUNK].astype(np.float64) - before[start : start + _CHUNK]
        squares += float(part @ part)
    return float(np.sqrt(squares))


def find_scales(norms: Mapping[str, float], limit: float) -> tuple[dict[str, float], dict[str, float]]:
    """Find the updates of a round that are far longer than the others.

    Args:
        norms: the norm of each party's update.
        limit: the plan's `max_update_norm`; 0 clips nothing.

    Returns:
        By what each of them must be scaled, and how many times the median its norm was.
    """
    if not limit or not norms:
        return {}, {}
    median = sorted(norms.values())[(len(norms) - 1) // 2]
    long = {party: norm for party, norm in norms.items() if norm > limit * median}
    return (
        {party: limit * median / norm for party, norm in long.items()},
        {party: norm / median if median else norm for party, norm in long.items()},
    )


def scale_update(after: Float32Array, before: Float32Array, scale: float) -> Float32Array:
    """Return the weights moved towards those before the round: both float32 [n], computed in float64."""
    return (before + (after.astype(np.float64) - before) * scale).astype(np.float32)
