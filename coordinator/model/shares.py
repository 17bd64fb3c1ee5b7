"""Which weights of a model are trained and sent (the plan's `share`), and low-rank adapters (LoRA) for the encoder.

    share    encoder              head                stem
    all      trained and sent     trained and sent    trained unless `stem_frozen`; sent unless stem `private`
    head     neither              as above            as above
    lora     only adapters, both  as above            as above

Weights that are not sent are the same in every hospital: they come from the plan's public weights, or from its seed.
Source of the adapters: LoRA (Hu et al. 2022, arXiv 2106.09685), through PEFT, an optional extra.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coordinator.exchange.plan import Plan
from crypto.arrays import BoolArray
from crypto.errors import CipherwardError

#: Part of the name of every adapter weight.
_ADAPTER_MARK = ".lora_"
#: A counter of batch normalisation: how many batches it has seen. No output depends on it here.
COUNTER = "num_batches_tracked"
#: The variances that batch normalisation keeps.
_VARIANCE = ".running_var"


def in_stem(name: str) -> bool:
    """Return whether a weight belongs to the stem: patch embedding and positions, but not the class token."""
    return name == "pos_embed" or name.startswith("patch_embed.")


def in_adapter(name: str) -> bool:
    """Return whether a weight belongs to a low-rank adapter."""
    return _ADAPTER_MARK in name


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the name prefixes of the head's weights. Raise CipherwardError if the model does not name its head."""
    classifier: Any = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple | list) else [classifier]
    prefixes = tuple(f"{name}." for name, part in model.named_modules() if any(part is h for h in heads))
    if not prefixes:
        raise CipherwardError(
            "share: the model does not say which of its layers is the head", "set share to all"
        )
    return prefixes


def variances(model: nn.Module, names: Sequence[str]) -> BoolArray:
    """Return which of the named weights, as `pack` puts them in a vector, are variances of batch normalisation."""
    state = model.state_dict()
    return np.concatenate([np.full(state[name].numel(), name.endswith(_VARIANCE)) for name in names])


def shared_names(model: nn.Module, plan: Plan) -> list[str]:
    """Return the names of the weights that are sent, in state-dict order.

    Under share `all` these are all weights. Under stem mode `private` the stem is never among them. The counters of
    batch normalisation never are: they grow by one each step, and would outweigh the weights in the norm of an update
    and in the distances of krum.

    Args:
        model: as build_model returns it for this plan.
        plan: gives `share` and `stem`.
    """
    names = [
        name
        for name in model.state_dict()
        if not name.endswith(COUNTER) and (plan.stem != "private" or not in_stem(name))
    ]
    if plan.share == "all":
        return names
    heads = head_prefixes(model)
    return [name for name in names if in_stem(name) or in_adapter(name) or name.startswith(heads)]


def base_digest(model: nn.Module, plan: Plan) -> str:
    """Return the hex SHA-256 of the encoder weights that are not sent, or "" if all are sent.

    Hospitals and coordinator compare it, to know that their encoders are equal. A hospital's private stem is not part
    of it.

    Args:
        model: as build_model returns it for this plan, untrained.
        plan: gives `share` and `stem`.
    """
    if plan.share == "all":
        return ""
    digest, shared = hashlib.sha256(), set(shared_names(model, plan))
    for name, value in model.state_dict().items():
        if name not in shared and not in_stem(name):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def apply_share(model: nn.Module, plan: Plan) -> None:
    """Add the plan's adapters to a model, and freeze the weights that the plan does not train, in place.

    A frozen weight takes no gradient, so neither steps nor weight decay move it. A frozen batch normalisation keeps
    using its initial statistics, and learns no others.

    Under differential privacy the head begins at zero, if the encoder does not learn with it: a random head would
    have to be unlearnt first, through the noise.
    """
    if plan.share == "lora":
        _add_adapters(model, plan)
    heads = head_prefixes(model) if plan.share != "all" else ()
    for name, weight in model.named_parameters():
        if in_stem(name):
            weight.requires_grad_(not plan.stem_frozen)
        else:
            weight.requires_grad_(plan.share == "all" or in_adapter(name) or name.startswith(heads))
        if plan.privacy.is_on and heads and name.startswith(heads):
            nn.init.zeros_(weight)
    if plan.share != "all":
        for name, part in model.named_modules():
            has_statistics = getattr(part, "running_mean", None) is not None
            if has_statistics and not in_stem(name) and not name.startswith(heads):
                part.register_forward_pre_hook(_use_frozen_statistics)


def _use_frozen_statistics(module: nn.Module, _inputs: object) -> None:
    """Leave training mode before each call, so that a batch normalisation does not update its statistics."""
    module.training = False


def _add_adapters(model: nn.Module, plan: Plan) -> None:
    """Add low-rank adapters to the plan's linear layers of the encoder's last blocks, or of all blocks.

    Raises:
        CipherwardError: if PEFT is not installed, or if the plan names more blocks than the model has.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds to load, and is an extra
    except ImportError:
        raise CipherwardError(
            "share lora needs PEFT, which is not installed", "run: pip install -e '.[lora]'"
        ) from None
    depth = len(model.blocks)  # type: ignore[arg-type]  # a ViT: a list of blocks
    if plan.lora_blocks > depth:
        raise CipherwardError(
            f"lora_blocks {plan.lora_blocks}: {plan.model} has {depth} blocks",
            f"set lora_blocks to {depth} or less; 0 means all",
        )
    blocks = range(depth - plan.lora_blocks if plan.lora_blocks else 0, depth)
    settings: dict[str, Any] = {
        "r": plan.lora_rank,
        "lora_alpha": plan.lora_alpha,
        "target_modules": [f"blocks.{block}.{layer}" for block in blocks for layer in plan.lora_layers],
    }
    # The adapters depend on the seed only, not on how many random numbers the model took.
    torch.manual_seed(plan.seed)
    inject_adapter_in_model(LoraConfig(lora_dropout=0.0, bias="none", **settings), model)


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the name and the layer, one of PEFT's, of each layer that has an adapter."""
    return ((name, part) for name, part in model.named_modules() if hasattr(part, "get_base_layer"))


def merge_adapters(model: nn.Module) -> nn.Module:
    """Return a copy with the adapters merged into ordinary layers, under the ordinary names of weights.

    A model without adapters is returned itself.
    """
    if not any(True for _ in _adapted_layers(model)):
        return model
    merged = copy.deepcopy(model)
    for name, layer in list(_adapted_layers(merged)):
        layer.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(merged.get_submodule(parent), attribute, layer.get_base_layer())
    return merged


def missing_weights(plan: Plan) -> str:
    """Return the path of the plan's public weights file if the plan names one that is not here, else ""."""
    return plan.weights if plan.weights and not Path(plan.weights).is_file() else ""
