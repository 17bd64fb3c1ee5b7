"""Gray levels as the networks read them: one mapping for hospitals, the cloud and the adversary."""

from __future__ import annotations

import numpy as np
import torch

from crypto.arrays import AnyArray

#: Mean and standard deviation of the input are both one half of 255, as timm's Vision Transformers expect.
_MIDDLE = 127.5


def to_model_input(images: AnyArray | torch.Tensor) -> torch.Tensor:
    """Return gray levels as float32 [n, c, h, w], each value v as v / 127.5 - 1.

    Args:
        images: uint8 or float32 [n, h, w, c] in gray levels. uint8 comes out in [-1, 1]; float32 ciphertexts may go
            beyond. An array comes out contiguous in memory. A tensor stays on its device and keeps its order in
            memory, which makes the result channels-last.
    """
    if isinstance(images, torch.Tensor):
        channels_first = images.permute(0, 3, 1, 2)
    else:
        channels_first = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return channels_first.div(_MIDDLE).sub_(1.0)
