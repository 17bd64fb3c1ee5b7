"""Read the tensors of a file of public weights, and say in one line what is wrong with a file that is none.

Only the safetensors format is read. A checkpoint that PyTorch pickled can run code when it is opened, so it is
refused by its first bytes, whatever its name is.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from crypto.errors import CipherwardError
from crypto.files import parse_json, require_regular

if TYPE_CHECKING:
    import torch

_FETCH = "fetch the file again, and compare its size with the published one"
_CONVERT = (
    'convert it on a machine that may run its code: python -c "import torch; from safetensors.torch import *; '
    "t = torch.load('IN', weights_only=True, map_location='cpu'); t = t.get('state_dict', t.get('model', t)); "
    "save_file({k: v.clone() for k, v in t.items() if torch.is_tensor(v)}, 'OUT.safetensors')\""
)
#: What a file is that is no safetensors file, by its first bytes, and what to do about it.
_KINDS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    (
        (b"version https://git-lfs", b"version https://hawser"),
        "is a Git LFS pointer, not the weights",
        "fetch the weights themselves: git lfs pull, or the download button of the page",
    ),
    (
        (b"PK\x03\x04", b"PK\x05\x06"),
        "is a zip archive (a checkpoint that PyTorch pickled, or NumPy's .npz), not a safetensors file",
        _CONVERT,
    ),
    (
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "is a pickle, which can run code when it is opened, not a safetensors file",
        _CONVERT,
    ),
    (
        (b"<",),
        "is a web page, not the weights",
        "fetch the file itself; the page may ask you to log in or to accept terms",
    ),
    (
        (b"{", b"["),
        "is a JSON text, such as a server's error or an index of files, not the weights",
        _FETCH,
    ),
    (
        (b"\x1f\x8b", b"7z\xbc\xaf", b"\xfd7zXZ", b"BZh", b"(\xb5/\xfd"),
        "is a compressed file",
        "decompress it first",
    ),
    ((b"\x89HDF",), "is an HDF5 file of Keras, not a safetensors file", "take the PyTorch version"),
    ((b"GGUF",), "is a GGUF file of quantised weights, not a safetensors file", "take the full weights"),
    ((b"\x93NUMPY",), "is a NumPy array, not a safetensors file", _FETCH),
)
#: The longest header that the safetensors library reads, in bytes.
_LONGEST_HEADER = 100_000_000
#: Bytes before the header, which say how long it is.
_LENGTH_BYTES = 8


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        path: the file.

    Returns:
        The tensors by name, on the CPU, as they stand in the file. None holds NaN or infinity.

    Raises:
        CipherwardError: if the file is missing, is not a safetensors file, is cut or damaged, holds no tensor, or
            holds a value that is not a number. The message names the file, and the tensor if there is one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_safetensors(path)
    try:
        tensors: dict[str, torch.Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        line = (str(error).splitlines() or [""])[0][:120]
        raise CipherwardError(f"{path} is damaged: {line}", _FETCH) from None
    if not tensors:
        raise CipherwardError(f"{path} holds no tensors", _FETCH)
    for name, value in tensors.items():
        _require_finite(path, name, value)
    return tensors


def _require_safetensors(path: Path) -> None:
    """Raise CipherwardError if a file is no whole safetensors file, by its beginning and its size."""
    try:
        require_regular(path)
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(64)
            header_length = (
                struct.unpack("<Q", start[:_LENGTH_BYTES])[0] if len(start) >= _LENGTH_BYTES else 0
            )
            file.seek(_LENGTH_BYTES)
            header = file.read(header_length) if header_length <= min(size, _LONGEST_HEADER) else b""
    except FileNotFoundError:
        raise CipherwardError(f"no weights file at {path}", "name one with --set weights=PATH") from None
    except OSError as error:
        raise CipherwardError(
            f"cannot read the weights {path}: {error.strerror}", "name a file that you may read"
        ) from None
    if not size:
        raise CipherwardError(f"{path} is empty: 0 bytes", _FETCH)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        for beginnings, what, hint in _KINDS:
            if start.startswith(beginnings) or text.startswith(beginnings):
                raise CipherwardError(f"{path} {what}", hint)
        raise CipherwardError(f"{path} is not a safetensors file: it has no header", _FETCH)
    if not header or len(header) < header_length:
        raise CipherwardError(f"{path} is damaged: it ends within its header, after {size:,} bytes", _FETCH)
    _require_whole(path, header, size - _LENGTH_BYTES - header_length)


def _require_whole(path: Path, header: bytes, data_bytes: int) -> None:
    """Raise CipherwardError if a file has fewer bytes of tensors than its header says."""
    try:
        rows = [row for name, row in parse_json(header).items() if name != "__metadata__"]
        promised = max((int(row["data_offsets"][1]) for row in rows), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise CipherwardError(f"{path} is damaged: its header cannot be read", _FETCH) from None
    if promised > data_bytes:
        raise CipherwardError(
            f"{path} is damaged: it was cut after {data_bytes:,} of {promised:,} bytes of tensors", _FETCH
        )


def _require_finite(path: Path, name: str, value: torch.Tensor) -> None:
    """Raise CipherwardError if a tensor holds NaN or infinity."""
    import torch

    # The 8-bit floats have no arithmetic, and are refused where their type is.
    if value.is_floating_point() and value.element_size() > 1 and not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).sum())
        raise CipherwardError(
            f"{path}: the tensor {name} holds {bad:,} values that are NaN or infinite",
            "these weights come from a training that diverged, or are damaged: take another file",
        )
