"""Schemes × networks × data: test accuracy of models trained on ciphertext, beside that of models on plain images.

    python benchmarks/table1.py [--protocol configs/table1/cpu.yaml] [--data pneumonia,cifar,mri]
                                [--networks vit,resnet18,shake_pyramidnet] [--rows plain,le,…] [--seeds 3]
                                [--hours 1] [--minutes 30] [--json FILE]

The folder of the data is $CIPHERWARD_DATA, or --folder: pneumoniamnist.npz, cifar10_jpeg.npz, brain_mri/ and
vit_tiny_patch16_224.safetensors. A cell trains one network on one data set sealed by one scheme, under one fresh
key for all images, by the lines that train in a study; the best epoch is chosen on val, and the test images
are read once, at the end. A cell goes on after a kill from its last epoch, a table from its last cell. A cell that
the time left is too short for is not begun.

The pairing is the papers' where they have one: LE with its block-wise adaptation network, ELE with its own, PE with
a 1×1 convolution, EtC with none (Qi et al. 2022, Table I). block_pixel_shuffle before a convolutional network,
which no paper has, takes LE's. A ViT takes none: its patch embedding is one. `block_pixel_shuffle private` carries
the ViT's stem into the key's coordinates first (parties/training/stem.py); the other networks have no such cell.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from benchmarks.table1_data import CHANNELS, SPLITS, read
from benchmarks.table1_inputs import Inputs, digest_of, inputs_at, inputs_of, pair_of, same
from benchmarks.table1_protocol import (
    PAIRS,
    PRIVATE,
    Protocol,
    Section,
    cells_of,
    plan_of,
    read_protocol,
    settings_of,
)
from coordinator.federation.rounds import State
from coordinator.model.training import PlainImages, measure, probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, unpack
from coordinator.report.build import machine
from crypto.errors import CipherwardError, unknown
from crypto.files import append_line, disk_errors, only_one, read_lines, write_json
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from crypto.scheme import load
from parties.scoring.measures import share
from parties.training.stem import carry, coordinates

ROOT = Path(__file__).parents[1]
SCHEMA = "cipherward.table1/1"
NETWORKS = get_args(Section.model_fields["network"].annotation)


def place_of(out: Path, section: Section, row: str, seed: int) -> Path:
    """The folder of a cell that is not finished."""
    parts = (section.data, section.network, row.replace(" ", "-"), str(seed), settings_of(section))
    return out / "-".join(parts)


def train_cell(
    section: Section, row: str, seed: int, folder: Path, out: Path, until: float, inputs: Inputs
) -> dict[str, Any] | None:
    """Trains one cell from its last epoch on and tests it; None where the time ended first, all of it kept.

    A cell whose training diverges has the epoch of it as `diverged`, and no figures.
    """
    plan, now = plan_of(section, row, seed, folder), inputs(section, row)
    place = place_of(out, section, row, seed)
    with disk_errors(place):
        if place.exists() and not same(inputs_at(place), now):
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
    key_path, checkpoint, journal = (
        place / "secret.key",
        place / "checkpoint.safetensors",
        place / "epochs.jsonl",
    )
    if not key_path.exists():
        write_key(key_path, SecretKey.generate())
    if inputs_at(place) is None:
        write_json(place / "inputs.json", now)
    key, scheme = read_key(key_path), load(plan.describe())
    cipher = scheme.cipher(key)
    plain = read(folder, section.data, plan.image_size, section.counts)
    sealed = {split: PlainImages(cipher.encrypt(held.images), held.labels) for split, held in plain.items()}
    classes = 1 + int(plain["train"].labels.max())
    model = build_model(plan, classes)
    if plan.stem == "private":
        carry(model, coordinates(scheme.spec, key))
    first = pack(model)
    state = State.load(checkpoint) if checkpoint.exists() else State(0, first, first, 0, -1.0)
    cell = {
        "data": section.data,
        "network": section.network,
        "row": row,
        "seed": seed,
        "settings": settings_of(section),
        "inputs": now,
        "images": [len(sealed[split].labels) for split in SPLITS],
        "classes": classes,
        "parameters": sum(p.numel() for p in model.parameters()),
    }

    def finish(found: dict[str, Any], more: float = 0.0) -> dict[str, Any]:
        seconds = {line["epoch"]: line["seconds"] for line in read_lines(journal)}
        whole = {**cell, **found, "seconds": sum(seconds.values()) + more}
        append_line(out / "cells.jsonl", json.dumps(whole))
        with disk_errors(place):
            shutil.rmtree(place)
        return whole

    while state.round < plan.rounds:
        if time.time() > until:
            return None
        started = time.perf_counter()
        unpack(model, state.weights)
        try:
            loss = train_locally(model, sealed["train"], plan, state.round + 1, "provider")["loss"]
            val = figures(model, sealed["val"])
        except CipherwardError as error:
            if not error.message.startswith("training diverged"):
                raise
            found = {"diverged": state.round + 1, "test": {"auc": None}}
            return finish(found, time.perf_counter() - started)
        state.round, state.weights = state.round + 1, pack(model)
        good = val[section.choose] or 0.0
        if good >= state.best_val:
            state.best, state.best_round, state.best_val = state.weights, state.round, good
        line = {"epoch": state.round, "loss": loss, "val": val, "seconds": time.perf_counter() - started}
        append_line(journal, json.dumps(line))
        state.save(checkpoint)
        print(
            f"  epoch {state.round} of {plan.rounds}: loss {loss:.3f}, val accuracy {val['accuracy']:.3f}, "
            f"AUC {val['auc'] or 0:.3f}, {line['seconds']:.1f} s",
            flush=True,
        )
    unpack(model, state.best)
    test, count = figures(model, sealed["test"]), len(sealed["test"].labels)
    epochs = {line["epoch"]: line for line in read_lines(journal)}
    return finish(
        {
            "best_epoch": state.best_round,
            "val": epochs[state.best_round]["val"],
            "test": {**share(round((test["accuracy"] or 0.0) * count), count), "auc": test["auc"]},
        }
    )


def figures(model: nn.Module, data: PlainImages) -> dict[str, float | None]:
    """Accuracy, loss and AUC; no AUC where a class is absent."""
    seen = measure(probabilities(model, data), data.labels)
    return {name: value if np.isfinite(value) else None for name, value in seen.items()}


def done_cells(out: Path, section: Section, inputs: Inputs) -> dict[tuple[str, int], dict[str, Any]]:
    """The section's finished cells, by row and seed; those of other settings or inputs are passed over."""
    mine = (section.data, section.network, settings_of(section))
    lines = [c for c in read_lines(out / "cells.jsonl") if (c["data"], c["network"], c["settings"]) == mine]
    known = [c for c in lines if c["row"] in PAIRS]
    return {(c["row"], c["seed"]): c for c in known if same(c.get("inputs"), inputs(section, c["row"]))}


def begun(out: Path, section: Section, inputs: Inputs) -> dict[tuple[str, int], int]:
    """Epochs that unfinished cells have reached; those of other settings or inputs are passed over."""
    found = {}
    for row, seed in cells_of(section):
        place = place_of(out, section, row, seed)
        lines = read_lines(place / "epochs.jsonl")
        if lines and same(inputs_at(place), inputs(section, row)):
            found[row, seed] = lines[-1]["epoch"]
    return found


def result_of(protocol: Protocol, out: Path, inputs: Inputs) -> dict[str, Any]:
    """All that the page shows: sections, their settings, and the cells that are there."""
    sections = []
    for section in protocol.sections:
        done, reached = done_cells(out, section, inputs), begun(out, section, inputs)
        sections.append(
            {
                **section.model_dump(mode="json"),
                "rows": list(PAIRS),  # in the table's order: a JSON object has none
                "pairs": {row: pair_of(section, row) for row in PAIRS},
                "cells": list(done.values()),
                "begun": [
                    {"row": r, "seed": s, "epochs": e}
                    for (r, s), e in reached.items()
                    if (r, s) not in done
                ],
                "none": [] if section.network == "vit" else [PRIVATE],
            }
        )
    return {"schema": SCHEMA, "protocol": protocol.protocol, "machine": machine(), "sections": sections}


def expected(section: Section, done: Sequence[dict[str, Any]], reached: int) -> float:
    """Seconds that a cell still takes: as the last one of its section, or as the protocol expects."""
    trained = [cell for cell in done if "diverged" not in cell]
    whole = trained[-1]["seconds"] if trained else 60 * section.minutes
    rounds = int(section.plan.get("rounds", 5))
    return whole * (rounds - reached) / max(1, rounds)


def run(options: argparse.Namespace) -> None:
    for what, asked, known in (
        ("data set", options.data, CHANNELS),
        ("network", options.networks, NETWORKS),
        ("row", options.rows, PAIRS),
    ):
        for name in asked:
            if name not in known:
                raise unknown(what, name, known)
    protocol = read_protocol(options.protocol)
    # Each file once a run: a table is of many cells, and takes hours.
    inputs = functools.partial(inputs_of, options.folder, functools.cache(digest_of))
    out = options.out / protocol.protocol
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    use_all_cores()
    until = time.time() + 3600 * options.hours
    with only_one(out):
        for section in protocol.sections:
            if section.data not in options.data or section.network not in options.networks:
                continue
            for row, seed in cells_of(section):
                done = done_cells(out, section, inputs)
                reached = begun(out, section, inputs).get((row, seed), 0)
                if row not in options.rows or seed >= options.seeds or (row, seed) in done:
                    continue
                name = f"{section.data} × {section.network} × {row}, seed {seed}"
                needs, left = expected(section, list(done.values()), reached), until - time.time()
                if needs > min(left, 60 * options.minutes):
                    print(
                        f"{name}: not begun, it takes about {needs / 60:.1f} min, {max(0, left) / 60:.1f} are left"
                    )
                    continue
                print(name, flush=True)
                end = min(until, time.time() + 60 * options.minutes)
                cell = train_cell(section, row, seed, options.folder, out, end, inputs)
                if cell and "diverged" in cell:
                    print(f"  training diverged in epoch {cell['diverged']}", flush=True)
                elif cell:
                    test = cell["test"]
                    print(
                        f"  test accuracy {test['rate']:.3f}, AUC {test['auc'] or 0:.3f}, {cell['seconds']:.0f} s",
                        flush=True,
                    )
        if options.json:
            write_json(options.json, result_of(protocol, out, inputs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("CIPHERWARD_DATA")

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",")]

    parser.add_argument(
        "--folder", type=Path, default=default, help="where the data is; else CIPHERWARD_DATA"
    )
    parser.add_argument("--protocol", type=Path, default=ROOT / "configs" / "table1" / "cpu.yaml")
    parser.add_argument("--data", type=names, default=list(CHANNELS))
    parser.add_argument("--networks", type=names, default=list(NETWORKS))
    parser.add_argument("--rows", type=names, default=list(PAIRS))
    parser.add_argument("--seeds", type=int, default=sys.maxsize, help="at most so many seeds a cell")
    parser.add_argument("--hours", type=float, default=1.0, help="for the whole table")
    parser.add_argument("--minutes", type=float, default=30.0, help="for a cell")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"))
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    try:
        if options.folder is None:
            raise CipherwardError(
                "no folder of data is named", "set CIPHERWARD_DATA, or name one with --folder"
            )
        run(options)
    except CipherwardError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None


if __name__ == "__main__":
    main()
