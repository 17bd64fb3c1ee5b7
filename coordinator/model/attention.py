"""How a Vision Transformer computes its attention while it trains.

On the CPU the backward pass of torch's fused attention in bfloat16 takes longer than that of the plain product of
matrices, and a ViT-Ti/16 trains 1.3 times as fast without it (docs/results/speed.md; one core that has bfloat16
units). In float32 the fused one is as fast or faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

#: The plain product holds a matrix of tokens × tokens for each image, head and layer, and the fused one does not.
_MOST_TOKENS = 256


@contextmanager
def fast_attention(model: nn.Module, precision: str, device: torch.device) -> Iterator[None]:
    """Use, within the block, the attention that trains fastest on this device.

    Args:
        model: one of timm's. It is left alone if its attention cannot be chosen, or if it has more than 256 tokens.
        precision: the plan's.
        device: where the model trains.
    """
    positions = getattr(model, "pos_embed", None)
    few = isinstance(positions, torch.Tensor) and positions.shape[1] <= _MOST_TOKENS
    plain = precision == "bfloat16" and device.type == "cpu" and few
    layers = [m for m in model.modules() if plain and getattr(m, "fused_attn", False) is True]
    for layer in layers:
        layer.fused_attn = False  # type: ignore[assignment]  # torch types the attributes of a module as tensors
    try:
        yield
    finally:
        for layer in layers:
            layer.fused_attn = True  # type: ignore[assignment]
