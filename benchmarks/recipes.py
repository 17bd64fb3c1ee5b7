"""What makes a pretrained ViT learn ciphertext better, and what makes plain fine-tuning better: recipes tried on val.

    python -m benchmarks.recipes [--recipes "learn: base,plain: base,…"] [--seeds 1] [--hours 1]
        [--out runs/recipes] [--json FILE]

The folder of the data is $CIPHERWARD_DATA, or --folder: brain_mri/ and vit_tiny_patch16_224.safetensors. A recipe is
a plan of three hospitals that train by federated averaging, or of one place that has all images, here in one process.
`learn` recipes train on images that block_pixel_shuffle sealed, `plain` ones on plain images: under stem `private`
the federation computes the same up to float rounding. The test images are never read. Finished recipes are kept in
--out, and a stopped one continues from its last round.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import add_folder, add_json, make_parser, run_on_folder, split_list
from benchmarks.table1_data import read
from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build
from coordinator.model.training import PlainImages, use_all_cores
from coordinator.report.build import machine
from crypto.errors import unknown
from crypto.files import append_line, disk_errors, folder_lock, read_lines, write_json
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from crypto.scheme import load
from parties.training.baseline import train_plain

SCHEMA = "cipherward.recipes/1"
#: What all recipes share: half of the blocks, and bfloat16, make a step four times as fast on the CPU at hand.
_BASE: dict[str, Any] = {
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
_FAST_POSITIONS: dict[str, Any] = {"position_lr_scale": 10.0}
_SLOW: dict[str, Any] = {"lr": 1e-4, "stem_lr_scale": 4.0}
#: What each recipe changes, by name.
RECIPES: dict[str, dict[str, Any]] = {
    "learn: three hospitals": {},
    "learn: three hospitals + encoder ×0.25": _SLOW,
    "learn: base": _ALONE,
    "learn: all blocks": {**_ALONE, "model_args": {}},
    "learn: encoder ×0.25": {**_ALONE, **_SLOW},
    "learn: stem ×3": {**_ALONE, "stem_lr_scale": 3.0},
    "learn: stem ×10": {**_ALONE, "stem_lr_scale": 10.0},
    "learn: positions alike": {**_ALONE, "positions": "alike"},
    "learn: positions ×10": {**_ALONE, **_FAST_POSITIONS},
    "learn: positions alike and ×10": {**_ALONE, **_FAST_POSITIONS, "positions": "alike"},
    "learn: frozen 1": {**_ALONE, "frozen_rounds": 1},
    "learn: warm-up 100": {**_ALONE, "warmup_steps": 100},
    "learn: batch 8": {**_ALONE, "batch": 8},
    "learn: batch 32": {**_ALONE, "batch": 32},
    "learn: rate 8e-4": {**_ALONE, "lr": 8e-4},
    "learn: mixup 0.2": {**_ALONE, "mixup": 0.2},
    "learn: SGD 0.03": {**_ALONE, "optimizer": "sgd", "lr": 0.03, "weight_decay": 0.0},
    "learn: SGD 0.3": {**_ALONE, "optimizer": "sgd", "lr": 0.3, "weight_decay": 0.0},
    "learn: 15 rounds": {**_ALONE, "rounds": 15},
    # AdamW starts afresh in every round.
    "learn: 2 rounds of 6 epochs": {**_ALONE, "rounds": 2, "local_epochs": 6},
    "learn: 2 rounds of 6 epochs + positions ×10": {
        **_ALONE,
        **_FAST_POSITIONS,
        "rounds": 2,
        "local_epochs": 6,
    },
    "learn: 15 rounds + all blocks": {**_ALONE, "rounds": 15, "model_args": {}},
    "plain: base": {},
    "plain: all blocks": {"model_args": {}},
    "plain: flips and shifts": {"augment": "flip_shift"},
    "plain: layers ×0.75": {"layer_decay": 0.75},
    "plain: mixup 0.2": {"mixup": 0.2},
    "plain: batch 8": {"batch": 8},
    "plain: batch 8 + rate 1e-4": {"batch": 8, "lr": 1e-4},
    "plain: layers ×0.75 + rate 1e-3 + smoothing + mixup + flips + 12 rounds": {
        "layer_decay": 0.75,
        "lr": 1e-3,
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "augment": "flip_shift",
        "rounds": 12,
    },
    "plain: batch 8 + 15 rounds": {"batch": 8, "rounds": 15},
    "plain: batch 8 + 15 rounds + flips and shifts": {"batch": 8, "rounds": 15, "augment": "flip_shift"},
}


def plan_of(name: str, seed: int, data: Path) -> Plan:
    """Return the plan of a recipe."""
    is_learnt = name.startswith("learn")
    values = {**_BASE, **RECIPES[name], "study": "recipes", "seed": seed, "counts": (9, 9, 9)}
    values |= {"scheme": "block_pixel_shuffle", "stem": "learn" if is_learnt else "plain"}
    values["weights"] = str(data / "vit_tiny_patch16_224.safetensors")
    return build(Plan, values, name)


def deal(images: PlainImages, seed: int, hospitals: int) -> list[tuple[str, PlainImages]]:
    """Return the images of each hospital, dealt evenly at random."""
    parts = np.array_split(np.random.default_rng(seed).permutation(len(images.labels)), hospitals)
    return [(f"hospital-{i}", PlainImages(images.images[p], images.labels[p])) for i, p in enumerate(parts)]


def try_recipe(name: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """Train one recipe, from its last round on, and return its figures on val."""
    plan = plan_of(name, seed, data)
    splits = read(data, "mri", plan.image_size, (0, 0, 1))
    key_path = out / "secret.key"  # one key for all recipes: they differ in nothing but their settings
    if not key_path.exists():
        write_key(key_path, SecretKey.generate())
    if plan.stem == "learn":
        cipher = load(plan.describe()).cipher(read_key(key_path))
        splits = {s: PlainImages(cipher.encrypt(part.images), part.labels) for s, part in splits.items()}
    place = out / f"{'-'.join(name.replace(':', '').split())}-{seed}.safetensors"
    classes = 1 + int(splits["train"].labels.max())
    _, val, seconds = train_plain(
        plan,
        deal(splits["train"], seed, plan.parties),
        splits["val"],
        classes,
        place,
        lambda line: print(" ", line, flush=True),
    )
    place.unlink()
    return {
        "recipe": name,
        "seed": seed,
        "changes": RECIPES[name],
        "rounds": plan.rounds,
        "val": val,
        "best": max(val),
        "images": [len(splits[s].labels) for s in ("train", "val")],
        "seconds": seconds,
    }


def run(options: argparse.Namespace) -> None:
    """Try the recipes that are not kept yet, as far as the time allows, and write all figures."""
    names = options.recipes or list(RECIPES)
    if wrong := [name for name in names if name not in RECIPES]:
        raise unknown("recipe", wrong[0], RECIPES)
    with disk_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    use_all_cores()
    kept, until = options.out / "recipes.jsonl", time.time() + 3600 * options.hours
    with folder_lock(options.out):
        for seed in range(options.seeds):
            for name in names:
                done = {(line["recipe"], line["seed"]) for line in read_lines(kept)}
                if (name, seed) not in done and time.time() < until:
                    print(f"{name}, seed {seed}", flush=True)
                    append_line(kept, json.dumps(try_recipe(name, seed, options.folder, options.out)))
        lines = read_lines(kept)
    if options.json:
        write_json(options.json, {"schema": SCHEMA, "machine": machine(), "base": _BASE, "recipes": lines})


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_folder(parser)
    parser.add_argument("--recipes", type=split_list, default=[], help="recipes by name; all by default")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each recipe, from 0")
    parser.add_argument("--hours", type=float, default=1.0, help="time after which no recipe is begun")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of the figures")
    add_json(parser)
    run_on_folder(parser.parse_args(), run)


if __name__ == "__main__":
    main()
