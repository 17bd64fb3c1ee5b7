"""The common Vision Transformer, and its weights as one flat vector. The one place that imports timm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from coordinator.plan import Plan
from coordinator.torchvision_fix import timm
from crypto.errors import CipherwardError
from crypto.files import write_bytes


def build_model(plan: Plan, classes: int) -> nn.Module:
    """The plan's ViT with a fresh head for `classes`, from its weights file or from scratch.

    Initialisation is drawn from the plan's seed alone. Weights of other input channels, patch grids or
    heads are adapted by timm: gray input sums the filters of the three colours. Raises CipherwardError
    where timm does not know the model, the file does not fit it, or its patch is not the scheme's block.
    """
    settings: dict[str, Any] = {
        "num_classes": classes,
        "in_chans": plan.channels,
        "img_size": plan.image_size,
        **plan.model_args,
    }
    if plan.weights:
        settings |= {"pretrained": True, "pretrained_cfg_overlay": {"file": plan.weights}}
    torch.manual_seed(plan.seed)
    try:
        model: nn.Module = timm.create_model(plan.model, **settings)
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise CipherwardError(
            f"timm cannot build {plan.model} for {plan.image_size}×{plan.image_size} images: {line}",
            "check model, model_args and weights in the plan",
        ) from None
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and tuple(patch) != (plan.block, plan.block):
        raise CipherwardError(
            f"{plan.model} has patches of {patch[0]}, the scheme has blocks of {plan.block}",
            "a block that straddles patches cannot be learnt: set block, or model_args patch_size",
        )
    return model


def pack(model: nn.Module) -> np.ndarray:
    """float32 [parameters]: every weight in state-dict order, as one vector.

    One array instead of a hundred and fifty: Flower pays for every array it carries.
    """
    parts = [v.detach().reshape(-1).float() for v in model.state_dict().values()]
    return torch.cat(parts).cpu().numpy()


def unpack(model: nn.Module, flat: np.ndarray) -> None:
    """Loads a vector made by pack. Raises ValueError where its length is not the model's."""
    state = model.state_dict()
    total = sum(v.numel() for v in state.values())
    if flat.shape != (total,):
        raise ValueError(f"{flat.shape} weights for a model of {total}")
    # A copy: Flower hands out read-only buffers, and training must not write into them.
    vector = torch.from_numpy(np.array(flat, np.float32))
    at = 0
    with torch.no_grad():
        for value in state.values():
            value.copy_(vector[at : at + value.numel()].reshape(value.shape))
            at += value.numel()


def save_model(model: nn.Module, plan: Plan, classes: Sequence[str], path: Path) -> str:
    """Writes a safetensors file that timm loads; returns its hex SHA-256.

    Its metadata holds what rebuilds the model: timm's name and arguments, classes and input scaling.
    """
    about = {
        "model": plan.model,
        "model_args": json.dumps({**plan.model_args, "img_size": plan.image_size}),
        "in_chans": str(plan.channels),
        "classes": json.dumps(list(classes)),
        "input": "uint8 / 127.5 - 1",
        "scheme": plan.scheme,
        "stem": plan.stem,
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    data = save(tensors, metadata=about)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_state(model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Loads saved weights; raises CipherwardError where they are another model's."""
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CipherwardError(f"{path} holds another model: {str(error).splitlines()[0]}") from None
