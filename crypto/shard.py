"""One shard of a sealed set: a safetensors file, written in one pass and read as a memory map.

    8 bytes   the header's length, little-endian
    header    JSON, padded with spaces to a multiple of 8: dtype, shape and place of each tensor
    tensors   labels int64 [r], then images [r, *sealed_shape]

The bytes are those that safetensors' own writer makes. Ours hashes them on their way to the disk, so that a
shard is never copied and never read again.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from crypto.errors import CipherwardError
from crypto.files import write_pieces

_HEADER_LIMIT = 1 << 20
_PIECE = 1 << 20  # bytes that are hashed while they are still in the cache from writing
_KINDS = {"U8": np.dtype(np.uint8), "I64": np.dtype(np.int64), "F32": np.dtype(np.float32)}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def write_shard(path: Path, images: np.ndarray, labels: np.ndarray) -> tuple[int, str]:
    """Writes images [r, h, w, c] and labels int64 [r] atomically; returns the file's bytes and hex BLAKE3 digest."""
    entries, place = {}, 0
    for name, tensor in (("labels", labels), ("images", images)):
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    pieces: list[bytes | memoryview] = [struct.pack("<Q", len(header)), header]
    for tensor in (labels, images):
        flat = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
        pieces += [flat[i : i + _PIECE].data for i in range(0, len(flat), _PIECE)]
    return 8 + len(header) + place, write_pieces(path, pieces)


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
