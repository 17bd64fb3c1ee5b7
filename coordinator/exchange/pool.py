"""The pool: all sealed sets that the cloud received under one key, read as one sequence of ciphertexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crypto.arrays import AnyArray, Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.plural import counted
from crypto.sets.dataset import SealedDataset, equal_except_nonce
from crypto.spec import SchemeSpec


class Pool:
    """Sealed sets under one scheme and one key, one set after the other.

    Attributes:
        parts: the sealed sets, in the order given.
        spec: the scheme's public description.
        key_id: the public id of the key.
        classes: the names of all classes of all sets. Hospitals may list their classes in different orders.
        labels: int64 [images], the class of each image as an index into `classes`.
    """

    def __init__(self, parts: Sequence[SealedDataset]) -> None:
        if not parts or not sum(len(p) for p in parts):
            raise CipherwardError("the pool is empty", "name at least one sealed set with images")
        first = parts[0]
        for part in parts[1:]:
            if not equal_except_nonce(part.spec, first.spec) or part.key_id != first.key_id:
                raise CipherwardError(
                    f"{part.folder} and {first.folder} do not belong to one pool: "
                    f"{part.spec.name}/{part.key_id} against {first.spec.name}/{first.key_id}",
                    "attack sets of different schemes, shapes or keys one at a time",
                )
        self.parts = tuple(parts)
        self.spec: SchemeSpec = first.spec
        self.key_id = first.key_id
        self.classes = list(dict.fromkeys(name for part in parts for name in part.classes))
        self.labels: Int64Array = np.concatenate([_labels(part, self.classes) for part in parts])
        self._starts = np.cumsum([0] + [len(p) for p in parts])

    @classmethod
    def of(cls, parts: Sequence[SealedDataset]) -> Pool:
        """Return the pool of these sets after a check of every shard's digest.

        Raises:
            CipherwardError: if a shard was altered (the message names it), or the sets do not belong together.
        """
        for part in parts:
            part.check_digests()
        return cls(parts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, rows: Rows) -> AnyArray:
        """Return the sealed images of these rows, int64 [r] to [r, *sealed_shape]."""
        return rows_of(self.parts, rows)


def rows_of(parts: Sequence[SealedDataset], rows: Rows) -> AnyArray:
    """Read rows of several sealed sets, numbered through one set after the other.

    Args:
        parts: the sealed sets.
        rows: int64 [r].

    Returns:
        [r, *sealed_shape] in the sets' dtype.
    """
    rows, starts = np.asarray(rows, np.int64), np.cumsum([0] + [len(p) for p in parts])
    out = np.empty((len(rows), *parts[0].sealed_shape), parts[0].sealed_dtype)
    owner = np.searchsorted(starts, rows, side="right") - 1
    for index, part in enumerate(parts):
        places = np.flatnonzero(owner == index)
        if len(places):
            out[places] = part.rows(rows[places] - starts[index])
    return out


def _labels(part: SealedDataset, classes: Sequence[str]) -> Int64Array:
    """Return a set's labels int64 [n] as indices into `classes`; raise CipherwardError for one without a class."""
    labels = part.labels
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(part.classes):
        raise CipherwardError(
            f"{part.folder} has a label outside its {counted(len(part.classes), 'class', 'classes')}",
            "seal the images again",
        )
    index_of = np.array([classes.index(name) for name in part.classes], np.int64)
    numbers: Int64Array = index_of[labels]
    return numbers


@dataclass(frozen=True)
class MemoryPool:
    """A pool of sealed images in memory.

    Attributes:
        spec: the scheme's public description.
        sealed: the sealed images, [n, *sealed_shape].
    """

    spec: SchemeSpec
    sealed: AnyArray

    def __len__(self) -> int:
        return len(self.sealed)

    def images(self, rows: Rows) -> AnyArray:
        """Return the sealed images of these rows, int64 [r] to [r, *sealed_shape]."""
        images: AnyArray = self.sealed[rows]
        return images
