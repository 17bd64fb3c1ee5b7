"""Samples of a pool that keep its order and need no random numbers."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)


def evenly_spaced(values: NDArray[_Scalar], limit: int) -> NDArray[_Scalar]:
    """Return at most `limit` entries along the first axis, evenly spaced, with the first and the last one.

    Args:
        values: [n, ...]. Returned as it is if n does not exceed the limit.
        limit: the number of entries to keep, at least 1. One entry is the first one.
    """
    if len(values) <= limit:
        return values
    sample: NDArray[_Scalar] = values[np.linspace(0, len(values) - 1, limit).astype(np.int64)]
    return sample
