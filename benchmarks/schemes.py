"""How fast each scheme seals, compared with copying the same bytes with NumPy.

    python -m benchmarks.schemes [--images 1000] [--json FILE]

RGB images of 224×224; key and tables are built beforehand. For every scheme one process measures in turns: a NumPy
copy, the scheme on one core, the scheme on two cores; and, on a few images, a naive NumPy version that gathers one
image at a time. Read the medians of the ratios, and run it on a quiet machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.command_line import add_json, make_parser, write_figures
from coordinator.report.build import machine
from crypto.arrays import UInt8Array
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load

SIDE = 224
REPEATS = 5  # measurements; the median of their ratios is shown
NAIVE_IMAGES = 50  # images that the naive version seals: it is slow, and its time is linear
# Block sides of the papers. All other schemes use the patch size of the ViT, 16.
BLOCKS = {"le": 4, "ele": 4}
OPTIONS: dict[str, dict[str, Any]] = {"pe": {"colour_shuffle": True}}


def seal_naively(table: Table, images: UInt8Array) -> UInt8Array:
    """Seal images, uint8 [n, h, w, c], one at a time, as one would write it in NumPy."""
    gather, mask = table.flattened()
    out = np.empty_like(images)
    for i, image in enumerate(images):
        if table.unit == "nibble":
            nibbles = np.concatenate([image.ravel() & 15, image.ravel() >> 4])[gather]
            low, high = np.split(nibbles, 2)
            moved = low | high << 4
        elif table.unit == "pixel":
            moved = image.reshape(-1, image.shape[2])[gather].ravel()
        else:
            moved = image.ravel()[gather]
        out[i] = (moved if mask is None else moved ^ mask).reshape(image.shape)
    return out


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pin_to(cores: set[int]) -> None:
    """Run this process on these cores only."""
    os.sched_setaffinity(0, cores)


def measure(name: str, images: UInt8Array, cores: list[int]) -> dict[str, Any]:
    """Return the ratios of one scheme: ours to a copy on one core, one core to two, the naive version to ours."""
    scheme = load(describe(name, images.shape[1:], BLOCKS.get(name, 16), options=OPTIONS.get(name)))
    key = SecretKey(bytes(range(32)))
    cipher = scheme.cipher(key)
    cipher.encrypt(images[:4])  # compiles
    target = np.empty_like(images)
    sample = images[:NAIVE_IMAGES]
    make_table = getattr(scheme.algorithm, "table", None)
    table: Table | None = None if make_table is None else make_table(scheme.parts(key))
    copies, one, two, naive = [], [], [], []
    for _ in range(REPEATS):
        pin_to({cores[0]})
        copies.append(seconds_of(lambda: np.copyto(target, images)))
        one.append(seconds_of(lambda: cipher.encrypt(images)))
        if table is not None:
            naive.append(seconds_of(partial(seal_naively, table, sample)) * len(images) / len(sample))
        pin_to(set(cores))
        two.append(seconds_of(lambda: cipher.encrypt(images)))
    c, a, b = np.array(copies), np.array(one), np.array(two)
    return {
        "scheme": name,
        "block": scheme.spec.block,
        "times_a_copy": float(np.median(a / c)),
        "times_a_copy_worst": float((a / c).max()),
        "two_cores_over_one": float(np.median(a / b)),
        "faster_than_naive": float(np.median(np.array(naive) / a)) if naive else None,
        "megabytes_per_second_one_core": float(images.nbytes / 1e6 / np.median(a)),
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=1000, help="number of images")
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="names, separated by commas")
    add_json(parser)
    args = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        parser.error("this benchmark pins cores, which this system does not support")
    cores = sorted(os.sched_getaffinity(0))[:2]
    images = np.random.default_rng(0).integers(0, 256, (args.images, SIDE, SIDE, 3), dtype=np.uint8)
    rows = [measure(name, images, cores) for name in args.schemes.split(",")]
    grid = Grid(
        *(k.replace("_", " ") for k in rows[0]), title=f"sealing {args.images} images of {SIDE}×{SIDE}×3"
    )
    for row in rows:
        grid.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v or "") for v in row.values()))
    Console().print(grid)
    write_figures(args.json, {"machine": machine(), "images": args.images, "rows": rows})


if __name__ == "__main__":
    main()
