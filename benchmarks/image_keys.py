"""What a key for every image leaves to learn: accuracy of each scheme by the network that suits it, on real images.

    python -m benchmarks.image_keys [--data pneumonia,mri,cifar] [--rows plain,le,…] [--seeds 3] [--hours 1]
        [--json FILE]

The folder of the data is $CIPHERWARD_DATA, or --folder. A cell trains one network from scratch on one data set, with
the training code of a study. Every image, of train, val and test alike, has a key of its own. The best epoch is
chosen on val, and the test images are read once.

The network is `order_free_vit` (coordinator/model/order_free.py) with the statistic that the scheme leaves unchanged.
Rows `plain` show what the same network reaches where nothing is hidden: `plain` sees blocks in their places,
`plain sorted` sees what block_pixel_shuffle leaves. `histogram` sees one histogram of each whole image. `noise` is
sealed by a keystream of its own for each image: nothing can be learnt from it, and its accuracy is chance's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command_line import add_folder, add_json, add_names, make_parser, run_on_folder
from benchmarks.table1 import best_figures, train_epoch
from benchmarks.table1_data import CHANNELS, read
from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build
from coordinator.federation.rounds import State
from coordinator.model.training import PlainImages, use_all_cores
from coordinator.model.vit import build_model, pack
from coordinator.report.build import machine
from crypto.errors import unknown
from crypto.files import append_line, disk_errors, folder_lock, read_lines, write_json
from crypto.key import SecretKey
from crypto.scheme import load

SCHEMA = "cipherward.image-keys/1"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        scheme: what seals the images; "plain": nothing.
        statistic: what the network reads of a block; "": one histogram of the whole image.
        positions: whether it knows where a block is.
        why: what the scheme leaves under a key for every image.
    """

    scheme: str
    statistic: str
    positions: bool
    why: str


ROWS = {
    "plain": Row("plain", "values", True, "everything"),
    "plain sorted": Row("plain", "sorted", False, "the bag of blocks, each a bag of values"),
    "histogram": Row("plain", "", False, "one histogram of the image"),
    "pe": Row("pe", "absolute", True, "how far every value is from 127.5, in its place"),
    "etc": Row("etc", "signed", False, "the bag of blocks, up to turns and negatives"),
    "block_pixel_shuffle": Row("block_pixel_shuffle", "sorted", False, "as plain sorted"),
    "value_shuffle": Row("value_shuffle", "mixed", False, "as plain sorted, but colours are mixed"),
    "block_pixel": Row(
        "block_pixel", "folded", False, "the bag of blocks, each a bag of distances from 127.5"
    ),
    "le": Row("le", "nibbles", True, "the bag of folded nibbles of each block, in its place"),
    "ele": Row("ele", "nibbles", False, "the bag of blocks, each a bag of folded nibbles"),
    "orthogonal": Row("orthogonal", "gram", True, "inner products of all blocks, in their places"),
    "noise": Row("noise", "values", True, "nothing"),
}
#: Image side, block side, images of train, val and test (0: all), epochs, batch, learning rate, number format.
DATA: dict[str, dict[str, Any]] = {
    "pneumonia": {"image_size": 28, "block": 4, "counts": (0, 0, 0), "rounds": 8, "batch": 32, "lr": 1e-3},
    "mri": {
        "image_size": 64,
        "block": 8,
        "counts": (0, 0, 0),
        "rounds": 15,
        "batch": 32,
        "lr": 1e-3,
        "precision": "bfloat16",
    },
    "cifar": {
        "image_size": 32,
        "block": 4,
        "counts": (10_000, 1_000, 2_000),
        "rounds": 8,
        "batch": 64,
        "lr": 1.5e-3,
        "precision": "bfloat16",
    },
}
_TRAINING: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "warmup_steps": 100,
    "clip": 1.0,
}


def plan_of(data: str, name: str, seed: int) -> Plan:
    """Return the plan of a cell."""
    row, settings = ROWS[name], dict(DATA[data])
    settings.pop("counts")
    model, args = (
        "order_free_vit",
        {"patch_size": settings["block"], "statistic": row.statistic, "positions": row.positions},
    )
    if not row.statistic:
        model, args = "histogram_mlp", {}
    values = {"study": "image-keys", "seed": seed, "parties": 1, "counts": (1, 1, 1), "train": "central"}
    values |= {"scheme": row.scheme, "key_scope": "image", "channels": CHANNELS[data]}
    return build(
        Plan, {**values, **settings, **_TRAINING, "model": model, "model_args": args}, f"{data} × {name}"
    )


def seal(plan: Plan, splits: dict[str, PlainImages]) -> dict[str, PlainImages]:
    """Return the splits, each image sealed under a key of its own. The keys are forgotten."""
    cipher = load(plan.describe()).cipher(SecretKey.generate())
    sealed, first = {}, 0
    for split, images in splits.items():
        sealed[split] = PlainImages(cipher.encrypt(images.images, first), images.labels)
        first += len(images.labels)  # no two images of any split share a row, and so a key
    return sealed


def train_cell(data: str, name: str, seed: int, splits: dict[str, PlainImages]) -> dict[str, Any]:
    """Train and test one cell. Raises CipherwardError if training diverges."""
    plan = plan_of(data, name, seed)
    sealed = seal(plan, splits)
    started = time.perf_counter()
    model = build_model(plan, 1 + int(splits["train"].labels.max()))
    weights = pack(model)
    state = State(0, weights, weights, 0, -1.0)
    with tempfile.TemporaryDirectory() as place:
        while state.round < plan.rounds:
            choose = "auc" if data == "pneumonia" else "accuracy"
            line = train_epoch(model, sealed, plan, state, choose)
            append_line(Path(place) / "epochs.jsonl", json.dumps(line))
        figures = best_figures(model, sealed["test"], state, Path(place))
    return {
        "data": data,
        "row": name,
        "seed": seed,
        "settings": plan.model_dump(
            mode="json", include={"model", "model_args", "rounds", "batch", "lr", "block", "precision"}
        ),
        "side": plan.image_size,
        "images": [len(part.labels) for part in splits.values()],
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.perf_counter() - started,
        **figures,
    }


def run(options: argparse.Namespace) -> None:
    """Train what the options choose and is not kept yet, as far as the time allows, and write all figures."""
    for what, names, known in (("data set", options.data, DATA), ("row", options.rows, ROWS)):
        if wrong := [name for name in names if name not in known]:
            raise unknown(what, wrong[0], known)
    with disk_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    use_all_cores()
    kept, until = options.out / "cells.jsonl", time.time() + 3600 * options.hours
    with folder_lock(options.out):
        for seed in range(options.seeds):
            for data in options.data:
                done = {(c["row"], c["seed"]) for c in read_lines(kept) if c["data"] == data}
                rows = [row for row in options.rows if (row, seed) not in done]
                if rows and time.time() < until:
                    splits = read(options.folder, data, DATA[data]["image_size"], DATA[data]["counts"])
                for row in rows:
                    if time.time() < until:
                        print(f"{data} × {row}, seed {seed}", flush=True)
                        append_line(kept, json.dumps(train_cell(data, row, seed, splits)))
        cells = read_lines(kept)
    rows_read = {name: {"scheme": row.scheme, "why": row.why} for name, row in ROWS.items()}
    if options.json:
        write_json(
            options.json, {"schema": SCHEMA, "machine": machine(), "rows": rows_read, "cells": cells}
        )


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_folder(parser)
    add_names(parser, {"--data": DATA, "--rows": ROWS})
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each cell, from 0")
    parser.add_argument("--hours", type=float, default=1.0, help="time after which no cell is begun")
    parser.add_argument("--out", type=Path, default=Path("runs/image_keys"), help="folder of the cells")
    add_json(parser)
    options = parser.parse_args()
    run_on_folder(options, run)


if __name__ == "__main__":
    main()
