"""Equal tensors and metadata give equal safetensors files: the writer puts metadata into an order of chance."""

from __future__ import annotations

import json

_LENGTH_BYTES = 8


def sort_metadata(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in order of name. The tensors and their places stay as they are.

    Args:
        data: what `safetensors.torch.save` or `safetensors.numpy.save` returned.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Tensors begin at a multiple of eight; the format lets spaces fill the header.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + data[_LENGTH_BYTES + length :]
