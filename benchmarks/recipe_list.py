"""The recipes that benchmarks/recipes.py tries: what each one changes, and what it begins with or learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from benchmarks.recovered_weights import Carried
from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build

#: What all recipes share: half of the blocks, and bfloat16, make a step four times as fast on the CPU at hand.
BASE: dict[str, Any] = {
    "parties": 3,
    "model": "vit_tiny_patch16_224",
    "model_args": {"patch_drop_rate": 0.5},
    "precision": "bfloat16",
    "rounds": 6,
    "batch": 16,
    "optimizer": "adamw",
    "lr": 4e-4,
    "weight_decay": 0.05,
    "warmup_steps": 20,
}
#: All images in one place, as the papers train.
_ALONE: dict[str, Any] = {"parties": 1}
#: AdamW starts afresh in every round: few rounds, of several epochs each.
_SHORT: dict[str, Any] = {**_ALONE, "rounds": 2, "local_epochs": 6}
_LONG: dict[str, Any] = {
    **_ALONE,
    "rounds": 2,
    "local_epochs": 12,
    "model_args": {},
    "augment": "flip_shift",
}
#: A training that begins with the weights of another one: its rate begins anew, then falls to zero again.
_AFTER: dict[str, Any] = {"rounds": 1, "local_epochs": 24, "batch": 8, "lr": 2e-4, "mixup": 0.2}
_FAST_POSITIONS: dict[str, Any] = {"position_lr_scale": 10.0}
_SLOW: dict[str, Any] = {"lr": 1e-4, "stem_lr_scale": 4.0}
#: What each recipe changes, by name.
RECIPES: dict[str, dict[str, Any]] = {
    "learn: three hospitals": {},
    "learn: three hospitals + encoder ×0.25": _SLOW,
    "learn: base": _ALONE,
    "learn: positions alike and ×10": {**_ALONE, **_FAST_POSITIONS, "positions": "alike"},
    "learn: batch 8": {**_ALONE, "batch": 8},
    "learn: 2 rounds of 6 epochs": _SHORT,
    "learn: 2 rounds of 6 epochs + rate 8e-4": {**_SHORT, "lr": 8e-4},
    "learn: 2 rounds of 6 epochs + stem ×3": {
        **_SHORT,
        "stem_lr_scale": 3.0,
    },
    "learn: 2 rounds of 12 epochs + all blocks + flips and shifts": {
        **_LONG,
    },
    "learn: 2 rounds of 12 epochs + all blocks + flips and shifts + batch 8 + rate 2e-4": {
        **_LONG,
        "batch": 8,
        "lr": 2e-4,
    },
    "learn: 2 rounds of 12 epochs + all blocks + flips and shifts + batch 8 + rate 2e-4 + mixup 0.2": {
        **_LONG,
        "batch": 8,
        "lr": 2e-4,
        "mixup": 0.2,
    },
    "learn: 2 rounds of 12 epochs + all blocks + flips and shifts + batch 8 + rate 2e-4 + mixup 0.2 + 128 px": {
        **_LONG,
        "batch": 8,
        "lr": 2e-4,
        "mixup": 0.2,
        "image_size": 128,
    },
    "learn: 2 rounds of 24 epochs + all blocks + flips and shifts + batch 8 + rate 2e-4 + mixup 0.2": {
        **_LONG,
        "local_epochs": 24,
        "batch": 8,
        "lr": 2e-4,
        "mixup": 0.2,
    },
    "learn: after 48 epochs: 24 more": {
        **_LONG,
        **_AFTER,
        "augment": "flip_shift",
    },
    "learn: after 48 epochs: 24 more + affine views": {
        **_LONG,
        **_AFTER,
        "augment": "flip_affine",
    },
    "learn: 3 rounds of 12 epochs + all blocks + affine views": {
        **_ALONE,
        "rounds": 3,
        "local_epochs": 12,
        "model_args": {},
        "augment": "flip_affine",
    },
    "learn: 2 rounds of 20 epochs + flips and shifts": {
        **_ALONE,
        "rounds": 2,
        "local_epochs": 20,
        "augment": "flip_shift",
    },
    "learn: 1 round of 20 epochs + all blocks + mixup 0.2": {
        **_ALONE,
        "rounds": 1,
        "local_epochs": 20,
        "model_args": {},
        "mixup": 0.2,
    },
    "learn: 2 rounds of 6 epochs + batch 8 + rate 2e-4": {
        **_SHORT,
        "lr": 2e-4,
        "batch": 8,
    },
    "learn: recovered pixels + 2 rounds of 6 epochs": _SHORT,
    "learn: recovered places + 2 rounds of 6 epochs": _SHORT,
    "learn: recovered key + 2 rounds of 6 epochs": _SHORT,
    "learn: recovered key + three hospitals + all blocks + batch 8 + rate 1e-4 + 10 rounds + flips and shifts": {
        "model_args": {},
        "batch": 8,
        "lr": 1e-4,
        "rounds": 10,
        "augment": "flip_shift",
    },
    "learn: distilled + 2 rounds of 12 epochs + all blocks + flips and shifts + batch 8 + rate 2e-4 + mixup 1": {
        **_LONG,
        "batch": 8,
        "lr": 2e-4,
        "mixup": 1.0,
    },
    "learn: distilled features from its teacher + 2 rounds of 12 epochs + all blocks + flips and shifts + batch 8 + "
    "rate 2e-4 + mixup 0.2": {
        **_LONG,
        "batch": 8,
        "lr": 2e-4,
        "mixup": 0.2,
    },
    "learn: distilled features + three hospitals + 8 rounds of 3 epochs + all blocks + flips and shifts + batch 8 + "
    "mixup 0.2": {
        "model_args": {},
        "rounds": 8,
        "local_epochs": 3,
        "augment": "flip_shift",
        "batch": 8,
        "mixup": 0.2,
    },
    "plain: base": {},
    "plain: layers ×0.75 + rate 1e-3 + smoothing + mixup + flips + 12 rounds": {
        "layer_decay": 0.75,
        "lr": 1e-3,
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "augment": "flip_shift",
        "rounds": 12,
    },
    "plain: all blocks + batch 8 + rate 1e-4 + 10 rounds + flips and shifts": {
        "model_args": {},
        "batch": 8,
        "lr": 1e-4,
        "rounds": 10,
        "augment": "flip_shift",
    },
    "plain: all blocks + batch 8 + rate 1e-4 + 12 rounds + flips and shifts + mixup 0.2": {
        "model_args": {},
        "batch": 8,
        "lr": 1e-4,
        "rounds": 12,
        "augment": "flip_shift",
        "mixup": 0.2,
    },
    "plain: batch 8 + 15 rounds + flips and shifts": {"batch": 8, "rounds": 15, "augment": "flip_shift"},
}
#: The recipes that begin with weights carried by a recovered key, and what of them is carried.
BEGUN: dict[str, Carried] = {
    name: what
    for name in RECIPES
    for what in get_args(Carried)
    if name.startswith(f"learn: recovered {what}")
}
#: The recipes that learn the outputs of the best weights of another recipe, which has to be kept for seed 0.
TAUGHT: dict[str, str] = {
    name: "plain: all blocks + batch 8 + rate 1e-4 + 10 rounds + flips and shifts"
    for name in RECIPES
    if name.startswith("learn: distilled")
}
#: The recipes that begin with the best weights of another recipe, which has to be kept: of the same seed, or of the
#: first one if that is their teacher. The head is new, as in a study whose plan names the model of an earlier one.
AFTER: dict[str, str] = {
    name: "learn: 2 rounds of 24 epochs + all blocks + flips and shifts + batch 8 + rate 2e-4 + mixup 0.2"
    for name in RECIPES
    if name.startswith("learn: after 48 epochs")
} | {name: teacher for name, teacher in TAUGHT.items() if "from its teacher" in name}
#: The recipes of TAUGHT whose student learns what each block of the teacher gives, and not its outputs alone.
FEATURES = frozenset(name for name in TAUGHT if name.startswith("learn: distilled features"))


def plan_of(name: str, seed: int, data: Path) -> Plan:
    """Return the plan of a recipe."""
    is_learnt = name.startswith("learn")
    values = {**BASE, **RECIPES[name], "study": "recipes", "seed": seed, "counts": (9, 9, 9)}
    values |= {"scheme": "block_pixel_shuffle", "stem": "learn" if is_learnt else "plain"}
    values["weights"] = str(data / "vit_tiny_patch16_224.safetensors")
    return build(Plan, values, name)
