"""Plain images → a sealed set on disk, about as fast as the images can be read, and resumable.

All cores read and encrypt a little ahead; the calling thread puts the results in order; and a full shard is
hashed and written while the next one is filled. A shard counts once `partial.json` names it, which is after
it is safe on the disk: a kill costs the shards in work, never a finished one.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crypto.apply import cores
from crypto.errors import CipherwardError
from crypto.files import blake3_file, disk_errors, drop_temporaries, read_json, write_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sealed import (
    MANIFEST,
    PARTIAL,
    SCHEMA,
    SealedDataset,
    canonical,
    manifest_mac,
    same_but_nonce,
    shard_mac,
    shard_name,
)
from crypto.shard import write_shard
from crypto.spec import SchemeSpec

SHARD_BYTES = 64 << 20
_CHUNK_BYTES = 512 << 10  # of plain images that a thread reads and encrypts before it asks for more

#: read(row) → uint8 [h, w, c], a source image, or None where it cannot be read; called from several threads at once.
Read = Callable[[int], np.ndarray | None]


@dataclass(frozen=True)
class _Part:
    """What there is of a sealing; `record` keeps it in partial.json.

    begun: what a resumed sealing must agree with. shards: the manifest's entries of those that are written.
    skipped: the source images before their end that could not be read.
    """

    folder: Path
    begun: dict[str, Any]
    spec: SchemeSpec
    shards: list[dict[str, Any]]
    skipped: list[int]

    def record(self) -> None:
        value = {**self.begun, "spec": self.spec.to_json(), "shards": self.shards, "skipped": self.skipped}
        write_json(self.folder / PARTIAL, value)


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
    several threads at once, a little ahead, and again where rows move up; two shards are in memory at most,
    four where there are many cores. labels: int64 [n], of every source image. `source` is a fingerprint of
    the plain images: a resumed sealing must have the same one. `progress` is told the source images done so
    far. Returns the set and int64 [rows], the source image of each row; `keep` is given the set's digest and
    these rows before the set counts as finished.
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
    begun = {
        # Keyed, so that whoever finds an unfinished folder cannot test which images it holds.
        "source": key.derive("sealed").mac(b"source", source.encode(errors="surrogateescape")).hex(),
        "key_id": key.id,
        "rows": len(labels),
        "step": max(1, shard_bytes // row_bytes(spec)),
        "classes": classes,
    }
    part = _begin(folder, begun, spec)
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
        raise CipherwardError(f"not one image for {folder.name} could be read", "see the quarantine list")
    write_json(folder / MANIFEST, manifest)
    clear_leftovers(folder)
    return SealedDataset.open(folder), rows


def _seal_rest(
    part: _Part, read: Read, labels: np.ndarray, key: SecretKey, progress: Callable[[int], None]
) -> None:
    """Seals the shards that are not there yet."""
    scheme, step, n = load(part.spec), part.begun["step"], len(labels)
    cipher = scheme.cipher(key)
    first, lost = min(len(part.shards) * step, n), len(part.skipped)

    writers = 1 + min(2, cores() // 8)  # one hashes as fast as several cores read
    # One shard is filled while `writers` are written. Used again and again: fresh memory costs more than a copy.
    shards = np.empty((writers + 1, min(step, n), *scheme.sealed_shape), scheme.sealed_dtype)
    writing: deque[tuple[int, Future[None]]] = deque()

    def place(start: int, stop: int) -> np.ndarray:
        """Where these images go in their shard, as long as none before them in it is left out."""
        return shards[start // step % len(shards), start % step : start % step + stop - start]

    def encrypt(start: int, stop: int, row: int) -> np.ndarray:
        """Reads images and encrypts each at once, while it is in the core's cache → bool [stop - start].

        True for those that could be read. row: of the first of them in the sealed set.
        """
        room, kept = place(start, stop), np.ones(stop - start, bool)
        held = 0
        for index in range(start, stop):
            plain = read(index)
            if plain is None:
                kept[index - start] = False
                continue
            cipher.encrypt(plain[None], first=row + held, out=room[held : held + 1])
            held += 1
        return kept

    def work(start: int, stop: int) -> tuple[int, np.ndarray]:
        before = lost  # as long as none of those in work is left out
        return before, encrypt(start, stop, start - before)

    def free(start: int) -> bool:
        """Whether the memory of this image's shard is free: the shard that it held before is on the disk."""
        before = start // step - len(shards)
        while writing and writing[0][0] <= before:
            writing.popleft()[1].result()
        return before < full

    seen: list[np.ndarray] = []
    filled = 0  # images of the shard in work
    full = first // step  # shards that are on the disk, or handed over to be written
    progress(first)
    with ThreadPoolExecutor(writers) as pool:
        for start, stop, (supposed, kept) in _on_all_cores(work, _spans(first, n, step, part.spec), free):
            if supposed != lost and scheme.row_keys:
                kept = encrypt(start, stop, start - lost)
            shard, held = shards[start // step % len(shards)], int(kept.sum())
            if filled < start % step:
                shard[filled : filled + held] = place(start, stop)[:held]
            seen.append(kept)
            filled += held
            lost += len(kept) - held
            progress(stop)
            if stop % step and stop < n:
                continue
            index = start // step
            whole = np.concatenate(seen)
            mine = np.asarray(labels[index * step : stop][whole], np.int64)
            before = writing[-1][1] if writing else None
            written = pool.submit(_write, part, key, index, shard[:filled], mine, whole, before)
            writing.append((index, written))
            seen, filled, full = [], 0, index + 1
        for _, future in writing:
            future.result()


def _write(
    part: _Part,
    key: SecretKey,
    index: int,
    images: np.ndarray,
    labels: np.ndarray,
    kept: np.ndarray,
    before: Future[None] | None,
) -> None:
    """Writes a shard, and only then, and after the one before it, records it. kept: of its source images."""
    size, digest = write_shard(part.folder / shard_name(index), images, labels)
    if before:
        before.result()
    part.shards.append(
        {
            "file": shard_name(index),
            "rows": len(images),
            "bytes": size,
            "blake3": digest,
            "mac": shard_mac(key, part.spec, index, len(images), digest),
        }
    )
    part.skipped.extend((index * part.begun["step"] + np.flatnonzero(~kept)).tolist())
    part.record()


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed sealing left beside its result; nobody else may write to the folder now."""
    drop_temporaries(folder)
    if (folder / MANIFEST).exists():
        (folder / PARTIAL).unlink(missing_ok=True)


def _begin(folder: Path, begun: dict[str, Any], spec: SchemeSpec) -> _Part:
    """A new sealing, or what is intact of the interrupted one in the folder."""
    if not (folder / PARTIAL).exists():
        return _Part(folder, begun, spec, [], [])
    known = read_json(folder / PARTIAL, "unfinished sealing")
    was = SchemeSpec.from_json(known["spec"])
    # Nonces are drawn anew for each sealing; a resumed one keeps the nonce it began with.
    if {k: known.get(k) for k in begun} != begun or not same_but_nonce(was, spec):
        raise CipherwardError(
            f"{folder} holds an unfinished sealing of other images, or under another key or scheme",
            "remove the folder, or finish it with its own settings",
        )

    def intact(shard: Mapping[str, Any]) -> bool:
        path = folder / shard["file"]
        return path.exists() and blake3_file(path) == shard["blake3"]

    with ThreadPoolExecutor(cores()) as pool:
        checks = [*pool.map(intact, known["shards"]), False]
    shards = known["shards"][: checks.index(False)]
    skipped = [row for row in known["skipped"] if row < len(shards) * begun["step"]]
    return _Part(folder, begun, was, shards, skipped)


def _spans(first: int, n: int, step: int, spec: SchemeSpec) -> Iterator[tuple[int, int]]:
    """Runs of rows to read in one go, from `first` to n; none crosses the border of a shard."""
    most = max(1, _CHUNK_BYTES // math.prod(spec.image_shape))
    while first < n:
        stop = min(first + most, first // step * step + step, n)
        yield first, stop
        first = stop


def _on_all_cores(
    work: Callable[[int, int], Any], spans: Iterable[tuple[int, int]], free: Callable[[int], bool]
) -> Iterator[tuple[int, int, Any]]:
    """(start, stop, work(start, stop)) of each span, in order, done a little ahead where memory is free."""
    waiting: deque[tuple[int, int, Future]] = deque()
    pool = ThreadPoolExecutor(cores())
    try:
        for span in spans:
            while waiting and (len(waiting) > 4 * cores() or not free(span[0])):
                start, stop, future = waiting.popleft()
                yield start, stop, future.result()
            waiting.append((*span, pool.submit(work, *span)))
        for start, stop, future in waiting:
            yield start, stop, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
