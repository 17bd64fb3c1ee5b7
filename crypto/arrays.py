"""Names for the arrays that this project passes around. Shapes stand in docstrings, as `[n, h, w, c]`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
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
