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
from crypto.files import disk_errors, drop_temporaries, read_json, sha256_file, write_json
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
_CHUNK_BYTES = 512 << 10  # of plain images that a thread reads and encrypts at a time: they fit its cache

#: read(start, stop) → (uint8 [k, h, w, c], bool [stop - start]), called from several threads at once.
Read = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


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

    read(start, stop) gives (uint8 [k, h, w, c], bool [stop - start]): the images that could be read and
    which of the asked ones those are; the rest is left out. It is called from several threads at once, a
    little ahead; two shards are in memory at most, four where there are many cores. labels: int64 [n], of
    every source image. `source` is a fingerprint of the plain images: a resumed sealing must have the same
    one. `progress` is told the source images done so far. Returns the set and int64 [rows], the source image
    of each row; `keep` is given the set's digest and these rows before the set counts as finished.
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

    def work(start: int, stop: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Encrypts images in the thread that read them, while they are in its core's cache."""
        row = start - lost  # as long as none of those in work is left out
        plain, kept = read(start, stop)
        return row, plain, kept, cipher.encrypt(plain, first=row)

    writers = 1 + min(2, cores() // 8)  # one hashes as fast as several cores read
    # One shard is filled while `writers` are written. Used again and again: fresh memory costs more than a copy.
    shards = np.empty((writers + 1, min(step, n), *scheme.sealed_shape), scheme.sealed_dtype)
    writing: deque[Future[None]] = deque()
    seen: list[np.ndarray] = []
    filled = 0
    progress(first)
    with ThreadPoolExecutor(writers) as pool:
        for start, stop, done in _on_all_cores(work, _spans(first, n, step, part.spec)):
            row, plain, kept, sealed = done
            if row != start - lost:
                sealed = cipher.encrypt(plain, first=start - lost)
            index = start // step
            shard = shards[index % len(shards)]
            np.copyto(shard[filled : filled + len(sealed)], sealed, casting="no")
            seen.append(kept)
            filled += len(sealed)
            lost += len(kept) - len(sealed)
            progress(stop)
            if stop % step and stop < n:
                continue
            if len(writing) == writers:
                writing.popleft().result()
            whole = np.concatenate(seen)
            mine = np.asarray(labels[index * step : stop][whole], np.int64)
            before = writing[-1] if writing else None
            writing.append(pool.submit(_write, part, key, index, shard[:filled], mine, whole, before))
            seen, filled = [], 0
        for future in writing:
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
            "sha256": digest,
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
        return path.exists() and sha256_file(path) == shard["sha256"]

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
    work: Callable[[int, int], Any], spans: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int, Any]]:
    """(start, stop, work(start, stop)) of each span, in order; the work is done a little ahead."""
    waiting: deque[tuple[int, int, Future]] = deque()
    pool = ThreadPoolExecutor(cores())
    try:
        for start, stop in spans:
            waiting.append((start, stop, pool.submit(work, start, stop)))
            if len(waiting) > 4 * cores():
                start, stop, future = waiting.popleft()
                yield start, stop, future.result()
        for start, stop, future in waiting:
            yield start, stop, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
