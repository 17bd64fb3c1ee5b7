"""The common Vision Transformer, and its weights as one flat vector: timm's, but for the networks in networks.py."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.comparison import NETWORKS
from coordinator.model.shares import in_stem, merged, prepare, travelling
from coordinator.model.torchvision_fix import timm
from crypto.errors import CipherwardError
from crypto.files import write_bytes
from crypto.scheme import load

PatchEmbed = timm.layers.PatchEmbed
VisionTransformer = timm.models.vision_transformer.VisionTransformer
_IMAGES = {
    "learn": "sealed under the training's key",
    "private": "sealed under a hospital's key, through its own stem",
    "plain": "plain",
}


def input_shape(plan: Plan, plain: bool = False) -> tuple[int, int, int]:
    """(height, width, channels) of the model's input: the sealed images', or the plain ones'."""
    spec = plan.describe()
    return spec.image_shape if plain else load(spec).sealed_shape


def build_model(plan: Plan, classes: int, plain: bool = False) -> nn.Module:
    """The plan's ViT with a fresh head for `classes`, from its weights file or from scratch.

    Initialisation is drawn from the plan's seed alone. Weights of other input channels, patch grids or
    heads are adapted by timm: gray input sums the filters of the three colours. Raises CipherwardError
    where timm does not know the model, the file does not fit it, the scheme's blocks straddle its patches, or
    the plan's stem mode cannot carry its stem. What the plan does not train takes no gradients, and under share
    `lora` the model has adapters (coordinator/model/shares.py).
    `plain` builds it for plain images, whose shape a few schemes change.
    """
    height, width, channels = input_shape(plan, plain)
    settings: dict[str, Any] = {
        "num_classes": classes,
        "in_chans": channels,
        "img_size": height if height == width else (height, width),
        **plan.model_args,
    }
    if plan.weights:
        settings |= {"pretrained": True, "pretrained_cfg_overlay": {"file": plan.weights}}
    torch.manual_seed(plan.seed)
    model = timm_model(plan.model, settings)
    if plan.stem != "learn":
        _must_be_carriable(model, plan, channels)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and any(side % plan.block for side in patch):
        raise CipherwardError(
            f"{plan.model} has patches of {patch[0]}, the scheme has blocks of {plan.block}",
            "a block that straddles patches cannot be learnt: set a block that divides the patch",
        )
    if plan.share == "lora" and not isinstance(model, VisionTransformer):
        raise CipherwardError(
            f"share lora: {plan.model} is not a plain Vision Transformer, and adapters go on its linear layers",
            "choose one of timm's vit_* models, or share all or head",
        )
    prepare(model, plan)
    return model


def timm_model(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """timm's model of that name, or one of NETWORKS; raises CipherwardError where it cannot be built so."""
    try:
        make = NETWORKS.get(name, functools.partial(timm.create_model, name))
        model: nn.Module = make(**settings)
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise CipherwardError(
            f"timm cannot build {name} for images of {settings['img_size']}: {line}",
            "check model, model_args and weights in the plan",
        ) from None
    return model


def _must_be_carriable(model: nn.Module, plan: Plan, channels: int) -> None:
    """Raises CipherwardError where the stem cannot be carried into a key's coordinates (parties/training/stem.py).

    One linear map of each block must feed an encoder that knows a token's place from `pos_embed` alone: timm's
    VisionTransformer is such a model; relative and rotary positions, windows and convolutions before it are not.
    """
    embed = getattr(model, "patch_embed", None)
    if not isinstance(model, VisionTransformer) or not isinstance(embed, PatchEmbed):
        raise CipherwardError(
            f"stem {plan.stem}: {plan.model} is not a plain Vision Transformer, and its stem cannot be carried",
            "choose one of timm's vit_*_patch* models, or stem learn",
        )
    wanted = (channels, plan.block, plan.block)
    if tuple(embed.proj.weight.shape[1:]) != wanted:
        raise CipherwardError(
            f"stem {plan.stem}: {plan.model} has patches of {embed.patch_size[0]}, the scheme has blocks of "
            f"{plan.block}, and a stem is carried patch by patch",
            "set block to the patch size, or model_args patch_size to the block",
        )


def shared_names(model: nn.Module, plan: Plan) -> list[str]:
    """Names of the weights that travel, in state-dict order. model: as build_model makes it for this plan.

    All, or what `share` says; under stem mode `private` never the stem.
    """
    return travelling(model, plan)


def pack(model: nn.Module, names: Sequence[str] | None = None) -> np.ndarray:
    """float32 [parameters]: the named weights, or all in state-dict order, as one vector.

    One array instead of a hundred and fifty: Flower pays for every array it carries.
    """
    state = model.state_dict()
    parts = [state[name].detach().reshape(-1).float() for name in (state if names is None else names)]
    return torch.cat(parts).cpu().numpy()


def unpack(model: nn.Module, flat: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Loads a vector made by pack with the same names; the other weights stay.

    Raises ValueError where its length is not that of these weights.
    """
    state = model.state_dict()
    values = [state[name] for name in (state if names is None else names)]
    total = sum(v.numel() for v in values)
    if flat.shape != (total,):
        raise ValueError(f"{flat.shape} weights for a model of {total}")
    # A copy: Flower hands out read-only buffers, and training must not write into them.
    vector = torch.from_numpy(np.array(flat, np.float32))
    at = 0
    with torch.no_grad():
        for value in values:
            value.copy_(vector[at : at + value.numel()].reshape(value.shape))
            at += value.numel()


def save_model(model: nn.Module, plan: Plan, classes: Sequence[str], path: Path, round_: int = 0) -> str:
    """Writes the final model of a federation, that of round `round_`; returns its hex SHA-256.

    A safetensors file that timm loads, but under stem mode `private`: there it holds the encoder and the head,
    because every hospital keeps a stem of its own. Adapters are merged into the encoder. Its metadata holds what
    rebuilds the model: timm's name and arguments, classes and input scaling, which images it reads, and what it
    lacks.
    """
    height, width, channels = input_shape(plan)
    about = {
        "model": plan.model,
        "model_args": json.dumps({**plan.model_args, "img_size": [height, width]}),
        "in_chans": str(channels),
        "classes": json.dumps(list(classes)),
        "input": "uint8 / 127.5 - 1",
        "scheme": plan.scheme,
        "stem": plan.stem,
        "round": str(round_),
        "images": _IMAGES[plan.stem],
        "lacks": "patch_embed.*, pos_embed" if plan.stem == "private" else "",
    }
    state = merged(model).state_dict()
    kept = [name for name in state if plan.stem != "private" or not in_stem(name)]
    tensors = {name: state[name].detach().cpu().contiguous() for name in kept}
    data = save(tensors, metadata=about)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_state(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    names: Sequence[str] | None = None,
) -> None:
    """Loads saved weights, all or the named ones; raises CipherwardError where they are another model's."""
    state = model.state_dict()
    try:
        if names is not None:
            tensors = {**{k: v for k, v in state.items() if k not in names}, **tensors}
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CipherwardError(f"{path} holds another model: {str(error).splitlines()[0]}") from None
