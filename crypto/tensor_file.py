"""Write tensors in the safetensors format so that equal content has equal bytes, and so one digest, in every run.

The safetensors library sorts tensors, but writes metadata in the order of a hash table that changes with every call.
Here the metadata is sorted. Nothing else writes such files, but for the shards of sealed sets (crypto/sets/shard.py).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from crypto.arrays import AnyArray

if TYPE_CHECKING:
    import torch

_METADATA = "__metadata__"
#: Bytes of the field before the header that holds its length, and what the header's length is a multiple of.
_LENGTH_BYTES = 8


def tensor_bytes(tensors: Mapping[str, AnyArray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file of NumPy arrays. The order of the two mappings makes no difference.

    Args:
        tensors: Arrays by name.
        metadata: Texts by name. JSON among them should be written with sorted keys.
    """
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return _canonical(save(contiguous, metadata=None if metadata is None else dict(metadata)))


def torch_tensor_bytes(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a safetensors file of torch tensors, as `tensor_bytes` does."""
    from safetensors.torch import save as save_torch  # only who has tensors of torch needs torch

    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return _canonical(save_torch(contiguous, metadata=None if metadata is None else dict(metadata)))


def _canonical(data: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted by name. The tensors' bytes stay as they are."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    if len(header.get(_METADATA, ())) < 2:
        return data
    header[_METADATA] = dict(sorted(header[_METADATA].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return b"".join([struct.pack("<Q", len(text)), text, memoryview(data)[_LENGTH_BYTES + length :]])
