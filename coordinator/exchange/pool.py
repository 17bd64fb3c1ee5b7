"""The pool: every sealed set the cloud was given, read as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset, same_but_nonce
from crypto.spec import SchemeSpec


class Pool:
    """Sealed sets under one scheme and one key, row after row in the order given."""

    def __init__(self, parts: Sequence[SealedDataset]) -> None:
        if not parts or not sum(len(p) for p in parts):
            raise CipherwardError("the pool is empty", "name at least one sealed set with images")
        first = parts[0]
        for part in parts[1:]:
            if not same_but_nonce(part.spec, first.spec) or part.key_id != first.key_id:
                raise CipherwardError(
                    f"{part.folder} and {first.folder} do not belong to one pool: "
                    f"{part.spec.name}/{part.key_id} against {first.spec.name}/{first.key_id}",
                    "attack sets of different schemes, shapes or keys one at a time",
                )
        self.parts = tuple(parts)
        self.spec: SchemeSpec = first.spec
        self.key_id = first.key_id
        # Hospitals may name their classes in another order: a label here is one of all their names.
        self.classes = list(dict.fromkeys(name for part in parts for name in part.classes))
        self.labels = np.concatenate([_labels(part, self.classes) for part in parts])
        self._starts = np.cumsum([0] + [len(p) for p in parts])

    @classmethod
    def of(cls, parts: Sequence[SealedDataset]) -> Pool:
        """The pool of these sets, every shard's digest checked: an altered shard is named, not attacked."""
        for part in parts:
            part.check_digests()
        return cls(parts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, rows: np.ndarray) -> np.ndarray:
        """int64 [r] → [r, *sealed_shape]."""
        return rows_of(self.parts, rows)


def rows_of(parts: Sequence[SealedDataset], rows: np.ndarray) -> np.ndarray:
    """[r, *sealed_shape]: rows int64 [r] of sealed sets, counted through one set after another."""
    rows, starts = np.asarray(rows, np.int64), np.cumsum([0] + [len(p) for p in parts])
    out = np.empty((len(rows), *parts[0].sealed_shape), parts[0].sealed_dtype)
    owner = np.searchsorted(starts, rows, side="right") - 1
    for index, part in enumerate(parts):
        mine = np.flatnonzero(owner == index)
        if len(mine):
            out[mine] = part.rows(rows[mine] - starts[index])
    return out


def _labels(part: SealedDataset, classes: Sequence[str]) -> np.ndarray:
    """int64 [n]: a set's labels by the names in `classes`. Raises CipherwardError for one that names no class."""
    own = part.labels
    if len(own) and not 0 <= own.min() <= own.max() < len(part.classes):
        raise CipherwardError(
            f"{part.folder} has a label outside its {len(part.classes)} classes", "seal the images again"
        )
    place = np.array([classes.index(name) for name in part.classes], np.int64)
    return place[own]


@dataclass(frozen=True)
class MemoryPool:
    """A pool of sealed images held in memory. sealed: [n, *sealed_shape]."""

    spec: SchemeSpec
    sealed: np.ndarray

    def __len__(self) -> int:
        return len(self.sealed)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """int64 [r] → [r, *sealed_shape]."""
        taken: np.ndarray = self.sealed[rows]
        return taken
