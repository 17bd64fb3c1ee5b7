"""Which of a model's weights are trained and travel, and the low-rank adapters that may stand in for an encoder's.

    share    encoder             head             stem
    all      trained, travels    trained, travels trained unless `stem_frozen`; travels unless stem `private`
    head     neither             as above         as above
    lora     adapters do both    as above         as above

What does not travel is the same in every hospital: it comes from the plan's public weights, or its seed. Source of
the adapters: LoRA (Hu et al. 2022, arXiv 2106.09685), through PEFT, an optional extra.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coordinator.exchange.plan import Plan
from crypto.errors import CipherwardError

_ADAPTED = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]  # the linear layers of a block of timm's ViT
_ADAPTER = ".lora_"  # in the names of an adapter's weights


def in_stem(name: str) -> bool:
    """Whether a weight belongs to the stem: the patch embedding and the positions. The class token does not."""
    return name == "pos_embed" or name.startswith("patch_embed.")


def in_adapter(name: str) -> bool:
    """Whether a weight belongs to a low-rank adapter."""
    return _ADAPTER in name


def _heads(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the head's weights. Raises CipherwardError for a model that does not say what its head is."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    heads = found if isinstance(found, tuple | list) else [found]
    names = tuple(f"{name}." for name, part in model.named_modules() if any(part is h for h in heads))
    if not names:
        raise CipherwardError(
            "share: the model does not say which of its layers is the head", "set share to all"
        )
    return names


def travelling(model: nn.Module, plan: Plan) -> list[str]:
    """Names of the weights that travel, in state-dict order."""
    names = [name for name in model.state_dict() if plan.stem != "private" or not in_stem(name)]
    if plan.share == "all":
        return names
    heads = _heads(model)
    return [name for name in names if in_stem(name) or in_adapter(name) or name.startswith(heads)]


def base_digest(model: nn.Module, plan: Plan) -> str:
    """Hex SHA-256 of the encoder's weights that do not travel, by which hospitals and coordinator know theirs equal.

    "" where all travels. A stem of a hospital's own is not in it. model: as build_model makes it, untrained.
    """
    if plan.share == "all":
        return ""
    digest, moving = hashlib.sha256(), set(travelling(model, plan))
    for name, value in model.state_dict().items():
        if name not in moving and not in_stem(name):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def prepare(model: nn.Module, plan: Plan) -> None:
    """Puts the plan's adapters on, and freezes what the plan does not train, in place.

    A frozen weight takes no gradient, so that neither steps nor weight decay move it; a frozen batch
    normalisation goes by the statistics that it came with, and learns no others.
    """
    if plan.share == "lora":
        _add_adapters(model, plan)
    heads = _heads(model) if plan.share != "all" else ()
    for name, weight in model.named_parameters():
        if in_stem(name):
            weight.requires_grad_(not plan.stem_frozen)
        else:
            weight.requires_grad_(plan.share == "all" or in_adapter(name) or name.startswith(heads))
    if plan.share != "all":
        for name, part in model.named_modules():
            learns = getattr(part, "running_mean", None) is not None
            if learns and not in_stem(name) and not name.startswith(heads):
                part.register_forward_pre_hook(_hold_still)


def _hold_still(module: nn.Module, given: object) -> None:
    module.training = False


def _add_adapters(model: nn.Module, plan: Plan) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # seconds to load, and nothing else needs it
    except ImportError:
        raise CipherwardError(
            "share lora needs PEFT, which is not here", "pip install -e '.[lora]'"
        ) from None
    settings: dict[str, Any] = {
        "r": plan.lora_rank,
        "lora_alpha": plan.lora_alpha,
        "target_modules": _ADAPTED,
    }
    # However many draws building the model took, the adapters start from the seed alone.
    torch.manual_seed(plan.seed)
    inject_adapter_in_model(LoraConfig(lora_dropout=0.0, bias="none", **settings), model)


def _adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, part) for name, part in model.named_modules() if hasattr(part, "get_base_layer"))


def merged(model: nn.Module) -> nn.Module:
    """The same model in ordinary layers under their ordinary names: a copy with its adapters merged into them.

    The model itself where it has no adapters.
    """
    if not any(True for _ in _adapted(model)):
        return model
    whole = copy.deepcopy(model)
    for name, part in list(_adapted(whole)):
        part.merge()  # type: ignore[operator]
        above, _, last = name.rpartition(".")
        setattr(whole.get_submodule(above), last, part.get_base_layer())  # type: ignore[operator]
    return whole


def missing_weights(plan: Plan) -> str:
    """The plan's public weights file, where one is named and not here; else nothing."""
    return plan.weights if plan.weights and not Path(plan.weights).is_file() else ""
