"""Bring the weights of a public checkpoint under timm's names, whichever of the known namings it has.

    timm                also DINO, MAE, MoCo and DeiT, which keep timm's names
    HuggingFace         ViT, DeiT and DINOv2 of transformers: encoder.layer.N.attention.attention.query
    torchvision         vit_b_16 and its like: encoder.layers.encoder_layer_N.self_attention.in_proj_weight

Before the names there may be any prefix: `model.` (Lightning), `module.` (DataParallel), `backbone.`, `encoder.`,
`vit.`, `teacher.backbone.` (DINO). It is found by the first convolution, whose name ends a known way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crypto.errors import CipherwardError

if TYPE_CHECKING:
    import torch

_HUGGINGFACE, _TORCHVISION = "HuggingFace", "torchvision"
#: The name of the patch embedding's weight in namings other than timm's.
_FOREIGN_STEMS = {
    "embeddings.patch_embeddings.projection.weight": _HUGGINGFACE,
    "conv_proj.weight": _TORCHVISION,
}
#: HuggingFace's names, and timm's. The first expressions come first.
_FROM_HUGGINGFACE = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
#: torchvision's names, and timm's.
_FROM_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
)
#: Which of several networks in one file is the encoder that the papers evaluate: DINO's and iBOT's teacher, MoCo's
#: base encoder.
_EVALUATED = ("teacher", "base_encoder")
_KNOWN = "known namings: timm, HuggingFace ViT, torchvision ViT, DINO, MAE, and each with a prefix such as model."


@dataclass(frozen=True)
class Renamed:
    """Weights under timm's names.

    Attributes:
        tensors: the encoder's weights, and a head's, by name.
        naming: whose names the file has, with its prefix: "HuggingFace, prefix vit.". "" for timm's own.
        outside: names of the file that do not begin with the prefix, such as a loss or a second network.
    """

    tensors: dict[str, torch.Tensor]
    naming: str
    outside: list[str]


def to_timm_names(
    tensors: Mapping[str, torch.Tensor], stem: str, model_names: Iterable[str], path: Path
) -> Renamed:
    """Return the weights of a checkpoint under timm's names.

    Args:
        tensors: the weights by the file's names.
        stem: timm's name of the model's first weight, such as patch_embed.proj.weight.
        model_names: the names of the model's weights.
        path: the file, for the messages.

    Raises:
        CipherwardError: if no name of the file is known, or the file holds several encoders.
    """
    prefix, naming = _find_prefix(tensors, stem, model_names, path)
    inside = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    outside = sorted(name for name in tensors if not name.startswith(prefix))
    rules = {_HUGGINGFACE: _FROM_HUGGINGFACE, _TORCHVISION: _FROM_TORCHVISION}.get(naming, ())
    renamed: dict[str, torch.Tensor] = {}
    for name, value in inside.items():
        new = name
        for expression, replacement in rules:
            new = re.sub(expression, replacement, new)
        if new in renamed:
            raise CipherwardError(f"{path}: two tensors are {new}, one of them {prefix}{name}", _KNOWN)
        renamed[new] = value
    words = ([f"{naming} names"] if naming else []) + ([f"prefix {prefix}"] if prefix else [])
    return Renamed(_merge_attention(renamed), ", ".join(words), outside)


def _find_prefix(
    names: Iterable[str], stem: str, model_names: Iterable[str], path: Path
) -> tuple[str, str]:
    """Return the prefix of the encoder's names in a file, and whose names they are ("" for timm's)."""
    endings = {stem: ""} | (_FOREIGN_STEMS if stem == "patch_embed.proj.weight" else {})
    names = list(names)
    found = {
        (name.removesuffix(ending), naming)
        for name in names
        for ending, naming in endings.items()
        if name == ending or name.endswith(f".{ending}")
    }
    # A residual network has convolutions within it that are named as its first.
    inner = [name.removesuffix(stem) for name in model_names if name.endswith(f".{stem}")]
    prefixes = {prefix for prefix, _ in found}
    found = {row for row in found if not any(row[0] == p + i for p in prefixes for i in inner)}
    preferred = {row for row in found if set(row[0].split(".")) & set(_EVALUATED)}
    if len(found) > 1 and len(preferred) == 1:
        found = preferred
    if len(found) == 1:
        return found.pop()
    if found:
        shown = ", ".join(sorted(repr(prefix) for prefix, _ in found))
        raise CipherwardError(
            f"{path} holds several encoders, under the prefixes {shown}",
            "write the one that you mean into a file of its own",
        )
    shown = ", ".join(repr(name[:60]) for name in sorted(names)[:3])
    raise CipherwardError(
        f"{path}: 0 encoder tensors loaded: none is named {stem}, and its names ({shown}, …) follow no known naming",
        _KNOWN,
    )


def _merge_attention(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights with query, key and value of each layer as one tensor, qkv, in that order along the rows."""
    import torch

    merged: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(.*\.attn\.)([qkv])\.(weight|bias)", name)
        parts = [f"{match[1]}{letter}.{match[3]}" for letter in "qkv"] if match else []
        same_width = all(p in tensors and tensors[p].shape[1:] == value.shape[1:] for p in parts)
        if match is None or not same_width:
            merged[name] = value
        elif match[2] == "q":
            merged[f"{match[1]}qkv.{match[3]}"] = torch.cat([tensors[part] for part in parts])
    return merged
