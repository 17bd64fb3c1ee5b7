"""How fast each scheme seals, beside copying the same bytes with NumPy.

    python benchmarks/schemes.py [--images 1000] [--json FILE]

RGB images of 224×224, key and tables built beforehand. For every scheme, turn about in one process: a NumPy copy,
the scheme on one core, the scheme on two cores; and, on a few images, a naive NumPy version that gathers one image
at a time. Medians of the turns' ratios are what to read; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from coordinator.report.build import machine
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load

SIDE = 224
TURNS = 5
# Block sides of the papers; all others follow the ViT's patch of 16.
BLOCKS = {"le": 4, "ele": 4}
OPTIONS: dict[str, dict[str, Any]] = {"pe": {"colour_shuffle": True}}


def naive(table: Table, images: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, c], one image at a time, as one would write it in NumPy."""
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


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def on(cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)


def measure(name: str, images: np.ndarray, cores: list[int]) -> dict[str, Any]:
    """Ratios of one scheme: to a copy on one core, two cores to one, and the naive version to ours."""
    scheme = load(describe(name, images.shape[1:], BLOCKS.get(name, 16), options=OPTIONS.get(name)))
    key = SecretKey(bytes(range(32)))
    cipher = scheme.cipher(key)
    cipher.encrypt(images[:4])  # compiles
    into = np.empty_like(images)
    few = images[:50]
    table = getattr(scheme.algorithm, "table", None)
    slow: Table | None = None if table is None else table(scheme.parts(key))
    copies, one, two, by_hand = [], [], [], []
    for _ in range(TURNS):
        on({cores[0]})
        copies.append(seconds(lambda: np.copyto(into, images)))
        one.append(seconds(lambda: cipher.encrypt(images)))
        if slow is not None:
            by_hand.append(seconds(lambda t=slow: naive(t, few)) * len(images) / len(few))  # type: ignore[misc]
        on(set(cores))
        two.append(seconds(lambda: cipher.encrypt(images)))
    c, a, b = np.array(copies), np.array(one), np.array(two)
    return {
        "scheme": name,
        "block": scheme.spec.block,
        "times_a_copy": float(np.median(a / c)),
        "times_a_copy_worst": float((a / c).max()),
        "two_cores_over_one": float(np.median(a / b)),
        "faster_than_naive": float(np.median(np.array(by_hand) / a)) if by_hand else None,
        "megabytes_per_second_one_core": float(images.nbytes / 1e6 / np.median(a)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="names, with commas between")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        parser.error("this benchmark pins cores, which this system cannot")
    cores = sorted(os.sched_getaffinity(0))[:2]
    images = np.random.default_rng(0).integers(0, 256, (args.images, SIDE, SIDE, 3), dtype=np.uint8)
    rows = [measure(name, images, cores) for name in args.schemes.split(",")]
    grid = Grid(
        *(k.replace("_", " ") for k in rows[0]), title=f"sealing {args.images} images of {SIDE}×{SIDE}×3"
    )
    for row in rows:
        grid.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v or "") for v in row.values()))
    Console().print(grid)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(), "images": args.images, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
