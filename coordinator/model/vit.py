"""The shared Vision Transformer, and its weights as one flat vector.

The models are timm's, except for those in published_networks.py.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coordinator.exchange.model_choice import check_model_args, check_model_name
from coordinator.exchange.plan import Plan
from coordinator.model.load_weights import PLAIN_FLOATS, load_weights
from coordinator.model.published_networks import NETWORKS
from coordinator.model.shares import apply_share, in_stem, merge_adapters
from crypto.arrays import Float32Array
from crypto.errors import CipherwardError
from crypto.files import write_bytes
from crypto.scheme import load
from crypto.spec import spec_without_nonce
from crypto.tensor_file import torch_tensor_bytes

Log = Callable[[str], None]
#: What a saved model says of the images that it reads, by stem mode.
_IMAGES = {
    "learn": "sealed under the training's key",
    "private": "sealed under a hospital's key, through its own stem",
    "plain": "plain",
}
#: What timm and torch raise for arguments that do not fit together: ArithmeticError where one is 0 or too large.
_UNFIT = (RuntimeError, TypeError, ValueError, AssertionError, LookupError, ArithmeticError, AttributeError)
#: Arguments of a network that follow from the images.
_FROM_THE_IMAGES = frozenset({"num_classes", "in_chans", "img_size"})


def input_shape(plan: Plan, plain: bool = False) -> tuple[int, int, int]:
    """Return (height, width, channels) of the model's input: of sealed images, or of plain ones."""
    spec = plan.describe()
    return spec.image_shape if plain else load(spec).sealed_shape


def build_model(plan: Plan, classes: int, plain: bool = False, log: Log = lambda _: None) -> nn.Module:
    """Build the plan's model with a new head, from the plan's weights file or from scratch.

    The initial weights depend on the plan's seed only. Weights of other input channels or patch grids are adapted
    (coordinator/model/load_weights.py); for gray input the filters of the three colours are summed. Weights that the
    plan does not train take no gradients. Under share `lora` the model has adapters (coordinator/model/shares.py).

    Args:
        plan: all settings.
        classes: outputs of the head.
        plain: build the model for plain images. A few schemes change the shape of an image.
        log: gets the line that says how many tensors the weights file gave, and what was adapted.

    Raises:
        CipherwardError: if timm does not know the model, if the weights file does not fit it, if the scheme's blocks
            straddle its patches, or if the plan's stem mode cannot carry its stem.
    """
    height, width, channels = input_shape(plan, plain)
    settings: dict[str, Any] = {
        "num_classes": classes,
        "in_chans": channels,
        "img_size": height if height == width else (height, width),
        **plan.model_args,
    }
    torch.manual_seed(plan.seed)
    model = create_model(plan.model, settings, plan.weights, log)
    if plan.stem != "learn":
        _require_carriable_stem(model, plan, channels)
    patch: tuple[int, int] | None = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and any(side % plan.block for side in patch):
        raise CipherwardError(
            f"{plan.model} has patches of {patch[0]}, the scheme has blocks of {plan.block}",
            "a block that straddles patches cannot be learnt: set a block that divides the patch",
        )
    if plan.share == "lora" and not is_vision_transformer(model):
        raise CipherwardError(
            f"share lora: {plan.model} is not a plain Vision Transformer, and adapters need its linear layers",
            "choose one of timm's vit_* models, or share all or head",
        )
    if plan.positions == "alike":
        forget_positions(model)
    apply_share(model, plan)
    return model


@torch.no_grad()
def forget_positions(model: nn.Module) -> None:
    """Give all blocks of a ViT one position, the mean of theirs, in place.

    A key that permutes blocks makes the positions of public weights wrong. Class and register tokens keep theirs.

    Raises:
        CipherwardError: if the model has no position embedding.
    """
    positions: Any = getattr(model, "pos_embed", None)
    if not is_vision_transformer(model) or positions is None:
        raise CipherwardError(
            "positions alike: the model has no position embedding",
            "choose one of timm's vit_* models, or leave positions out",
        )
    tokens = 0 if getattr(model, "no_embed_class", False) else int(model.num_prefix_tokens)  # type: ignore[arg-type]
    positions[:, tokens:] = positions[:, tokens:].mean(1, keepdim=True)


def create_model(
    name: str, settings: Mapping[str, Any], weights: str = "", log: Log = lambda _: None
) -> nn.Module:
    """Create one of timm's models or of NETWORKS.

    Neither the name nor the settings can make timm read another file or use a network
    (coordinator/exchange/model_choice.py).

    Args:
        name: the network's name.
        settings: its arguments, with num_classes, in_chans and img_size.
        weights: a local file of pretrained weights. "": from scratch.
        log: as in `build_model`.

    Raises:
        CipherwardError: if name or settings are not allowed, or do not fit together, and if a tensor of the weights
            does not fit the encoder or is missing.
    """
    check_model_name(name)
    check_model_args({k: v for k, v in settings.items() if k not in _FROM_THE_IMAGES})
    # Imported when a model is built: timm and torchvision take more than a second to load.
    from coordinator.model.torchvision_fix import timm

    if name not in NETWORKS and not timm.is_model(name):
        similar = difflib.get_close_matches(name, [*NETWORKS, *timm.list_models()], 3)
        raise CipherwardError(
            f"there is no network {name} in timm",
            f"similar names: {', '.join(similar)}"
            if similar
            else "name one of timm's, such as vit_tiny_patch16_224",
        )
    try:
        create: Callable[..., nn.Module] = NETWORKS.get(name, functools.partial(timm.create_model, name))
        model = create(**settings)
    except _UNFIT as error:
        line = (str(error).splitlines() or [""])[0]
        raise CipherwardError(
            f"timm cannot build {name} for images of {settings['img_size']}: {line}",
            "check model and model_args in the plan",
        ) from None
    if weights:
        log(load_weights(model, name, Path(weights)).summary)
    return model


def is_vision_transformer(model: nn.Module) -> bool:
    """Return whether a model is timm's VisionTransformer."""
    from coordinator.model.torchvision_fix import timm

    return isinstance(model, timm.models.vision_transformer.VisionTransformer)


def is_plain_vit(model: nn.Module) -> bool:
    """Return whether a model is timm's VisionTransformer with timm's linear patch embedding, PatchEmbed."""
    from coordinator.model.torchvision_fix import timm

    return is_vision_transformer(model) and isinstance(model.patch_embed, timm.layers.PatchEmbed)


def _require_carriable_stem(model: nn.Module, plan: Plan, channels: int) -> None:
    """Raise CipherwardError if the stem cannot be carried into a key's coordinates (parties/training/stem.py).

    Each block must go through one linear map, and the encoder must know the position of a token from `pos_embed`
    only. timm's VisionTransformer is such a model. Models with relative or rotary positions, with windows or with
    convolutions before the encoder are not.
    """
    if not is_plain_vit(model):
        raise CipherwardError(
            f"stem {plan.stem}: {plan.model} is not a plain Vision Transformer, and its stem cannot be carried",
            "choose one of timm's vit_*_patch* models, or stem learn",
        )
    embedding: Any = model.patch_embed
    if tuple(embedding.proj.weight.shape[1:]) != (channels, plan.block, plan.block):
        raise CipherwardError(
            f"stem {plan.stem}: {plan.model} has patches of {embedding.patch_size[0]}, the scheme has blocks of "
            f"{plan.block}, and a stem is carried patch by patch",
            "set block to the patch size, or model_args patch_size to the block",
        )


def pack(model: nn.Module, names: Sequence[str] | None = None) -> Float32Array:
    """Return the named weights, or all of them in state-dict order, as one vector, float32 [parameters].

    One array replaces a hundred and fifty, because Flower has a cost for each array that it sends.
    """
    state = model.state_dict()
    parts = [state[name].detach().reshape(-1).float() for name in (state if names is None else names)]
    return torch.cat(parts).cpu().numpy()


def unpack(model: nn.Module, flat: Float32Array, names: Sequence[str] | None = None) -> None:
    """Load a vector that `pack` made with the same names. Other weights stay as they are.

    Raises:
        ValueError: if the vector does not have the length of these weights.
    """
    state = model.state_dict()
    values = [state[name] for name in (state if names is None else names)]
    total = sum(v.numel() for v in values)
    if flat.shape != (total,):
        raise ValueError(f"{flat.shape} weights for a model of {total}")
    # A copy: Flower's buffers are read-only, and training must not write into them.
    vector = torch.from_numpy(np.array(flat, np.float32))
    start = 0
    with torch.no_grad():
        for value in values:
            value.copy_(vector[start : start + value.numel()].reshape(value.shape))
            start += value.numel()


def save_model(
    model: nn.Module,
    plan: Plan,
    classes: Sequence[str],
    path: Path,
    round_: int = 0,
    *,
    key_ids: Mapping[str, str],
) -> str:
    """Write the final model of a federation as a safetensors file, and return the file's hex SHA-256.

    timm can load the file, except under stem mode `private`: then it holds only the encoder and the head, because
    every hospital has its own stem. Adapters are merged into the encoder. The metadata holds what is needed to
    rebuild the model: timm's name and arguments, classes and input scaling, which images it reads, and which weights
    it lacks. It also says what the model belongs to: the study, the whole scheme without its nonce, and the ids of
    the hospitals' keys, so that a query under another key or scheme is refused (coordinator/model/belonging.py).

    Args:
        model: the model to save.
        plan: the plan that it was trained by.
        classes: names of the classes, in the order of the head's outputs.
        path: the file to write.
        round_: the round that the weights come from.
        key_ids: the id of the key that sealed each hospital's images, by the hospital's name.
    """
    height, width, channels = input_shape(plan)
    metadata = {
        "model": plan.model,
        "model_args": json.dumps({**plan.model_args, "img_size": [height, width]}, sort_keys=True),
        "in_chans": str(channels),
        "classes": json.dumps(list(classes)),
        "input": "uint8 / 127.5 - 1",
        "scheme": plan.scheme,
        "stem": plan.stem,
        "round": str(round_),
        "images": _IMAGES[plan.stem],
        "study": plan.study,
        "spec": json.dumps(spec_without_nonce(plan.describe()), sort_keys=True),
        "key_ids": json.dumps(dict(key_ids), sort_keys=True),
        "lacks": "patch_embed.*, pos_embed" if plan.stem == "private" else "",
    }
    state = merge_adapters(model).state_dict()
    names = [name for name in state if plan.stem != "private" or not in_stem(name)]
    data = torch_tensor_bytes({name: state[name] for name in names}, metadata)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_state(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    names: Sequence[str] | None = None,
) -> None:
    """Load saved weights, all or only the named ones.

    Args:
        model: changed in place.
        tensors: the saved weights by name.
        path: the file that they come from, for the error message.
        names: the weights that must be in `tensors`; all others keep their values. None: all weights must be.

    Raises:
        CipherwardError: if the weights belong to another model, or a weight is of a type that PyTorch would cast in
            silence, such as int8. The message names it.
    """
    state = model.state_dict()
    for name, value in tensors.items():
        if name in state and state[name].is_floating_point() and value.dtype not in PLAIN_FLOATS:
            raise CipherwardError(
                f"{path}: the tensor {name} is of type {str(value.dtype).removeprefix('torch.')}",
                "name a model.safetensors as a study wrote it",
            )
    try:
        if names is not None:
            tensors = {**{k: v for k, v in state.items() if k not in names}, **tensors}
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        # The first line names the class of the network alone.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CipherwardError(
            f"{path} holds another model: {lines[min(1, len(lines) - 1)][:200]}",
            "name the weights of the model that the plan names",
        ) from None
