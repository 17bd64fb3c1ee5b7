"""How much of the pictures pooled key recovery opens, by kind of picture, beside another version of the attacks.

    python -m benchmarks.picture_kinds --data FOLDER [--only le,pe] [--draws 5] [--before CHECKOUT] [--json FILE]

FOLDER holds tissue/*/*.png, cifar10_jpeg.npz and brain_mri/. Every draw is a random pool of one kind of picture,
sealed under a key of its own. Right is the share of values of up to four opened images that equal the plain ones,
under the one element of the scheme's orbit that suits best. Exact counts the draws in which all do. --before names a
checkout of another version. It attacks the same pools, by the script of this version.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.audit_table import read_cifar, read_mri
from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.exchange.image_file import open_image
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.symmetry import Move, Orbit

SCHEMA = "cipherward.picture-kinds/1"
CIFAR_IMAGES = 1500
COMPARED = 4  # opened images that are compared with the plain ones
BUDGET_SECONDS = 300.0
SEED = 7


@dataclass(frozen=True)
class Row:
    """One scheme on one kind of picture."""

    scheme: str
    kind: str
    block: int
    pools: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


COLOURS = {"colour_shuffle": True}
ROWS = (
    Row("value_shuffle", "tissue 224", 16, (1, 2, 10)),
    Row("value_shuffle", "mri 224", 16, (10,)),
    Row("value_shuffle", "cifar 32", 4, (10, 100)),
    Row("le", "tissue 32", 4, (2, 10, 20, 100)),
    Row("le", "tissue 32 coarse", 4, (2, 10, 20, 100)),
    Row("le", "cifar 32", 4, (2, 10, 100)),
    Row("pe", "tissue 32", 4, (10, 20)),
    Row("pe", "cifar 32", 4, (10,)),
    Row("pe", "tissue 32", 4, (2, 10, 20), COLOURS),
    Row("pe", "tissue 32 coarse", 4, (10, 20, 100), COLOURS),
    Row("pe", "cifar 32", 4, (2, 10), COLOURS),
    Row("ele", "cifar 32", 4, (50, 100)),
    Row("ele", "tissue 32", 4, (50, 100)),
)


def read_kind(folder: Path, kind: str) -> Images:
    """Return all images of a kind, uint8 [n, h, w, c].

    Tissue at 32×32 is the whole tile, reduced by interpolation, or by taking every seventh pixel ("coarse").
    """
    if kind == "mri 224":
        return read_mri(folder, "train")[0]
    if kind == "cifar 32":
        return read_cifar(folder, CIFAR_IMAGES, 32)[0]
    images = []
    for path in sorted((folder / "tissue").rglob("*.png")):
        with open_image(path) as picture:
            colour = picture.convert("RGB")
            if "32" in kind:
                method = Image.Resampling.NEAREST if "coarse" in kind else Image.Resampling.BILINEAR
                colour = colour.resize((32, 32), method)
            images.append(np.asarray(colour))
    return np.stack(images)


def share_right(guess: Images, plain: Images, orbit: Orbit, block: int) -> float:
    """Return the share of values that are right under the best element of an orbit, one for all images."""
    best = 0.0
    signs = (False, True) if orbit.negatives else (False,)
    for move, is_negative in itertools.product(orbit.orientations(plain.shape[1:]), signs):
        for down, across in orbit.shifts_in_reach():
            moved = Move(move.turn, is_negative, move.order, down, across)
            # One image says which shifts are worth comparing in all.
            if float((moved.apply(guess[:1], block) == plain[:1]).mean()) > best:
                best = max(best, float((moved.apply(guess, block) == plain).mean()))
    return best


def measure(row: Row, images: Images, size: int, draw: int) -> dict[str, Any]:
    """Attack one pool and return what it opened."""
    chosen = np.random.default_rng([SEED, size, draw]).permutation(len(images))[:size]
    plain = images[chosen]
    scheme = load(describe(row.scheme, plain.shape[1:], row.block, options=row.options))
    # Not drawn: both versions must attack the same pool.
    key = SecretKey(hashlib.sha256(f"{row} {size} {draw}".encode()).digest())
    pool = MemoryPool(scheme.spec, scheme.cipher(key).encrypt(plain))
    started = time.monotonic()
    shown = np.arange(min(COMPARED, size))
    guess = attack(Knowledge(pool, np.arange(size), shown, Budget(BUDGET_SECONDS)))
    return {
        "row": ROWS.index(row),
        "pool": size,
        "draw": draw,
        "seconds": time.monotonic() - started,
        "right": share_right(guess.images, plain[: len(shown)], scheme.orbit, row.block),
        "note": guess.note,
        "fits": [str(fit) for fit in getattr(guess, "fits", ())],
    }


def measure_rows(rows: Sequence[Row], folder: Path, draws: int) -> list[dict[str, Any]]:
    """Return the cells of all rows."""
    cells = []
    for row in rows:
        images = read_kind(folder, row.kind)
        for size, draw in itertools.product(row.pools, range(draws)):
            cells.append(measure(row, images, size, draw))
            print(row.scheme, row.kind, cells[-1], file=sys.stderr, flush=True)
    return cells


def measure_other(checkout: Path, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Return the cells of another version of the attacks, measured by this script."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--cells"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    run = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
    )
    cells: list[dict[str, Any]] = json.loads(run.stdout)
    return cells


def summarise(cells: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one line a row and pool size, with the exact draws, shares right and seconds of each version."""
    lines: list[dict[str, Any]] = []
    for index, row in enumerate(ROWS):
        for size in row.pools:
            line: dict[str, Any] = {**asdict(row), "pool": size}
            for version, all_cells in cells.items():
                own = [c for c in all_cells if (c["row"], c["pool"]) == (index, size)]
                if own:
                    line[version] = {
                        "draws": len(own),
                        "exact": sum(c["right"] == 1.0 for c in own),
                        "right": float(np.median([c["right"] for c in own])),
                        "worst": min(c["right"] for c in own),
                        "seconds": float(np.median([c["seconds"] for c in own])),
                    }
            if any(version in line for version in cells):
                lines.append(line)
    return lines


def chosen_rows(args: argparse.Namespace) -> list[Row]:
    """Return the rows of the schemes and kinds that --only and --kinds name."""
    schemes, kinds = split_list(args.only), split_list(args.kinds)
    return [
        row
        for row in ROWS
        if (not args.only or row.scheme in schemes) and (not args.kinds or row.kind in kinds)
    ]


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--only", default="", help="schemes, separated by commas")
    parser.add_argument("--kinds", default="", help="kinds of pictures, separated by commas")
    parser.add_argument("--draws", type=int, default=5, help="pools of each size")
    parser.add_argument(
        "--before", type=Path, help="a checkout of another version, which attacks the same pools"
    )
    parser.add_argument("--cells", action="store_true", help=argparse.SUPPRESS)  # for the other version
    add_json(parser)
    args = parser.parse_args()
    rows = chosen_rows(args)
    if args.cells:
        print(json.dumps(measure_rows(rows, args.data, args.draws)))
        return
    cells: dict[str, list[dict[str, Any]]] = {}
    if args.before:
        shared = ["--data", str(args.data.resolve()), "--draws", str(args.draws)]
        cells["before"] = measure_other(args.before, [*shared, "--only", args.only, "--kinds", args.kinds])
    cells["now"] = measure_rows(rows, args.data, args.draws)
    lines = summarise(cells)
    table = Table("scheme", "pictures", "images", *(f"{v}: exact, median right, s" for v in cells))
    for line in lines:
        options = " colours" if line["options"] else ""
        table.add_row(
            line["scheme"] + options,
            line["kind"],
            str(line["pool"]),
            *(
                f"{v['exact']}/{v['draws']} {v['right']:.3f} {v['seconds']:.2f}"
                for v in (line[n] for n in cells)
            ),
        )
    Console(width=150).print(table)
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), "kinds": lines, "cells": cells})


if __name__ == "__main__":
    main()
