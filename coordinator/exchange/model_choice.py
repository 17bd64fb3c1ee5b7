"""Which models, and which arguments of them, a plan or a saved model may name.

timm takes more than names of networks. `hf-hub:NAME` fetches a configuration from a network, `local-dir:PATH` reads a
folder, and arguments such as `pretrained`, `checkpoint_path` or `cache_dir` name files and downloads. Plans and saved
models come from others, so only plain names pass, and only arguments from an allow-list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from crypto.errors import CipherwardError

#: A network of timm, with a tag or without one, or one of published_networks.py. No address or path has this form.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,99}", re.ASCII)
#: Arguments that follow from other settings of a study, and timm's ways to reach files and networks.
_SET_BY_THE_STUDY = frozenset(
    {
        *("num_classes", "in_chans", "img_size", "features_only", "checkpoint_path", "cache_dir"),
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    }
)
#: Arguments that change only the shape of a network, its initial weights and its dropout.
_ALLOWED = frozenset(
    {
        # timm's Vision Transformers
        *("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "qk_norm", "proj_bias"),
        *(
            "init_values",
            "class_token",
            "pos_embed",
            "no_embed_class",
            "reg_tokens",
            "pre_norm",
            "final_norm",
        ),
        *("fc_norm", "weight_init", "fix_init", "norm_layer", "act_layer"),
        *("pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
        # timm's networks in general
        *("global_pool", "drop_rate", "drop_path_rate"),
        # published_networks.py
        *("alpha", "alive", "adapt", "adapt_block", "stem_stride"),
        # order_free.py
        *("statistic", "positions"),
    }
)
#: No published network is larger (ViT-22B is 48 deep and 6144 wide): absurd sizes would use up a hospital's memory.
_MOST = {
    "depth": 256,
    "embed_dim": 16384,
    "num_heads": 1024,
    "mlp_ratio": 64,
    "reg_tokens": 4096,
    "alpha": 4096,
}


_SWITCHES = frozenset({"yes", "no", "on", "off", "true", "false"})


def check_model_name(name: str) -> None:
    """Raise CipherwardError if a model's name could be an address, a path or a hub."""
    if not _NAME.fullmatch(name) or name.lower().startswith(("hf_hub", "local_dir")):
        raise CipherwardError(
            f"model: {name[:100]!r} is not the name of a network; hubs, addresses and paths are refused",
            "name one of timm's networks, such as vit_tiny_patch16_224, and a local file of weights",
        )


def _is_number_or_switch(text: str) -> bool:
    """Return whether a text reads as a number or a switch. To Python every text is true, 'no' as well."""
    try:
        float(text)
    except ValueError:
        return text.lower() in _SWITCHES
    return True


def check_model_args(values: Mapping[str, object]) -> None:
    """Raise CipherwardError if an argument is the study's, not on the allow-list, or of a wrong size or type."""
    chosen = set(values)
    if reserved := sorted(_SET_BY_THE_STUDY & chosen):
        raise CipherwardError(
            f"model_args: {reserved[0]} is set by the study",
            "classes and channels come from the images, the size from image_size, the weights from weights",
        )
    if extra := sorted(chosen - _ALLOWED):
        raise CipherwardError(
            f"model_args: {extra[0][:100]!r} is not an argument that a study may set",
            f"known: {', '.join(sorted(_ALLOWED))}",
        )
    for name, value in values.items():
        if isinstance(value, str) and _is_number_or_switch(value):
            raise CipherwardError(
                f"model_args: {name} is the text {value[:40]!r}",
                "write it without quotes; 1.0e-1 is a number, 1e-1 a text",
            )
    for name, most in _MOST.items():
        value = values.get(name, 0)
        if isinstance(value, bool):
            raise CipherwardError(f"model_args: {name} is {value}, and it is a number", "write the number")
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise CipherwardError(
                f"model_args: {name} is {value:g}, and a network may have from 0 to {most}",
                "name one of timm's networks, or smaller sizes",
            )
