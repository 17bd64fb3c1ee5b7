"""One shard of a sealed set: a safetensors file, written as its images come and read as a memory map.

    8 bytes   the header's length, little-endian
    header    JSON, padded with spaces to a multiple of 8: dtype, shape and place of each tensor
    tensors   labels int64 [r], then images [r, *sealed_shape]

The bytes are those that safetensors' own writer makes. Images go to the disk from where they were encrypted, and are
hashed there, while they are in the processor's cache: a shard is never in memory, and is not read again save where
images were left out, because then all that follow move up.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3

from crypto.errors import CipherwardError
from crypto.files import disk_errors, move_atomic

_HEADER_LIMIT = 1 << 20
_KINDS = {"U8": np.dtype(np.uint8), "I64": np.dtype(np.int64), "F32": np.dtype(np.float32)}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Draft:
    """A shard in work: a neighbour of `path`, under the name of a temporary file until it is whole.

    file: its descriptor. rows: how many it will have if no image is left out, which begin and digest suppose.
    shape, dtype: of one sealed image. begin: where in the file the images begin. digest: BLAKE3 of what was hashed.
    """

    path: Path
    temporary: Path
    file: int
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int
    digest: blake3

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def put(self, row: int, images: np.ndarray) -> None:
        """Writes images [r, *shape], contiguous, as the rows from `row` on: in any order, from any thread."""
        with disk_errors(self.path):
            _write_at(self.file, _bytes(images), self.begin + row * self.row_bytes)

    def hash(self, images: np.ndarray) -> None:
        """Hashes images [r, *shape], contiguous: the rows after those that were hashed before."""
        self.digest.update(_bytes(images))

    def drop(self) -> None:
        """Closes the file, and removes it unless it has become the shard."""
        os.close(self.file)
        self.temporary.unlink(missing_ok=True)


def begin_shard(path: Path, labels: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> Draft:
    """A draft of images [r, *shape] with labels int64 [r]; whoever begins one finishes or drops it."""
    head = _head(labels, shape, dtype)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.draft.tmp")
    with disk_errors(path):
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    return Draft(path, temporary, file, len(labels), shape, dtype, len(head), blake3(head))


def finish_shard(draft: Draft, runs: Sequence[tuple[int, int]], labels: np.ndarray) -> tuple[int, str]:
    """Makes a draft its shard, durably and all at once; returns the file's bytes and hex BLAKE3 digest.

    runs: (first row, rows) of what was put into the draft, in order; labels: int64 [r] of these rows.
    """
    head, digest = _head(labels, draft.shape, draft.dtype), draft.digest
    try:
        with disk_errors(draft.path):
            _write_at(draft.file, head, 0)
            if len(labels) < draft.rows:
                digest = _moved_up(draft, runs, head)
        move_atomic(draft.temporary, draft.path)
    finally:
        draft.drop()
    return len(head) + len(labels) * draft.row_bytes, digest.hexdigest()


def _moved_up(draft: Draft, runs: Sequence[tuple[int, int]], head: bytes) -> blake3:
    """Closes the gaps that images left; the digest of the whole file. No run goes over what is still to be read."""
    digest, end = blake3(head), len(head)
    for row, rows in runs:
        data = os.pread(draft.file, rows * draft.row_bytes, draft.begin + row * draft.row_bytes)
        _write_at(draft.file, data, end)
        digest.update(data)
        end += len(data)
    os.ftruncate(draft.file, end)
    return digest


def _head(labels: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """What stands before the images in a shard of these labels, int64 [r]."""
    entries, place = {}, 0
    size = len(labels) * math.prod(shape) * dtype.itemsize
    for name, kind, whole, length in (
        ("labels", labels.dtype, labels.shape, labels.nbytes),
        ("images", dtype, (len(labels), *shape), size),
    ):
        entries[name] = {
            "dtype": _NAMES[kind],
            "shape": list(whole),
            "data_offsets": [place, place + length],
        }
        place += length
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + labels.tobytes()


def _bytes(images: np.ndarray) -> memoryview:
    return images.reshape(-1).view(np.uint8).data


def _write_at(file: int, data: bytes | memoryview, place: int) -> None:
    left = memoryview(data)
    while len(left):  # a disk that is nearly full takes a part
        done = os.pwrite(file, left, place)
        left, place = left[done:], place + done


def map_tensor(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A tensor of a shard, as a read-only memory map.

    Raises CipherwardError naming the file where it is unreadable or the tensor is not of this shape and dtype.
    """
    try:
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length if length < _HEADER_LIMIT else 0))
        entry = header[name]
        if (tuple(entry["shape"]), _KINDS[entry["dtype"]]) != (shape, dtype):
            raise ValueError(f"{name} of another shape")
        offset = 8 + length + entry["data_offsets"][0]
        return np.memmap(path, dtype, "r", offset, shape)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        RecursionError,
        struct.error,
    ) as error:
        raise CipherwardError(
            f"shard {path} is truncated or altered: {type(error).__name__}", "fetch the sealed set again"
        ) from None
