"""The trained weights of a round's replies: written to disk as they come, and averaged a part at a time.

Fifty replies of a ViT-Ti are 1.1 GB, and aggregating them in memory takes four times that. Here the coordinator holds
one reply at a time while they come, and a part of one while they are averaged. The parts are added in the order of
the parties' names, so the mean is the same to the bit whatever order the replies came in, and the same as Flower's.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from flwr.app import Array, Message

from coordinator.exchange.wire import DTYPES, apply_reply
from coordinator.federation.clipping import scale_update
from crypto.arrays import AnyArray, Float32Array
from crypto.files import disk_errors

_PREFIX = ".replies-"
#: Weights that are averaged at once: 4 MB of float32.
_PART = 1 << 20


class ReplyStore:
    """The arrays of one round's replies, by node, in a temporary folder."""

    def __init__(self, folder: Path, wire: str) -> None:
        """Take an empty folder and the plan's `wire`."""
        self._folder, self._wire = folder, wire
        #: Bytes of all records of each reply, by node.
        self.bytes: dict[int, int] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, cloud: Path, wire: str) -> Iterator[ReplyStore]:
        """Make a store in a study's cloud folder; what a killed round left there is removed.

        Raises:
            CipherwardError: if the disk is full.
        """
        for old in cloud.glob(f"{_PREFIX}*"):
            shutil.rmtree(old, ignore_errors=True)
        with disk_errors(cloud):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cloud))
        try:
            yield cls(folder, wire)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, node: int, reply: Message) -> None:
        """Move the array of a screened reply to disk: the reply is left with an empty one.

        Raises:
            CipherwardError: if the disk is full.
        """
        record = next(iter(reply.content.array_records.values()))
        self.bytes[node] = sum(r.count_bytes() for r in reply.content.values())
        # Not by tofile: on a full disk it loses a small array without a word, and of a large one it does not say why.
        with disk_errors(self._path(node)), open(self._path(node), "wb") as file:
            file.write(np.ascontiguousarray(record["model"].numpy()).data)
        record["model"] = Array(np.zeros(0, DTYPES[self._wire]))

    def read(
        self, node: int, weights: Float32Array, start: int = 0, stop: int | None = None
    ) -> Float32Array:
        """Return a part of the weights that a node's reply stands for, float32 [stop - start].

        Args:
            node: the node.
            weights: what a difference is added to, float32 [parameters].
            start: the first weight.
            stop: the weight after the last; None for all.
        """
        dtype, part = DTYPES[self._wire], weights[start:stop]
        words: AnyArray = np.fromfile(
            self._path(node), dtype, count=len(part), offset=start * dtype.itemsize
        )
        return apply_reply(words, part, self._wire)

    def _path(self, node: int) -> Path:
        return self._folder / str(node)


class StoredUpdates(Mapping[str, tuple[Float32Array, int]]):
    """Each party's trained weights, float32 [parameters], and number of images; read from disk when asked for."""

    def __init__(
        self, store: ReplyStore, replies: Mapping[str, tuple[int, Message]], weights: Float32Array
    ) -> None:
        """Take a store, the replies by the parties' names, and what differences are added to."""
        self._store, self._weights = store, weights
        self._nodes = {name: node for name, (node, _) in replies.items()}
        self.images = {
            name: int(next(iter(reply.content.metric_records.values()))["num-examples"])
            for name, (_, reply) in replies.items()
        }

    def __getitem__(self, name: str) -> tuple[Float32Array, int]:
        """Return one party's."""
        return self._store.read(self._nodes[name], self._weights), self.images[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names, in order."""
        return iter(self._nodes)

    def __len__(self) -> int:
        """Return the number of parties."""
        return len(self._nodes)

    def mean(self, scales: Mapping[str, float]) -> Float32Array:
        """Return the mean weighted by number of images, float32 [parameters].

        The operations on every weight, and their order, are those of Flower's FedAvg on replies in this order.

        Args:
            scales: by what the updates of some parties are scaled, by name.
        """
        total = sum(self.images.values())
        result = np.empty_like(self._weights)
        for start in range(0, len(result), _PART):
            before = self._weights[start : start + _PART]
            sums = np.zeros_like(before)
            for place, (name, node) in enumerate(self._nodes.items()):
                after = self._store.read(node, self._weights, start, start + _PART)
                if name in scales:
                    after = scale_update(after, before, scales[name])
                term = after * (self.images[name] / total)
                sums = term if place == 0 else sums + term
            result[start : start + _PART] = sums
        return result
