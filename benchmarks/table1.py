"""Schemes × networks × data: test accuracy of models trained on ciphertext, and of models trained on plain images.

    python -m benchmarks.table1 [--protocol configs/table1/cpu.yaml] [--data pneumonia,cifar,mri]
                                   [--networks vit,resnet18,shake_pyramidnet] [--rows plain,le,…] [--seeds 3]
                                   [--hours 1] [--minutes 30] [--json FILE]

The folder of the data is $CIPHERWARD_DATA, or --folder: pneumoniamnist.npz, cifar10_jpeg.npz, brain_mri/ and
vit_tiny_patch16_224.safetensors. A cell trains one network on one data set sealed by one scheme, under one fresh
key for all images, with the training code of a study. The best epoch is chosen on val, and the test images are read
once, at the end. After a kill, a cell continues from its last epoch and a table from its last cell. A cell that
does not fit into the time left is not begun.

The pairing of scheme and network follows the papers where they have one: LE with its block-wise adaptation network,
ELE with its own, PE with a 1×1 convolution, EtC with none (Qi et al. 2022, Table I). No paper puts
block_pixel_shuffle, value_shuffle or orthogonal before a convolutional network; they take LE's, one map for all
blocks, and block_pixel takes ELE's, one for each block. A ViT takes none: its patch embedding is one.
`block_pixel_shuffle private` first carries the ViT's stem into the key's coordinates (parties/training/stem.py);
the other networks have no such cell. Nor have they cells of the schemes that seal a ViT's patches (sub_block_etc,
patch_shuffle, neuracrypt) or add noise (noisy_orthogonal, block_projection).
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from benchmarks.command_line import ROOT, add_folder, add_json, add_names, make_parser, run_on_folder
from benchmarks.table1_data import CHANNELS, SPLITS, read
from benchmarks.table1_inputs import Inputs, digest_of, inputs_at, inputs_of, pair_of, same
from benchmarks.table1_protocol import (
    PAIRS,
    VIT_ROWS,
    Protocol,
    Section,
    cells_of,
    plan_of,
    read_protocol,
    scheme_options_of,
    settings_of,
)
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.plan import Plan
from coordinator.federation.rounds import State
from coordinator.model.metrics import measure
from coordinator.model.training import PlainImages, predict_probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, unpack
from coordinator.report.build import machine
from crypto.cipher import Cipher
from crypto.errors import CipherwardError, unknown
from crypto.files import append_line, disk_errors, folder_lock, read_json, read_lines, write_json
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from crypto.scheme import load
from crypto.spec import SchemeSpec
from parties.training.baseline import histogram_accuracy
from parties.training.stem import carry, key_coordinates

SCHEMA = "cipherward.table1/1"
NETWORKS = get_args(Section.model_fields["network"].annotation)


def cell_folder(out: Path, section: Section, row: str, seed: int) -> Path:
    """Return the folder of a cell that is not finished."""
    parts = (section.data, section.network, row.replace(" ", "-"), str(seed), settings_of(section, row))
    return out / "-".join(parts)


def train_cell(
    section: Section, row: str, seed: int, folder: Path, out: Path, until: float, inputs: Inputs
) -> dict[str, Any] | None:
    """Train one cell, from its last epoch on, and test it.

    Args:
        section: The network, the data and their training.
        row: The row of the table: a scheme, or a scheme and `private`.
        seed: The seed of the training.
        folder: Where the data is.
        out: The folder of the table.
        until: When to stop, in seconds since 1970.
        inputs: Returns what the cell comes from besides its settings.

    Returns:
        The cell's figures; if the training diverged, the epoch of that as `diverged` instead. None if the time was
        over first: the epochs are kept.
    """
    plan, now = plan_of(section, row, seed, folder), inputs(section, row)
    place = cell_folder(out, section, row, seed)
    key = prepare_folder(place, now)
    scheme = load(spec_at(place, plan))
    sealed = seal(scheme.cipher(key), read(folder, section.data, plan.image_size, section.counts))
    classes = 1 + int(sealed["train"].labels.max())
    model = build_model(plan, classes)
    if plan.stem == "private":
        carry(model, key_coordinates(scheme.spec, key))
    weights, checkpoint = pack(model), place / "checkpoint.safetensors"
    state = State.load(checkpoint) if checkpoint.exists() else State(0, weights, weights, 0, -1.0)
    cell = {
        "data": section.data,
        "network": section.network,
        "row": row,
        "seed": seed,
        "settings": settings_of(section, row),
        "inputs": now,
        "images": [len(sealed[split].labels) for split in SPLITS],
        "classes": classes,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    while state.round < plan.rounds:
        if time.time() > until:
            return None
        started = time.perf_counter()
        try:
            line = train_epoch(model, sealed, plan, state, section.choose)
        except CipherwardError as error:
            if not error.message.startswith("training diverged"):
                raise
            result = {"diverged": state.round + 1, "test": {"auc": None}}
            return finish_cell(out, place, {**cell, **result}, time.perf_counter() - started)
        append_line(place / "epochs.jsonl", json.dumps(line))
        state.save(checkpoint)
    return finish_cell(out, place, {**cell, **best_figures(model, sealed["test"], state, place)})


def prepare_folder(place: Path, now: dict[str, str | None]) -> SecretKey:
    """Make a cell's folder, and return its key. A folder that was begun from other inputs is removed first."""
    with disk_errors(place):
        if place.exists() and not same(inputs_at(place), now):
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
    key_path = place / "secret.key"
    if not key_path.exists():
        write_key(key_path, SecretKey.generate())
    if inputs_at(place) is None:
        write_json(place / "inputs.json", now)
    return read_key(key_path)


def spec_at(place: Path, plan: Plan) -> SchemeSpec:
    """Return the scheme of a cell, with the nonce that it began with, so that it goes on with the same bytes."""
    path = place / "scheme.json"
    if path.exists():
        return SchemeSpec.from_json(read_json(path, "scheme of a cell"))
    spec = plan.describe()
    write_json(path, spec.to_json())
    return spec


def seal(cipher: Cipher, plain: dict[str, PlainImages]) -> dict[str, PlainImages]:
    """Seal all splits as one set, so that under a key or noise for every row no two images share theirs."""
    sealed, first = {}, 0
    for split, part in plain.items():
        sealed[split] = PlainImages(cipher.encrypt(part.images, first), part.labels)
        first += len(part.labels)
    return sealed


def train_epoch(
    model: nn.Module, sealed: dict[str, PlainImages], plan: Plan, state: State, choose: str
) -> dict[str, Any]:
    """Train one epoch, update the state, and return the epoch's line of the journal.

    Raises:
        CipherwardError: If the training diverges.
    """
    started = time.perf_counter()
    unpack(model, state.weights)
    loss = train_locally(model, sealed["train"], plan, state.round + 1, "provider")["loss"]
    val = figures(model, sealed["val"])
    state.round, state.weights = state.round + 1, pack(model)
    val_score = val[choose] or 0.0
    if val_score >= state.best_val:
        state.best, state.best_round, state.best_val = state.weights, state.round, val_score
    seconds = time.perf_counter() - started
    print(
        f"  epoch {state.round} of {plan.rounds}: loss {loss:.3f}, val accuracy {val['accuracy']:.3f}, "
        f"AUC {val['auc'] or 0:.3f}, {seconds:.1f} s",
        flush=True,
    )
    return {"epoch": state.round, "loss": loss, "val": val, "seconds": seconds}


def best_figures(model: nn.Module, test_images: PlainImages, state: State, place: Path) -> dict[str, Any]:
    """Return the best epoch, its figures on val, and its figures on the test images, which are read only here."""
    unpack(model, state.best)
    test, count = figures(model, test_images), len(test_images.labels)
    epochs = {line["epoch"]: line for line in read_lines(place / "epochs.jsonl")}
    return {
        "best_epoch": state.best_round,
        "val": epochs[state.best_round]["val"],
        "test": {
            **rate_of(round((test["accuracy"] or 0.0) * count), count).to_json(),
            "auc": test["auc"],
        },
    }


def finish_cell(out: Path, place: Path, cell: dict[str, Any], more_seconds: float = 0.0) -> dict[str, Any]:
    """Add a cell's seconds, keep it in the table's journal, and remove its folder."""
    seconds = {line["epoch"]: line["seconds"] for line in read_lines(place / "epochs.jsonl")}
    finished = {**cell, "seconds": sum(seconds.values()) + more_seconds}
    append_line(out / "cells.jsonl", json.dumps(finished))
    with disk_errors(place):
        shutil.rmtree(place)
    return finished


def figures(model: nn.Module, data: PlainImages) -> dict[str, float | None]:
    """Return accuracy, loss and AUC. AUC is None if a class is absent."""
    measured = measure(predict_probabilities(model, data), data.labels)
    return {name: value if np.isfinite(value) else None for name, value in measured.items()}


def done_cells(out: Path, section: Section, inputs: Inputs) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the section's finished cells, by row and seed. Those of other settings or inputs are ignored."""
    lines = [
        c
        for c in read_lines(out / "cells.jsonl")
        if (c["data"], c["network"]) == (section.data, section.network) and c["row"] in PAIRS
    ]
    known = [c for c in lines if c["settings"] == settings_of(section, c["row"])]
    return {(c["row"], c["seed"]): c for c in known if same(c.get("inputs"), inputs(section, c["row"]))}


def begun_cells(out: Path, section: Section, inputs: Inputs) -> dict[tuple[str, int], int]:
    """Return the epochs that unfinished cells reached. Those of other settings or inputs are ignored."""
    reached = {}
    for row, seed in cells_of(section):
        place = cell_folder(out, section, row, seed)
        lines = read_lines(place / "epochs.jsonl")
        if lines and same(inputs_at(place), inputs(section, row)):
            reached[row, seed] = lines[-1]["epoch"]
    return reached


def result_of(protocol: Protocol, out: Path, inputs: Inputs) -> dict[str, Any]:
    """Return all that the page shows: sections, their settings, and the cells that exist."""
    sections = []
    for section in protocol.sections:
        done, reached = done_cells(out, section, inputs), begun_cells(out, section, inputs)
        sections.append(
            {
                **section.model_dump(mode="json"),
                "rows": list(PAIRS),  # in the table's order: a JSON object has no order
                "pairs": {row: pair_of(section, row) for row in PAIRS},
                "options": {row: scheme_options_of(row, section.plan["block"]) for row in PAIRS},
                "cells": list(done.values()),
                "begun": [
                    {"row": r, "seed": s, "epochs": e}
                    for (r, s), e in reached.items()
                    if (r, s) not in done
                ],
                "none": [] if section.network == "vit" else list(VIT_ROWS),
            }
        )
    return {"schema": SCHEMA, "protocol": protocol.protocol, "machine": machine(), "sections": sections}


def histogram_figures(section: Section, folder: Path) -> dict[str, Any]:
    """Return what the nearest neighbour on plain histograms reaches on a section's test images, without shapes."""
    splits = read(folder, section.data, plan_of(section, "plain", 0, folder).image_size, section.counts)
    count = len(splits["test"].labels)
    rate = histogram_accuracy(splits["train"], splits["test"])
    return rate_of(round(rate * count), count).to_json()


def expected(section: Section, done: Sequence[dict[str, Any]], reached: int) -> float:
    """Return the seconds that a cell still takes: like the last one of its section, or as the protocol expects."""
    trained = [cell for cell in done if "diverged" not in cell]
    cell_seconds = float(trained[-1]["seconds"] if trained else 60 * section.minutes)
    rounds = int(section.plan.get("rounds", 5))
    return cell_seconds * (rounds - reached) / max(1, rounds)


def check_names(options: argparse.Namespace) -> None:
    """Raise CipherwardError if an option names an unknown data set, network or row."""
    for what, names, known in (
        ("data set", options.data, CHANNELS),
        ("network", options.networks, NETWORKS),
        ("row", options.rows, PAIRS),
    ):
        for name in names:
            if name not in known:
                raise unknown(what, name, known)


def run(options: argparse.Namespace) -> None:
    """Train the cells that the options choose, as far as the time allows, and write the table."""
    check_names(options)
    protocol = read_protocol(options.protocol)
    # Each file is read once a run: a table has many cells, and takes hours.
    inputs = functools.partial(inputs_of, options.folder, functools.cache(digest_of))
    out = options.out / protocol.protocol
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    use_all_cores()
    until = time.time() + 3600 * options.hours
    with folder_lock(out):
        for section in protocol.sections:
            if section.data in options.data and section.network in options.networks:
                for row, seed in cells_of(section):
                    if row in options.rows and seed < options.seeds:
                        run_cell(section, row, seed, options, out, until, inputs)
        if options.json:
            result = result_of(protocol, out, inputs)
            for section, record in zip(protocol.sections, result["sections"], strict=True):
                if section.data in options.data and section.network in options.networks:
                    record["histogram"] = histogram_figures(section, options.folder)
            write_json(options.json, result)


def run_cell(
    section: Section,
    row: str,
    seed: int,
    options: argparse.Namespace,
    out: Path,
    until: float,
    inputs: Inputs,
) -> None:
    """Train one cell unless it is finished or the time left is too short, and print what came of it."""
    done = done_cells(out, section, inputs)
    if (row, seed) in done:
        return
    reached = begun_cells(out, section, inputs).get((row, seed), 0)
    name = f"{section.data} × {section.network} × {row}, seed {seed}"
    needed, left = expected(section, list(done.values()), reached), until - time.time()
    if needed > min(left, 60 * options.minutes):
        print(f"{name}: not begun, it takes about {needed / 60:.1f} min, {max(0, left) / 60:.1f} are left")
        return
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


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_folder(parser)
    protocol = ROOT / "configs" / "table1" / "cpu.yaml"
    parser.add_argument("--protocol", type=Path, default=protocol, help="what is trained how (YAML)")
    add_names(parser, {"--data": CHANNELS, "--networks": NETWORKS, "--rows": PAIRS})
    parser.add_argument("--seeds", type=int, default=sys.maxsize, help="most seeds of a cell")
    parser.add_argument("--hours", type=float, default=1.0, help="time for the whole table")
    parser.add_argument("--minutes", type=float, default=30.0, help="time for a cell")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"), help="folder of the cells")
    add_json(parser)
    options = parser.parse_args()
    run_on_folder(options, run)


if __name__ == "__main__":
    main()
