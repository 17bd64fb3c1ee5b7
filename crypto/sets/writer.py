"""Seal plain images into a set on disk; an interrupted sealing resumes.

A shard counts once `partial.json` names it, which is after it is safe on the disk: a kill costs the shards in work,
never a finished one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crypto.arrays import Int64Array, Rows
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_json
from crypto.key import SecretKey
from crypto.sets.dataset import (
    MANIFEST,
    SCHEMA,
    SealedDataset,
    canonical,
    manifest_mac,
    set_name,
)
from crypto.sets.resume import (
    begin_or_resume,
    clear_leftovers,
    drop_unfinished,
    sealing_identity,
)
from crypto.sets.shard_sealer import ReadImage, ShardSealer, row_bytes
from crypto.spec import SchemeSpec

SHARD_BYTES = 64 << 20


def sealed_bytes(spec: SchemeSpec, rows: int) -> int:
    """Return the bytes of disk that a sealed set of so many rows takes at most."""
    row = row_bytes(spec)
    shards = -(-rows // max(1, SHARD_BYTES // row))
    return rows * (row + 8) + (shards + 2) * 1024  # headers, and the manifest's lines


def _ignore_progress(done: int) -> None:
    """Do nothing."""


def _keep_nothing(digest: str, rows: Rows) -> None:
    """Do nothing."""


def _accept(sealed: SealedDataset, rows: Rows) -> None:
    """Do nothing."""


def seal_images(
    folder: Path,
    read: ReadImage,
    labels: Int64Array,
    classes: list[str],
    key: SecretKey,
    spec: SchemeSpec,
    source: str,
    on_progress: Callable[[int], None] = _ignore_progress,
    before_finish: Callable[[str, Rows], None] = _keep_nothing,
    inspect: Callable[[SealedDataset, Rows], None] = _accept,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[SealedDataset, Rows]:
    """Seal images into a folder; resume what an earlier, interrupted call left there.

    Args:
        folder: The folder of the set. Its name is the set's: see `SealedDataset.verify`.
        read: Gives a source image, or None for one that cannot be read and is left out. Several threads call it, a
            little ahead, and again for images that move up. A few images a core are in memory.
        labels: int64 [n], the class of every source image.
        classes: Names of the classes.
        key: The key.
        spec: The scheme.
        source: A fingerprint of the plain images. A resumed sealing must have the same one.
        on_progress: Called with the number of source images that are done.
        before_finish: Called with the set's digest and its rows before the set counts as finished.
        inspect: Called before that with the set, whose shards are on the disk, and the source image of each row. If
            it raises CipherwardError, nothing of the set is kept.
        shard_bytes: Sealed images in a shard, in bytes.

    Returns:
        The set, and the source image of each of its rows, int64 [rows].

    Raises:
        CipherwardError: If the folder holds a finished set, or an unfinished one of another source, key or scheme;
            and if no image could be read.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise CipherwardError(
            f"{folder} already holds a sealed set", "seal into another folder, or remove it first"
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
    identity = sealing_identity(labels, classes, key, source)
    step = max(1, shard_bytes // row_bytes(spec))
    sealing = begin_or_resume(folder, identity | {"step": step}, spec)
    sealing.record()
    ShardSealer(sealing, read, labels, key).run(on_progress)
    rows = np.setdiff1d(np.arange(len(labels)), sealing.skipped)
    manifest = {
        "schema": SCHEMA,
        "spec": sealing.spec.to_json(),
        "key_id": key.id,
        "rows": len(rows),
        "classes": list(classes),
        "shards": sealing.shards,
        "mac": "",
    }
    manifest["mac"] = manifest_mac(key, set_name(folder), manifest)
    try:
        inspect(SealedDataset(folder, manifest), rows)
    except CipherwardError:
        drop_unfinished(folder)
        raise
    before_finish(hashlib.sha256(canonical(manifest)).hexdigest(), rows)
    if not len(rows):
        drop_unfinished(folder)  # or the next run would take it for done
        raise CipherwardError(f"not one image for {folder.name} could be read", "see the quarantine list")
    write_json(folder / MANIFEST, manifest)
    clear_leftovers(folder)
    return SealedDataset.open(folder), rows
