"""Plain images → a sealed set on disk, about as fast as the images can be read, and resumable.

All cores read, encrypt and write a little ahead, each through a few images' memory that stays in its cache; the
calling thread hashes the results in order; and a full shard is made durable while the next one is filled. A shard
counts once `partial.json` names it, which is after it is safe on the disk: a kill costs the shards in work, never a
finished one.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import (
    MANIFEST,
    SCHEMA,
    SealedDataset,
    canonical,
    manifest_mac,
    shard_mac,
    shard_name,
)
from crypto.sets.resume import (
    Part,
    begin_or_resume,
    begun_as,
    clear_leftovers,
    drop_unfinished,
)
from crypto.sets.shard import Draft, begin_shard, finish_shard
from crypto.spec import SchemeSpec

SHARD_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20  # of sealed images that a thread makes before it asks for more

#: read(row) → uint8 [h, w, c], a source image, or None where it cannot be read; called from several threads at once.
Read = Callable[[int], np.ndarray | None]


def row_bytes(spec: SchemeSpec) -> int:
    """Bytes of one sealed image, without its label."""
    scheme = load(spec)
    return math.prod(scheme.sealed_shape) * scheme.sealed_dtype.itemsize


def sealed_bytes(spec: SchemeSpec, rows: int) -> int:
    """Disk that a sealed set of so many rows takes at most."""
    row = row_bytes(spec)
    shards = -(-rows // max(1, SHARD_BYTES // row))
    return rows * (row + 8) + (shards + 2) * 1024  # headers, and the manifest's lines


def seal_images(
    folder: Path,
    read: Read,
    labels: np.ndarray,
    classes: list[str],
    key: SecretKey,
    spec: SchemeSpec,
    source: str,
    progress: Callable[[int], None] = lambda rows: None,
    keep: Callable[[str, np.ndarray], None] = lambda digest, rows: None,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[SealedDataset, np.ndarray]:
    """Seals images into `folder`, resuming what an earlier, interrupted call left there.

    read(row) gives a source image, uint8 [h, w, c], or None: what cannot be read is left out. It is called from
    several threads at once, a little ahead, and again where rows move up; a few images a core are in memory.
    labels: int64 [n], of every source image. `source` is a fingerprint of the plain images: a resumed sealing
    must have the same one. `progress` is told the source images done so far. Returns the set and int64 [rows],
    the source image of each row; `keep` is given the set's digest and these rows before the set counts as
    finished.
    Raises CipherwardError where a finished set, or an unfinished one of another source or key, is there, and
    where no image could be read.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise CipherwardError(
            f"{folder} already holds a sealed set", "seal into another folder, or remove it first"
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
    begun = begun_as(labels, classes, key, source) | {"step": max(1, shard_bytes // row_bytes(spec))}
    part = begin_or_resume(folder, begun, spec)
    part.record()
    _seal_rest(part, read, labels, key, progress)
    rows = np.setdiff1d(np.arange(len(labels)), part.skipped)
    manifest = {
        "schema": SCHEMA,
        "spec": part.spec.to_json(),
        "key_id": key.id,
        "rows": len(rows),
        "classes": list(classes),
        "shards": part.shards,
        "mac": "",
    }
    manifest["mac"] = manifest_mac(key, manifest)
    keep(hashlib.sha256(canonical(manifest)).hexdigest(), rows)
    if not len(rows):
        drop_unfinished(folder)  # or the next run would take it for done
        raise CipherwardError(f"not one image for {folder.name} could be read", "see the quarantine list")
    write_json(folder / MANIFEST, manifest)
    clear_leftovers(folder)
    return SealedDataset.open(folder), rows


def _seal_rest(
    part: Part, read: Read, labels: np.ndarray, key: SecretKey, progress: Callable[[int], None]
) -> None:
    """Seals the shards that are not there yet."""
    scheme, step, n = load(part.spec), part.begun["step"], len(labels)
    cipher = scheme.cipher(key)
    first, lost = min(len(part.shards) * step, n), len(part.skipped)
    writers = 1 + min(2, cores() // 8)  # shards that are made durable while one is filled
    most = max(1, _CHUNK_BYTES // row_bytes(part.spec))
    drafts: dict[int, Draft] = {}
    # Memory that is free for images, the one used last on top. Used again and again: fresh memory costs more than a
    # copy, and this is in the cache.
    rooms: list[np.ndarray] = []
    writing: deque[tuple[int, Future[None]]] = deque()

    def spans() -> Iterator[tuple[int, int]]:
        """Runs of images to read in one go; none crosses the border of a shard, whose draft is there before."""
        for begin in range(first, n, step):
            end = min(begin + step, n)
            mine = np.asarray(labels[begin:end], np.int64)
            path = part.folder / shard_name(begin // step)
            drafts[begin // step] = begin_shard(path, mine, scheme.sealed_shape, scheme.sealed_dtype)
            yield from ((start, min(start + most, end)) for start in range(begin, end, most))

    def encrypt(start: int, stop: int, row: int, room: np.ndarray) -> np.ndarray:
        """Reads images, encrypts and writes each at once, while it is in the core's cache → bool [stop - start].

        True for those that could be read, which are then in room and in the draft, where they belong as long as none
        before them in their shard is left out. row: of the first of them in the sealed set.
        """
        kept, held, draft = np.ones(stop - start, bool), 0, drafts[start // step]
        for index in range(start, stop):
            plain = read(index)
            if plain is None:
                kept[index - start] = False
                continue
            cipher.encrypt(plain[None], first=row + held, out=room[held : held + 1])
            draft.put(start % step + held, room[held : held + 1])
            held += 1
        return kept

    def work(start: int, stop: int) -> tuple[int, np.ndarray, np.ndarray]:
        before = lost  # as long as none of those in work is left out
        try:
            room = rooms.pop()
        except IndexError:
            room = np.empty((most, *scheme.sealed_shape), scheme.sealed_dtype)
        return before, room, encrypt(start, stop, start - before, room)

    def free(start: int) -> bool:
        """Whether this image may be read. Waits for the disk to keep up; False while earlier images are in work."""
        before = start // step - writers - 1
        while writing and writing[0][0] <= before:
            writing.popleft()[1].result()
        return before < full

    seen: list[np.ndarray] = []
    runs: list[tuple[int, int]] = []
    full = first // step  # shards that are on the disk, or handed over to be made durable
    progress(first)
    try:
        with (
            ThreadPoolExecutor(writers) as pool,
            # Closed before the drafts: no thread may write to a file that is not the shard's any more.
            contextlib.closing(_on_all_cores(work, spans(), free)) as done,
        ):
            for start, stop, (supposed, room, kept) in done:
                if supposed != lost and scheme.row_keys:
                    kept = encrypt(start, stop, start - lost, room)
                index, held = start // step, int(kept.sum())
                drafts[index].hash(room[:held])
                rooms.append(room)
                seen.append(kept)
                runs.append((start % step, held))
                lost += len(kept) - held
                progress(stop)
                if stop % step and stop < n:
                    continue
                whole = np.concatenate(seen)
                mine = np.asarray(labels[index * step : stop][whole], np.int64)
                before = writing[-1][1] if writing else None
                written = pool.submit(
                    _write, part, key, index, drafts.pop(index), runs, mine, whole, before
                )
                writing.append((index, written))
                seen, runs, full = [], [], index + 1
            for _, future in writing:
                future.result()
    finally:
        for draft in drafts.values():
            draft.drop()


def _write(
    part: Part,
    key: SecretKey,
    index: int,
    draft: Draft,
    runs: list[tuple[int, int]],
    labels: np.ndarray,
    kept: np.ndarray,
    before: Future[None] | None,
) -> None:
    """Finishes a shard, and only then, and after the one before it, records it. kept: of its source images."""
    size, digest = finish_shard(draft, runs, labels)
    if before:
        before.result()
    part.shards.append(
        {
            "file": shard_name(index),
            "rows": len(labels),
            "bytes": size,
            "blake3": digest,
            "mac": shard_mac(key, part.spec, index, len(labels), digest),
        }
    )
    part.skipped.extend((index * part.begun["step"] + np.flatnonzero(~kept)).tolist())
    part.record()


def _on_all_cores(
    work: Callable[[int, int], Any], spans: Iterable[tuple[int, int]], free: Callable[[int], bool]
) -> Generator[tuple[int, int, Any], None, None]:
    """(start, stop, work(start, stop)) of each span, in order and as soon as it is done; ahead where free."""
    waiting: deque[tuple[int, int, Future]] = deque()
    ahead = 4 * cores()
    pool = ThreadPoolExecutor(cores())
    try:
        for span in spans:
            # `free` is asked for every span, and last: it waits for the disk.
            while (waiting and (waiting[0][2].done() or len(waiting) > ahead)) or not free(span[0]):
                start, stop, future = waiting.popleft()
                yield start, stop, future.result()
            waiting.append((*span, pool.submit(work, *span)))
        for start, stop, future in waiting:
            yield start, stop, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
