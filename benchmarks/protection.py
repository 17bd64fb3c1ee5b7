"""Measure what each protection of the updates buys, by attacks on what the cloud holds, and what it costs.

    python -m benchmarks.protection --data FOLDER [--parts step,training,cost] [--seeds 3] [--json FILE]

FOLDER holds pneumoniamnist.npz, brain_mri/ and vit_tiny_patch16_224.safetensors. Three hospitals train under no
protection, under secure aggregation, under DP-SGD at epsilon 8, 3 and 1, and under both. The sum is that of the real
protocol, DP-SGD is that of parties/training/private_training.py, and the adversary is the cloud.

step      A first round of one SGD step, all weights shared, stem plain: the setting in which updates show most.
          pneumonia: ViT for 28×28 pixels, from scratch; mri: ViT-Ti/16 at 224×224, public weights.
          "solved" counts images that the linear solve recovers and a replayed training confirms, one image in each
          hospital. "confirmed" counts candidates that the attack `updates` finds in the update, with one image and
          with 16 in each hospital. The gradient match orders the same candidates by the cosine of the update and each
          candidate's own gradient: unlike the attack, it also works under noise.
training  A whole training, and the attack `membership` on the updates of the last round. pneumonia: as above; mri:
          share head on the frozen public encoder's outputs. Other images are of the same source and as many. mri:
          each protection trains by the recipe of benchmarks/privacy_accuracy.py that is best on validation images
          with seed 0. Epsilon does not cover this choice.
cost      Seconds of a core and bytes of a round of the same training, once.

No search by optimisation is made (benchmarks/updates.py measures it). Each data set, part, protection and seed is a
file in --out; what is there is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks import table1_data
from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from benchmarks.pages.protection import protection as as_lines
from benchmarks.privacy_accuracy import Recipe, read_inputs, recipes, start_model
from benchmarks.protection_attacks import (
    BATCH,
    SMALL,
    Record,
    measure_step,
    measure_training,
    model_settings,
)
from benchmarks.protection_training import DELTA, HOSPITALS, PROTECTIONS, Protection
from coordinator.exchange.plan import Plan
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack, unpack
from coordinator.report.build import machine
from crypto.arrays import Float32Array

SCHEMA = "cipherward.protection/1"
DATA = ("pneumonia", "mri")
#: Images of the part step that are drawn from, by data set; its seeds.
_DRAWN = 400
#: Images of val that the small ViT is trained on before the part step.
_WARM_IMAGES = 500
#: Members of the part training, and as many others.
_MEMBERS = {"pneumonia": 300, "mri": 798}
_TRAINING: dict[str, Record] = {
    "pneumonia": {"rounds": 10, "local_epochs": 10, "batch": 20, "optimizer": "adamw", **SMALL},
    "mri": {"rounds": 10, "momentum": 0.9, "share": "head", "stem_frozen": True},
}
_SMALL_RATE = 1e-3


def draw(images: PlainImages, count: int, seed: int) -> tuple[PlainImages, PlainImages]:
    """Return `count` images at random, and as many others."""
    order = np.random.default_rng([seed, 0]).permutation(len(images.labels))
    first, second = order[:count], order[count : 2 * count]
    return (
        PlainImages(images.images[first], images.labels[first]),
        PlainImages(images.images[second], images.labels[second]),
    )


def _as_settings(recipe: Recipe, protection: Protection) -> Record:
    """Return the settings of a plan that trains by a recipe."""
    settings: Record = {"local_epochs": recipe.passes, "batch": recipe.batch, "lr": recipe.lr}
    return settings | ({"clip": recipe.norm} if protection.epsilon is None else {"norm": recipe.norm})


class Bench:
    """The data, and the cells that are measured already.

    Args:
        data: the folder of real images.
        out: the folder of the cells.
        console: gets a line for each cell.
    """

    def __init__(self, data: Path, out: Path, console: Console) -> None:
        self._data, self._out, self._console = data, out, console
        self._splits: dict[str, dict[str, PlainImages]] = {}
        out.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Return whether a cell is measured already."""
        return (self._out / f"{name}.json").exists()

    def cell(self, name: str, work: Callable[[], Record]) -> Record:
        """Return a cell from its file, or measure it and write the file."""
        path = self._out / f"{name}.json"
        if not self.has(name):
            record = work()
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(record))
            draft.rename(path)
            self._console.print(name, record)
        stored: Record = json.loads(path.read_text())
        return stored

    def step(self, name: str, protection: Protection, seed: int) -> Record:
        """Measure one step of one protection."""
        size = 28 if name == "pneumonia" else 224
        if f"step {name}" not in self._splits:
            splits = table1_data.read(self._data, name, size, (_DRAWN, _WARM_IMAGES, 1))
            self._splits[f"step {name}"] = splits
        splits, settings = self._splits[f"step {name}"], model_settings(name, self._data)
        # Inputs of an untrained model's last block are almost alike, so that the attack confirms strangers there.
        start = self._warm_start() if name == "pneumonia" else None
        return measure_step(protection, settings, splits["train"], start, seed)

    @cache  # noqa: B019 - one object for the whole run
    def _warm_start(self) -> Float32Array:
        """Return weights of the small ViT after a training on the validation images."""
        val = self._splits["step pneumonia"]["val"]
        settings = {**_TRAINING["pneumonia"], "rounds": 1, "local_epochs": 20}
        plan = PROTECTIONS[0].plan(**settings, lr=_SMALL_RATE)
        model = build_model(plan, int(val.labels.max()) + 1)
        train_locally(model, val, plan, 1, "warm start")
        return pack(model)

    def training(self, name: str, protection: Protection, seed: int) -> Record:
        """Measure a whole training of one protection."""
        if name == "pneumonia":
            return self._train(name, protection, seed, {"lr": _SMALL_RATE}, "test") | {"lr": _SMALL_RATE}
        rates: dict[Recipe, float] = {}
        for recipe in recipes(protection.epsilon):
            cell = f"{name}-rate-{protection.name}-{recipe.batch}-{recipe.passes}-{recipe.norm}-{recipe.lr}"
            settings = _as_settings(recipe, protection)
            record = self.cell(cell, partial(self._train, name, protection, 0, settings, "val"))
            rates[recipe] = float(record["accuracy"]["rate"])
        best = max(rates, key=lambda recipe: rates[recipe])
        return self._train(name, protection, seed, _as_settings(best, protection), "test") | asdict(best)

    def cost(self, name: str, protection: Protection, seed: int) -> Record:
        """Measure seconds and bytes of a round."""
        settings: Record = {"lr": _SMALL_RATE}
        if name == "mri":
            settings = _as_settings(recipes(protection.epsilon)[0], protection)
        record = self._train(name, protection, seed, settings, "val", rounds=3)
        return {key: record[key] for key in ("round seconds", "round bytes", "parameters")}

    def _train(
        self, name: str, protection: Protection, seed: int, settings: Record, split: str, **changes: Any
    ) -> Record:
        splits = self._training_splits(name)
        members, others = draw(splits["train"], _MEMBERS[name], seed)
        plan = protection.plan(**{**_TRAINING[name], **settings, **changes}, seed=seed)
        torch.manual_seed(seed)
        return measure_training(plan, self._model(name, plan, members), members, others, splits[split])

    def _model(self, name: str, plan: Plan, members: PlainImages) -> nn.Module:
        classes = int(members.labels.max()) + 1
        if name == "pneumonia":
            return build_model(plan, classes)
        weights = str(self._data / "vit_tiny_patch16_224.safetensors")
        model, first = start_model("head", weights, plan.seed)
        unpack(model, first)
        return model

    def _training_splits(self, name: str) -> dict[str, PlainImages]:
        """Return the images of every split; those of mri as the frozen encoder's outputs."""
        if name not in self._splits:
            if name == "mri":
                splits = {s: read_inputs(self._data, s, "head", self._out) for s in table1_data.SPLITS}
            else:
                splits = table1_data.read(self._data, name, 28, (0, 0, 0))
            self._splits[name] = splits
        return self._splits[name]


def measure(
    bench: Bench, parts: list[str], names: list[str], seeds: int, only_kept: bool = False
) -> Iterator[Record]:
    """Yield the record of every cell, seed by seed; with `only_kept` of those that are there, and run nothing."""
    for seed in range(seeds):
        for part in parts:
            if part == "cost" and seed:
                continue
            work = {"step": bench.step, "training": bench.training, "cost": bench.cost}[part]
            for name in names:
                for protection in PROTECTIONS:
                    cell = f"{name}-{part}-{protection.name}-{seed}"
                    if only_kept and not bench.has(cell):
                        continue
                    record = bench.cell(cell, partial(work, name, protection, seed))
                    about: dict[str, Any] = {"data": name, "part": part, "protection": protection.name}
                    yield {**about, "seed": seed, **record}


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--parts", default="step,training,cost", help="what to measure")
    parser.add_argument("--sets", default=",".join(DATA), help="data sets")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every cell, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/protection"), help="where cells are kept")
    parser.add_argument(
        "--only-kept", action="store_true", help="run nothing: print the cells that are there"
    )
    add_json(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that seconds compare
    bench = Bench(args.data, args.out, Console(stderr=True))
    parts, sets = split_list(args.parts), split_list(args.sets)
    records = list(measure(bench, parts, sets, args.seeds, args.only_kept))
    result = {
        "schema": SCHEMA,
        "machine": machine(),
        "settings": {
            "protections": [protection.name for protection in PROTECTIONS],
            "hospitals": HOSPITALS,
            "delta": DELTA,
            "batch": BATCH,
            "members": _MEMBERS,
            "training": _TRAINING,
        },
        "records": records,
    }
    print("\n".join(as_lines(result)))
    write_figures(args.json, result)


if __name__ == "__main__":
    main()
