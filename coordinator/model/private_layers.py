"""What per-sample gradients need of a model: layers that Opacus can take one by one.

timm's Vision Transformer keeps its class token, register tokens and positions as bare parameters of the whole model.
Opacus takes the innermost module with parameters as one layer: here the whole network, which is slow and needs much
memory. `tokens_as_layer` moves these parameters into a small layer of their own for as long as a training lasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.vit import is_vision_transformer
from crypto.errors import CipherwardError


class _Tokens(nn.Module):
    """The tokens and positions of a Vision Transformer: timm's own `_pos_embed`, as a layer.

    It has the names of the model's parameters, and the settings that timm's method reads.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._forward = type(model)._pos_embed
        for name, weight in model.named_parameters(recurse=False):
            self.register_parameter(name, weight)
        for name in ("cls_token", "reg_token", "pos_embed"):
            if name not in self._parameters:
                setattr(self, name, getattr(model, name, None))
        for name in ("dynamic_img_size", "no_embed_class", "num_prefix_tokens"):
            setattr(self, name, getattr(model, name))
        # Dropout comes after this layer. Per-sample gradients would otherwise draw another mask for each image.
        self.pos_drop = nn.Identity()

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return patches [n, blocks, width] with tokens and positions, [n, tokens, width]."""
        tokens: torch.Tensor = self._forward(self, patches)
        return tokens


@contextmanager
def tokens_as_layer(model: nn.Module) -> Iterator[None]:
    """Move a Vision Transformer's bare parameters into a layer of their own while the block runs.

    The parameters stay the same objects. Names in the state dict are different inside, and as before afterwards.
    """
    names = [name for name, _ in model.named_parameters(recurse=False)]
    if not names:
        yield
        return
    tokens, vit = _Tokens(model), model
    order = list(vit._parameters.items())
    dropout: Any = vit.pos_drop
    vit._parameters.clear()
    vit.add_module("_tokens", tokens)
    object.__setattr__(vit, "_pos_embed", lambda patches: dropout(tokens(patches)))
    try:
        yield
    finally:
        object.__delattr__(vit, "_pos_embed")
        del vit._modules["_tokens"]
        vit._parameters.update(order)


def require_private_layers(model: nn.Module, plan: Plan) -> None:
    """Raise CipherwardError if a model's gradients cannot be taken and bounded image by image.

    Args:
        model: as build_model returns it for this plan.
        plan: nothing is checked if its `privacy` is off.
    """
    if not plan.privacy.is_on:
        return
    for part in model.modules():
        if getattr(part, "running_mean", None) is not None:
            raise CipherwardError(
                f"privacy does not go with {plan.model}: batch normalisation mixes the images of a batch, and no "
                "gradient belongs to one patient",
                "choose a model with layer normalisation, such as timm's vit_* models",
            )
        if isinstance(part, nn.MultiheadAttention):
            raise CipherwardError(
                f"privacy does not go with {plan.model}: torch's own attention gives no gradients of single images",
                "choose one of timm's vit_* models",
            )
    if any(True for _ in model.named_parameters(recurse=False)) and not is_vision_transformer(model):
        raise CipherwardError(
            f"privacy does not go with {plan.model}: it keeps weights outside its layers, and gradients of single "
            "images would be taken of the whole network at once",
            "choose one of timm's vit_* models",
        )
