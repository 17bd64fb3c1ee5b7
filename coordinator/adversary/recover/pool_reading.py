"""Read a pool: which images a recovery uses, in which order, and how many it holds at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordinator.adversary.contract import Ciphertexts
from crypto.arrays import AnyArray, Rows

#: Images read from a pool at a time. It bounds memory: 32 RGB images of 224×224 take 4.8 MB.
CHUNK = 32


def random_order(rows: Rows) -> Rows:
    """Return the rows in a fixed random order, so that the rows of one source do not fill a sample."""
    return np.random.default_rng(0).permutation(rows)


def random_rows(rows: Rows, limit: int) -> Rows:
    """Return at most `limit` rows, drawn in a fixed random order and sorted."""
    return np.sort(random_order(rows)[:limit])


def image_chunks(pool: Ciphertexts, rows: Rows) -> Iterator[AnyArray]:
    """Yield the sealed images of these rows, at most CHUNK at a time."""
    for first in range(0, len(rows), CHUNK):
        yield pool.images(rows[first : first + CHUNK])
