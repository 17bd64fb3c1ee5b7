"""Choose the least fit at which moment matching of block_projection believes its key, from wrong keys.

    python -m benchmarks.projection_fit --data FOLDER [--cells 200] [--hours 1] [--json FILE]

FOLDER holds pneumoniamnist.npz and cifar10_jpeg.npz. A cell is one attack on a pool of small pictures: the scheme's
options, the number of images and the public images are drawn for each. In half of the cells the public images tell
nothing of the key: they are noise, or their blocks change places in every image. The attack then returns a key all
the same. A key is *right* if it opens images at .8 or more of the SSIM that the true key opens them at, with the same
filter against noise, and *wrong* below half of it; the picture may be mirrored.

The least fit is the smallest hundredth that at most 5 % of the wrong keys reach. The figures say how many wrong keys
pass it, and how many right ones it doubts, with 95 % bounds; and the same on the half of the cells with odd numbers,
for a least fit that was chosen on the even ones. Finished cells are kept in --out, so that a stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import add_data, add_json, make_parser, write_figures
from benchmarks.picture_sources import read_kind
from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.opened import RecoveredProjection
from coordinator.adversary.recover import row_projections
from coordinator.adversary.recover.row_projections import LEAST_FIT
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images
from crypto.files import append_line, read_lines
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.key import SecretKey
from crypto.scheme import Scheme, describe, load
from crypto.schemes.block_projection import BlockProjection
from parties.scoring.measures import ssims

SCHEMA = "cipherward.projection-fit/1"
SEED, GUESSED, PUBLIC = 50, 32, 400
#: Kinds of small pictures, and the blocks that they are cut to.
KINDS = {"pneumonia 28": 7, "cifar 32": 8}
POOLS = (5, 10, 20, 50, 100, 200)
RIGHT_FROM, WRONG_BELOW, FALSE_ALARMS = 0.8, 0.5, 0.05


def scrambled(images: Images, block: int, generator: np.random.Generator) -> Images:
    """Return images whose blocks change places, in another order in every image."""
    blocks = to_blocks(images, block)
    mixed = np.stack([image[generator.permutation(len(image))] for image in blocks])
    moved: Images = from_blocks(mixed, *images.shape[1:3])
    return moved


def measure(number: int, folder: Path) -> dict[str, Any]:
    """Attack one pool, and return the fit of its key beside what the key opens."""
    generator = np.random.default_rng([SEED, number])
    kind = str(generator.choice(list(KINDS)))
    block, images = KINDS[kind], read_kind(folder, kind)
    options = {
        "noise": int(generator.choice([0, 25, 100])),
        "matrix": str(generator.choice(["orthogonal", "uniform"], p=[0.75, 0.25])),
        "shuffle": bool(generator.integers(2)),
    }
    size = int(generator.choice(POOLS))
    about = str(generator.choice(["the same", "noise", "scrambled"], p=[0.5, 0.25, 0.25]))
    order = generator.permutation(len(images))
    plain, public = images[order[: GUESSED + size]], images[order[GUESSED + size :][:PUBLIC]]
    if about == "noise":
        public = generator.integers(0, 256, public.shape, dtype=np.uint8)
    elif about == "scrambled":
        public = scrambled(public, block, generator)
    scheme = load(describe("block_projection", plain.shape[1:], block, options=options))
    key = SecretKey(generator.bytes(32))
    pool = MemoryPool(scheme.spec, np.asarray(scheme.cipher(key).encrypt(plain)))
    rows = np.arange(GUESSED)
    knowledge = Knowledge(pool, GUESSED + np.arange(size), rows, Budget(120.0), public=public)
    started = time.monotonic()
    guess = row_projections.attack(knowledge)
    seconds = time.monotonic() - started
    true = true_guess(knowledge, scheme, key, images[order[GUESSED + size :][:PUBLIC]])
    opened = best_ssim(guess.images, plain[:GUESSED])
    return {
        "number": number,
        "kind": kind,
        **options,
        "pool": size,
        "public": about,
        "fit": guess.fits[0].value if guess.fits else None,
        "ssim": opened,
        "true_key": best_ssim(true, plain[:GUESSED]),
        "seconds": round(seconds, 3),
    }


def true_guess(knowledge: Knowledge, scheme: Scheme, key: SecretKey, public: Images) -> Images:
    """Return what the attack would hand over with the true key, and public images of the same kind for its filter."""
    algorithm, parts = scheme.algorithm, scheme.parts(key)
    assert isinstance(algorithm, BlockProjection)
    shape = (scheme.spec.blocks, *parts["matrices"].shape[1:])
    matrices = np.broadcast_to(parts["matrices"], shape).astype(np.float32)
    recovered = RecoveredProjection(matrices, parts["K1"], algorithm.noise / 2)
    return row_projections.open_with(replace(knowledge, public=public), recovered, algorithm).images


def best_ssim(guess: Images, plain: Images) -> float:
    """Return the median SSIM, as it is or mirrored: public images cannot tell."""
    return max(float(np.nanmedian(ssims(pictures, plain))) for pictures in (guess, guess[:, :, ::-1]))


def least_fit(cells: Sequence[dict[str, Any]]) -> float:
    """Return the smallest hundredth that at most FALSE_ALARMS of the wrong keys reach; 1 if there is none."""
    wrong = [cell["fit"] for cell in cells if is_wrong(cell)]
    steps = [step / 100 for step in range(1, 100)]
    return next((s for s in steps if sum(fit >= s for fit in wrong) <= FALSE_ALARMS * len(wrong)), 1.0)


def is_wrong(cell: dict[str, Any]) -> bool:
    """Return whether a key opens less than half of what the true one does."""
    return bool(cell["ssim"] < WRONG_BELOW * cell["true_key"])


def is_right(cell: dict[str, Any]) -> bool:
    """Return whether a key opens nearly what the true one does."""
    return bool(cell["ssim"] >= RIGHT_FROM * cell["true_key"])


def judge(cells: Sequence[dict[str, Any]], least: float) -> dict[str, Any]:
    """Return how many wrong keys are believed at a least fit, and how many right ones are doubted."""
    wrong, right = ([c for c in cells if test(c)] for test in (is_wrong, is_right))
    return {
        "least": least,
        "wrong_believed": dict(rate_of(sum(c["fit"] >= least for c in wrong), len(wrong))),
        "right_doubted": dict(rate_of(sum(c["fit"] < least for c in right), len(right))),
    }


def summarise(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all cells that state a fit."""
    known = [cell for cell in cells if cell["fit"] is not None]
    even, odd = ([c for c in known if c["number"] % 2 == rest] for rest in (0, 1))
    quantiles = (0.0, 0.05, 0.5, 0.95, 1.0)
    return {
        "cells": len(cells),
        "chosen": judge(known, least_fit(known)),
        "in_use": judge(known, LEAST_FIT),
        "chosen_on_even_tried_on_odd": judge(odd, least_fit(even)),
        "quantiles": quantiles,
        **{
            name: np.quantile([c["fit"] for c in known if test(c)], quantiles).round(3).tolist()
            for name, test in (("wrong_fits", is_wrong), ("right_fits", is_right))
            if any(map(test, known))
        },
        "by_cell": [
            {name: round(value, 4) if isinstance(value, float) else value for name, value in cell.items()}
            for cell in cells
        ],
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("runs/projection_fit/cells.jsonl"))
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 3600 * args.hours
    done = {cell["number"] for cell in read_lines(args.out)}
    for number in range(args.cells):
        if time.monotonic() > until:
            break
        if number not in done:
            cell = measure(number, args.data)
            append_line(args.out, json.dumps(cell))
            print(cell, flush=True)
    figures = summarise(read_lines(args.out))
    print({name: value for name, value in figures.items() if name != "by_cell"})
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), **figures})


if __name__ == "__main__":
    main()
