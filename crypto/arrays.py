"""Names for the arrays that this project passes around. Docstrings give their shapes, as `[n, h, w, c]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

UInt8Array = NDArray[np.uint8]
UInt32Array = NDArray[np.uint32]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
#: An array whose dtype depends on the scheme or the caller.
AnyArray = NDArray[Any]
#: Plain or guessed images: uint8 [n, h, w, c].
Images = NDArray[np.uint8]
#: Row numbers of a set or a pool: int64 [r].
Rows = NDArray[np.int64]
#: The parts of a key, as a scheme draws them: permutations, masks, turns, by the paper's names.
Parts = Mapping[str, AnyArray]
#: Images as a NumPy array on the CPU or as a torch tensor on any device; a function returns what it was given.
ArrayOrTensor = TypeVar("ArrayOrTensor", AnyArray, "torch.Tensor")


def require_images(images: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Raise ValueError if images, an array or a tensor, are not [n, *shape] of this dtype.

    A cast would seal something else.
    """
    if tuple(images.shape[1:]) != shape or str(images.dtype).removeprefix("torch.") != dtype:
        raise ValueError(
            f"{dtype} [n, {', '.join(map(str, shape))}] expected, not {images.dtype} {list(images.shape)}"
        )
