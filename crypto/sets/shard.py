"""One shard of a sealed set: a safetensors file, written as its images come and read as a memory map.

    8 bytes   the header's length, little-endian
    header    JSON, padded with spaces to a multiple of 8: dtype, shape and place of each tensor
    tensors   labels int64 [r], then images [r, *sealed_shape]

The bytes are those that safetensors' own writer makes. Images go to the disk from where they were encrypted, and are
hashed there, while they are in the processor's cache. A shard is never in memory. It is read again only if images
were left out, because then all that follow move up.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from crypto.arrays import AnyArray, Int64Array
from crypto.errors import CipherwardError
from crypto.files import disk_errors, move_atomic, temporary_of

#: Longest header that is read: a damaged length field must not fill the memory.
_HEADER_LIMIT = 1 << 20
_KINDS = {"U8": np.dtype(np.uint8), "I64": np.dtype(np.int64), "F32": np.dtype(np.float32)}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Draft:
    """A shard in work: a neighbour of `path`, under the name of a temporary file until it is complete.

    Attributes:
        path: The shard's final path.
        temporary: The temporary file.
        file: Its descriptor.
        rows: Rows that it will have if no image is left out. `begin` and `digest` assume that.
        shape: Shape of one sealed image.
        dtype: Its dtype.
        begin: Where in the file the images begin.
        digest: BLAKE3 of what was hashed.
    """

    path: Path
    temporary: Path
    file: int
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    begin: int
    digest: blake3

    @property
    def row_bytes(self) -> int:
        """Bytes of one sealed image."""
        return math.prod(self.shape) * self.dtype.itemsize

    def put(self, row: int, images: AnyArray) -> None:
        """Write contiguous images [r, *shape] as the rows from `row` on: in any order, from any thread."""
        with disk_errors(self.path):
            _write_at(self.file, _bytes(images), self.begin + row * self.row_bytes)

    def hash(self, images: AnyArray) -> None:
        """Hash contiguous images [r, *shape]: the rows after those that were hashed before."""
        self.digest.update(_bytes(images))

    def drop(self) -> None:
        """Close the file, and remove it unless it has become the shard."""
        os.close(self.file)
        self.temporary.unlink(missing_ok=True)


def begin_shard(path: Path, labels: Int64Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Draft:
    """Return a draft for images [r, *shape] with labels int64 [r]. The caller finishes or drops it."""
    head = _head(labels, shape, dtype)
    temporary = temporary_of(path, ".draft")
    with disk_errors(path):
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    return Draft(path, temporary, file, len(labels), shape, dtype, len(head), blake3(head))


def finish_shard(draft: Draft, runs: Sequence[tuple[int, int]], labels: Int64Array) -> tuple[int, str]:
    """Make a draft its shard, durably and all at once.

    Args:
        draft: The draft.
        runs: (first row, rows) of what was put into the draft, in order.
        labels: int64 [r] of these rows.

    Returns:
        The file's bytes and its hex BLAKE3 digest.
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
    """Close the gaps that images left, and return the file's digest. No run overwrites what is still to be read."""
    digest, end = blake3(head), len(head)
    for row, rows in runs:
        data = os.pread(draft.file, rows * draft.row_bytes, draft.begin + row * draft.row_bytes)
        _write_at(draft.file, data, end)
        digest.update(data)
        end += len(data)
    os.ftruncate(draft.file, end)
    return digest


def _head(labels: Int64Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return what stands before the images in a shard with these labels, int64 [r]."""
    entries, offset = {}, 0
    size = len(labels) * math.prod(shape) * dtype.itemsize
    for name, kind, tensor_shape, length in (
        ("labels", labels.dtype, labels.shape, labels.nbytes),
        ("images", dtype, (len(labels), *shape), size),
    ):
        entries[name] = {
            "dtype": _NAMES[kind],
            "shape": list(tensor_shape),
            "data_offsets": [offset, offset + length],
        }
        offset += length
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + labels.tobytes()


def _bytes(images: AnyArray) -> memoryview:
    """Return the memory of contiguous images."""
    return images.reshape(-1).view(np.uint8).data


def _write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all data at an offset of a file."""
    rest = memoryview(data)
    while rest.nbytes:  # a disk that is nearly full takes a part
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def map_tensor(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """Return a tensor of a shard as a read-only memory map.

    Raises:
        CipherwardError: If the file is unreadable, or the tensor is not of this shape and dtype.
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
