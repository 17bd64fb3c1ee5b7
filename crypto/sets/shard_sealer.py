"""Seal the shards that a sealing lacks, about as fast as the images can be read.

All cores read, encrypt and write a little ahead, each through a few images' memory that stays in its cache. The
calling thread hashes the results in order. A full shard is made durable while the next one is filled.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from crypto.arrays import AnyArray, BoolArray, Int64Array, UInt8Array
from crypto.cores import cores
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import shard_mac, shard_name
from crypto.sets.resume import PartialSealing
from crypto.sets.shard import Draft, begin_shard, finish_shard
from crypto.spec import SchemeSpec

#: Sealed images that a thread makes before it asks for more, in bytes: they stay in the core's cache.
_CHUNK_BYTES = 1 << 20

#: read(row) → a source image uint8 [h, w, c], or None if it cannot be read. Several threads call it at once.
ReadImage = Callable[[int], UInt8Array | None]
_Result = TypeVar("_Result")


def row_bytes(spec: SchemeSpec) -> int:
    """Return the bytes of one sealed image, without its label."""
    scheme = load(spec)
    return math.prod(scheme.sealed_shape) * scheme.sealed_dtype.itemsize


class _Chunk(NamedTuple):
    """Images that a thread has sealed.

    Attributes:
        skipped_before: How many source images the thread assumed to be left out before its own.
        buffer: Sealed images, those that could be read first.
        readable: bool [images], which of the source images could be read.
    """

    skipped_before: int
    buffer: AnyArray
    readable: BoolArray


class ShardSealer:
    """Seals the shards that a partial sealing lacks.

    `encrypt`, and `spans` before it, may run ahead of the calling thread, which takes the chunks in order.
    """

    def __init__(
        self, sealing: PartialSealing, read: ReadImage, labels: Int64Array, key: SecretKey
    ) -> None:
        self.sealing, self.read, self.labels, self.key = sealing, read, labels, key
        self.scheme = load(sealing.spec)
        self.cipher = self.scheme.cipher(key)
        self.step, self.count = int(sealing.identity["step"]), len(labels)
        self.first = min(len(sealing.shards) * self.step, self.count)
        self.skipped = len(sealing.skipped)
        #: Shards that are made durable while one is filled.
        self.writers = 1 + min(2, cores() // 8)
        self.chunk_rows = max(1, _CHUNK_BYTES // row_bytes(sealing.spec))
        self.drafts: dict[int, Draft] = {}
        # Free memory for images, the one used last on top. It is used again and again, because fresh memory costs
        # more than a copy, and this is in the cache.
        self.buffers: list[AnyArray] = []
        self.writing: deque[tuple[int, Future[None]]] = deque()
        #: Shards that are on the disk, or handed over to be made durable.
        self.complete = self.first // self.step
        #: Of the shard that is being filled: the readable images, and (first row, rows) of each chunk in the draft.
        self.readable: list[BoolArray] = []
        self.runs: list[tuple[int, int]] = []

    def run(self, on_progress: Callable[[int], None]) -> None:
        """Seal, write and record all that is missing."""
        on_progress(self.first)
        try:
            with (
                ThreadPoolExecutor(self.writers) as pool,
                # Closed before the drafts: no thread may write to a file that is not the shard's any more.
                contextlib.closing(_on_all_cores(self.seal_span, self.spans(), self.may_read)) as chunks,
            ):
                for start, stop, chunk in chunks:
                    self.append(start, stop, chunk)
                    on_progress(stop)
                    if stop % self.step == 0 or stop == self.count:
                        self.finish(start // self.step, stop, pool)
                for _, future in self.writing:
                    future.result()
        finally:
            for draft in self.drafts.values():
                draft.drop()

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield runs (start, stop) of images to read in one go; none crosses the border of a shard.

        The draft of a shard is there before its first run.
        """
        for begin in range(self.first, self.count, self.step):
            end, index = min(begin + self.step, self.count), begin // self.step
            labels = np.asarray(self.labels[begin:end], np.int64)
            path = self.sealing.folder / shard_name(index)
            self.drafts[index] = begin_shard(
                path, labels, self.scheme.sealed_shape, self.scheme.sealed_dtype
            )
            for start in range(begin, end, self.chunk_rows):
                yield start, min(start + self.chunk_rows, end)

    def may_read(self, start: int) -> bool:
        """Return whether this image may be read; False while images of earlier shards are in work.

        It waits for the disk to keep up.
        """
        durable = start // self.step - self.writers - 1
        while self.writing and self.writing[0][0] <= durable:
            self.writing.popleft()[1].result()
        return durable < self.complete

    def seal_span(self, start: int, stop: int) -> _Chunk:
        """Seal a run of images, assuming that none in work is left out."""
        skipped_before = self.skipped
        try:
            buffer = self.buffers.pop()
        except IndexError:
            buffer = np.empty((self.chunk_rows, *self.scheme.sealed_shape), self.scheme.sealed_dtype)
        return _Chunk(skipped_before, buffer, self.encrypt(start, stop, start - skipped_before, buffer))

    def encrypt(self, start: int, stop: int, row: int, buffer: AnyArray) -> BoolArray:
        """Read images, encrypt and write each at once, while it is in the core's cache.

        The images that could be read are then in the buffer, and in the draft where they belong as long as none
        before them in their shard is left out.

        Args:
            start: First source image.
            stop: End of the source images.
            row: Row of the first of them in the sealed set.
            buffer: Memory for the sealed images.

        Returns:
            bool [stop - start], True for those that could be read.
        """
        readable, count, draft = np.ones(stop - start, bool), 0, self.drafts[start // self.step]
        for index in range(start, stop):
            plain = self.read(index)
            if plain is None:
                readable[index - start] = False
                continue
            self.cipher.encrypt(plain[None], first=row + count, out=buffer[count : count + 1])
            draft.put(start % self.step + count, buffer[count : count + 1])
            count += 1
        return readable

    def append(self, start: int, stop: int, chunk: _Chunk) -> None:
        """Hash the next chunk of the shard that is being filled."""
        readable = chunk.readable
        if chunk.skipped_before != self.skipped and self.scheme.draws_by_row:
            # Images before these were left out, so that their rows, and with them their keys or noise, are others.
            readable = self.encrypt(start, stop, start - self.skipped, chunk.buffer)
        count = int(readable.sum())
        self.drafts[start // self.step].hash(chunk.buffer[:count])
        self.buffers.append(chunk.buffer)
        self.readable.append(readable)
        self.runs.append((start % self.step, count))
        self.skipped += len(readable) - count

    def finish(self, index: int, stop: int, pool: ThreadPoolExecutor) -> None:
        """Hand the full shard over to be made durable. stop: the end of its source images."""
        readable = np.concatenate(self.readable)
        labels = np.asarray(self.labels[index * self.step : stop][readable], np.int64)
        previous = self.writing[-1][1] if self.writing else None
        draft, runs = self.drafts.pop(index), self.runs
        written = pool.submit(self.write, index, draft, runs, labels, readable, previous)
        self.writing.append((index, written))
        self.readable, self.runs, self.complete = [], [], index + 1

    def write(
        self,
        index: int,
        draft: Draft,
        runs: list[tuple[int, int]],
        labels: Int64Array,
        readable: BoolArray,
        previous: Future[None] | None,
    ) -> None:
        """Finish a shard; then, and after the shard before it, record it."""
        size, digest = finish_shard(draft, runs, labels)
        if previous:
            previous.result()
        sealing = self.sealing
        sealing.shards.append(
            {
                "file": shard_name(index),
                "rows": len(labels),
                "bytes": size,
                "blake3": digest,
                "mac": shard_mac(self.key, sealing.spec, index, len(labels), digest),
            }
        )
        sealing.skipped.extend((index * self.step + np.flatnonzero(~readable)).tolist())
        sealing.record()


def _on_all_cores(
    work: Callable[[int, int], _Result],
    spans: Iterable[tuple[int, int]],
    is_free: Callable[[int], bool],
) -> Generator[tuple[int, int, _Result], None, None]:
    """Yield (start, stop, work(start, stop)) of each span, in order and as soon as it is done.

    A span is begun ahead of its turn if `is_free` returns True for its start.
    """
    waiting: deque[tuple[int, int, Future[_Result]]] = deque()
    ahead = 4 * cores()
    pool = ThreadPoolExecutor(cores())
    try:
        for span in spans:
            # `is_free` is called for every span, and last: it waits for the disk.
            while (waiting and (waiting[0][2].done() or len(waiting) > ahead)) or not is_free(span[0]):
                start, stop, future = waiting.popleft()
                yield start, stop, future.result()
            waiting.append((*span, pool.submit(work, *span)))
        for start, stop, future in waiting:
            yield start, stop, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
