"""Load a file of public weights into a new model: every tensor of the encoder, or an error that names one.

The head is always new. timm adapts what depends on the images: it resamples position embeddings and patch filters of
another grid, and sums the filters of three colours for gray input. The summary says what was adapted.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coordinator.model.shares import COUNTER, head_prefixes
from coordinator.model.weight_names import to_timm_names
from coordinator.model.weights_file import read_weights
from crypto.errors import CipherwardError
from crypto.plural import counted

#: Names of heads and of networks that only pretraining needs: they are left out, and the summary says how many.
_NOT_ENCODER = re.compile(
    r"(?:\w*head\w*|heads|classifier|\w+_classifier|fc|pooler|pre_logits|projector|predictor|prototypes)\."
    r"|decoder\w*(?:\.|$)|(?:mask_token|masked_embed|logit_scale|logit_bias)$"
)
#: Input channels of weights that were trained on colour images.
_COLOURS = 3
#: Types of weights that can be trained as they are.
PLAIN_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ANOTHER = "set model and model_args to the network of this file, or name another file of weights"


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded.

    Attributes:
        path: the file.
        tensors: tensors of the encoder. All were loaded.
        notes: what was renamed, adapted and left out.
    """

    path: Path
    tensors: int
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.path}: {self.tensors} of {self.tensors} encoder tensors loaded ({'; '.join(self.notes)})"


def load_weights(model: nn.Module, name: str, path: Path) -> LoadedWeights:
    """Load a file of public weights into a model's encoder, in place. The head keeps its values.

    Args:
        model: a new model of timm, or one with an adaptation network before it (published_networks.py).
        name: the model's name.
        path: a safetensors file, under any naming of weight_names.py.

    Raises:
        CipherwardError: if the file cannot be read (weights_file.py), follows no known naming, or if a tensor of the
            encoder is missing, superfluous, of another shape or another type. Then nothing was loaded.
    """
    encoder = _find_encoder(model, name)
    state, head = encoder.state_dict(), head_prefixes(encoder)
    wanted = {key: value for key, value in state.items() if not key.startswith(head)}
    renamed = to_timm_names(read_weights(path), _first_weight(encoder, wanted), wanted, path)
    tensors = {
        key: value
        for key, value in renamed.tensors.items()
        if key in wanted or not (key.startswith(head) or _NOT_ENCODER.match(key))
    }
    notes = [renamed.naming] if renamed.naming else []
    if left_out := len(renamed.tensors) - len(tensors):
        notes.append(f"left out, of heads and pretraining: {left_out}")
    if renamed.outside:
        notes.append(f"left out, outside the prefix: {len(renamed.outside)}")
    _rename_final_norm(tensors, wanted, notes)
    _drop_class_token(tensors, wanted, notes)
    tensors = _adapt(tensors, encoder, name, path, notes)
    _require_fit(tensors, wanted, name, path)
    encoder.load_state_dict({**state, **tensors})
    return LoadedWeights(path, len(wanted), (*notes, "the head is new"))


def _find_encoder(model: nn.Module, name: str) -> nn.Module:
    """Return the network that public weights are for: the model, or the last part of one with an adaptation."""
    parts = [model, *(list(model.children())[-1:] if isinstance(model, nn.Sequential) else [])]
    for part in parts:
        if hasattr(part, "pretrained_cfg"):
            return part
    raise CipherwardError(
        f"there are no public weights for {name}", "leave weights out, or choose one of timm's models"
    )


def _first_weight(encoder: nn.Module, wanted: Mapping[str, torch.Tensor]) -> str:
    """Return the name of the weight that meets the image first."""
    convolutions: Any = getattr(encoder, "pretrained_cfg", {}).get("first_conv") or ()
    names = [convolutions] if isinstance(convolutions, str) else list(convolutions)
    first = [f"{name}.weight" for name in names if f"{name}.weight" in wanted]
    return (first or [name for name, value in wanted.items() if value.ndim > 1])[0]


def _rename_final_norm(
    tensors: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], notes: list[str]
) -> None:
    """Let the file's last normalisation be the model's: before the pooling it is `norm`, after it `fc_norm`."""
    for old, new in (("norm", "fc_norm"), ("fc_norm", "norm")):
        names = [(f"{old}.{part}", f"{new}.{part}") for part in ("weight", "bias")]
        if all(a in tensors and a not in wanted and b in wanted and b not in tensors for a, b in names):
            for a, b in names:
                tensors[b] = tensors.pop(a)
            notes.append(f"{old} taken as {new}")


def _drop_class_token(
    tensors: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], notes: list[str]
) -> None:
    """Leave the class token and its position out, if the model has none."""
    positions = tensors.get("pos_embed")
    if "cls_token" not in tensors or "cls_token" in wanted or "pos_embed" not in wanted:
        return
    del tensors["cls_token"]
    notes.append("class token left out, since the model has none")
    if positions is not None and positions.ndim == 3 and _side(positions.shape[1] - 1):
        tensors["pos_embed"] = positions[:, 1:]


def _side(tokens: int) -> int:
    """Return the side of a square of tokens; 0 if they make none."""
    side = math.isqrt(max(tokens, 0))
    return side if side * side == tokens else 0


def _adapt(
    tensors: Mapping[str, torch.Tensor], encoder: nn.Module, name: str, path: Path, notes: list[str]
) -> dict[str, torch.Tensor]:
    """Return the weights as timm adapts them to the model's patch grid, patch size and input channels."""
    adapted = dict(tensors)
    if "register_tokens" in adapted or any(".mlp.w12." in key for key in adapted):
        adapted["mask_token"] = torch.zeros(1)  # timm knows DINOv2's names by it, and drops it
    try:
        if (convert := _timm_filter(encoder, name)) is not None:
            adapted = convert(adapted, encoder)
        _fit_channels(adapted, encoder, path, notes)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        AssertionError,
    ) as error:
        line = (str(error).splitlines() or [""])[0][:150]
        raise CipherwardError(f"{path} cannot be fitted to {name}: {line}", _ANOTHER) from None
    _note_changes(tensors, adapted, notes)
    return adapted


def _note_changes(
    tensors: Mapping[str, torch.Tensor], adapted: Mapping[str, torch.Tensor], notes: list[str]
) -> None:
    """Say which weights timm adapted to other images."""
    before, after = (t.get("pos_embed", torch.empty(0)).shape for t in (tensors, adapted))
    if len(before) == len(after) == 3 and before != after:
        notes.append(f"position embeddings interpolated from {before[1]} to {after[1]} positions")
    before, after = (t.get("patch_embed.proj.weight", torch.empty(0)).shape for t in (tensors, adapted))
    if len(before) == len(after) == 4 and before[2:] != after[2:]:
        notes.append(f"patches resampled from {before[2]}×{before[3]} to {after[2]}×{after[3]}")


def _timm_filter(encoder: nn.Module, name: str) -> Callable[..., dict[str, torch.Tensor]] | None:
    """Return timm's function that fits a checkpoint to a model, None if the model has none."""
    from coordinator.model.torchvision_fix import timm

    module = sys.modules[timm.models.model_entrypoint(name).__module__] if timm.is_model(name) else None
    function: Callable[..., dict[str, torch.Tensor]] | None = getattr(module, "checkpoint_filter_fn", None)
    plain: Callable[..., dict[str, torch.Tensor]] = timm.models.vision_transformer.checkpoint_filter_fn
    if function is plain and "flexi" in name:
        return functools.partial(plain, interpolation="bilinear", antialias=False)
    if function is plain and "blocks.0.ls1.gamma" in encoder.state_dict():
        return functools.partial(plain, adapt_layer_scale=True)
    return function


def _fit_channels(
    tensors: dict[str, torch.Tensor], encoder: nn.Module, path: Path, notes: list[str]
) -> None:
    """Fit the first filters to the images' channels, in place: sum three colours for gray, repeat them for more."""
    from coordinator.model.torchvision_fix import timm

    state = encoder.state_dict()
    convolutions: Any = getattr(encoder, "pretrained_cfg", {}).get("first_conv") or ()
    for convolution in [convolutions] if isinstance(convolutions, str) else convolutions:
        weight, needed = tensors.get(f"{convolution}.weight"), state.get(f"{convolution}.weight")
        if weight is None or needed is None or weight.ndim != 4 or needed.ndim != 4:
            continue
        channels, images = weight.shape[1], needed.shape[1]
        if channels == images:
            continue
        if channels != _COLOURS:
            raise CipherwardError(
                f"{path} is for images of {counted(channels, 'channel')}, and these have {images}",
                "name another file of weights",
            )
        notes.append(f"first filters fitted from {channels} channels to {images}")
        tensors[f"{convolution}.weight"] = timm.models.adapt_input_conv(images, weight)


def _require_fit(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], name: str, path: Path
) -> None:
    """Raise CipherwardError, which names a tensor, unless the tensors are exactly the encoder's."""
    fits = sum(key in tensors and tensors[key].shape == value.shape for key, value in wanted.items())
    problems = [
        *(
            f"{key} is {_shape(tensors[key])}, and the model needs {_shape(value)}"
            for key, value in wanted.items()
            if key in tensors and tensors[key].shape != value.shape
        ),
        # Older files lack the counters of batch normalisation.
        *(f"{key} is missing" for key in wanted if key not in tensors and not key.endswith(COUNTER)),
        *(f"{key} is no tensor of the model" for key in tensors if key not in wanted),
    ]
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise CipherwardError(
            f"{path}: {fits} of {len(wanted)} encoder tensors fit {name}: {problems[0]}{more}", _ANOTHER
        )
    for key, value in wanted.items():
        if key in tensors and value.is_floating_point():
            _require_values(path, key, tensors[key], value.dtype)


def _require_values(path: Path, key: str, value: torch.Tensor, wanted: torch.dtype) -> None:
    """Raise CipherwardError if a tensor cannot be a weight of this type.

    Its own type is no plain float, all values of a matrix are zero, or a value is too large: one of float64, or a sum
    of three colours' filters, may be finite in the file and infinite in the model.
    """
    if value.dtype not in PLAIN_FLOATS:
        kind = str(value.dtype).removeprefix("torch.")
        raise CipherwardError(
            f"{path}: the tensor {key} is of type {kind}: quantised weights cannot be trained",
            "name the file of the full weights: float32, bfloat16 or float16",
        )
    if value.ndim > 1 and key.endswith(".weight") and not bool(value.any()):
        raise CipherwardError(
            f"{path}: the tensor {key} holds only zeros", "the file is not whole: fetch it again"
        )
    if not bool(torch.isfinite(value.to(wanted)).all()):
        kind = str(wanted).removeprefix("torch.")
        raise CipherwardError(
            f"{path}: the tensor {key} holds values that are too large for {kind}",
            "these weights come from a training that diverged, or are damaged: take another file",
        )


def _shape(value: torch.Tensor) -> str:
    return "×".join(map(str, value.shape)) or "one number"
