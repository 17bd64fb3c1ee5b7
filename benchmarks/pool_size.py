"""How the time and memory of pooled key recovery grow with the pool.

    python -m benchmarks.pool_size [--images FOLDER] [--pools 10,100,1000,10000] [--repeats 3] [--json FILE]

Gray 224×224 images are sealed under one fresh key, by block and pixel shuffling with blocks of 16, into a sealed set
on disk. Fresh processes attack every pool size and read the set as the suite does. Compiling is not measured: each
process attacks two other images first. Without --images, phantom scans are sealed. If the folder holds fewer images
than the largest pool, they are sealed again, mirrored or not and shifted by up to 8 pixels; `distinct` is the number
of different images. K1 and K2 are the recovered shares of the key's two permutations.

Seconds are the least of the repeats. `load` is the machine's load average over the last minute. The exponent is the
slope of log seconds over log images, fitted from 100 images on, and `last` is the slope between the two largest
pools: 1 is linear, less is better than linear. Memory is the peak resident memory of the process. It includes pages
of the sealed set that the kernel maps in and can take back.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_json, make_parser
from benchmarks.key_recovery import BLOCK, SIZE, SUFFIXES, read_gray
from coordinator.adversary.contract import Knowledge
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.exchange.pool import MemoryPool, Pool
from coordinator.report.build import machine
from crypto.arrays import AnyArray, UInt8Array
from crypto.files import write_json
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sources.phantom import Phantom

SPEC = describe("block_pixel_shuffle", (SIZE, SIZE, 1), BLOCK)
GUESSED = 4  # images to open that are not in the pool
PHANTOMS = 2000  # most different phantom scans
SHIFT = 8  # most pixels that a repeated image is shifted by
SMALLEST_FITTED = 100  # the smallest pool that counts in the exponent: below it, fixed costs dominate


def open_images(folder: Path | None, count: int) -> tuple[Callable[[int], UInt8Array], int]:
    """Return a function from row to image, uint8 [224, 224, 1], in a random order, and the number of images."""
    if folder is None:
        source = Phantom(SIZE, 1, min(count, PHANTOMS), 0, "train")
        return functools.cache(source.read), len(source)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    order = np.random.default_rng(0).permutation(len(paths))
    return functools.cache(lambda row: read_gray(paths[order[row]])), len(paths)


def vary(image: UInt8Array, row: int, repeat: int) -> UInt8Array:
    """Return the image unchanged at first; later repeats are mirrored or not, and shifted by a few pixels."""
    if repeat == 0:
        return image
    rng = np.random.default_rng([row, repeat])
    down, right = rng.integers(0, 2 * SHIFT + 1, 2)
    wide = np.pad(
        image[:, ::-1] if rng.integers(2) else image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "edge"
    )
    return wide[down : down + SIZE, right : right + SIZE]


def write_sealed_set(folder: Path, images: Path | None, count: int, key: SecretKey) -> int:
    """Seal `count` images into a folder and return how many of them are different."""
    read_row, distinct = open_images(images, count)

    def image(row: int) -> UInt8Array:
        repeat, source_row = divmod(row, distinct)
        return vary(read_row(source_row), source_row, repeat)

    seal_images(folder, image, np.zeros(count, np.int64), ["any"], key, SPEC, "pool_size")
    return min(distinct, count)


def attack_set(folder: Path, size: int) -> dict[str, Any]:
    """Attack the first images of a set in this process, and return seconds, memory and the parts of the key."""
    noise = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 1), np.uint8)
    attack(Knowledge(MemoryPool(SPEC, noise), np.arange(2), np.arange(2)))  # compiles; not measured
    before = peak_megabytes()
    pool = Pool([SealedDataset.open(folder)])
    started = time.monotonic()
    guess = attack(Knowledge(pool, np.arange(size), len(pool) - 1 - np.arange(GUESSED)))
    seconds = time.monotonic() - started
    parts = {} if guess.key is None else {n: guess.key[n].tolist() for n in ("K1", "K2")}
    return {"seconds": seconds, "before": before, "after": peak_megabytes(), "note": guess.note, **parts}


def peak_megabytes() -> float:
    """Return the peak resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(folder: Path, size: int, repeats: int, key: SecretKey) -> dict[str, Any]:
    """Return the record of one pool size. Each repeat runs in a separate process."""
    command = [sys.executable, "-m", "benchmarks.pool_size", "--attack", str(folder), str(size)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    truth = load(SPEC).parts(key)
    key_parts = {name: np.array(runs[0].get(name, -1)) for name in ("K1", "K2")}
    correct = {name: float((part == truth[name]).mean()) for name, part in key_parts.items()}
    return {
        "images": size,
        "seconds": round(min(r["seconds"] for r in runs), 3),
        "longest": round(max(r["seconds"] for r in runs), 3),
        "K1": round(correct["K1"], 3),
        "K1 mod shift": round(share_up_to_shift(key_parts["K1"], truth["K1"]), 3),
        "K2": round(correct["K2"], 3),
        "memory_mb": round(max(r["after"] for r in runs)),
        "before_mb": round(max(r["before"] for r in runs)),
        "load": round(os.getloadavg()[0], 1),
        "note": runs[0]["note"],
    }


def share_up_to_shift(recovered: AnyArray, truth: AnyArray) -> float:
    """Return the share of K1 that is correct after one shift by whole blocks."""
    if recovered.shape != truth.shape:
        return 0.0
    down, across = SPEC.grid
    dy, dx = (truth // across - recovered // across) % down, (truth % across - recovered % across) % across
    return float(np.unique(dy * across + dx, return_counts=True)[1].max() / len(truth))


def fit_exponents(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the slopes of log seconds over log images: fitted, and between the two largest pools."""
    points = [
        (math.log(r["images"]), math.log(r["seconds"])) for r in records if r["images"] >= SMALLEST_FITTED
    ]
    if len(points) < 2:
        return {}
    (n0, s0), (n1, s1) = points[-2:]
    slope = np.polyfit([n for n, _ in points], [s for _, s in points], 1)[0]
    return {"exponent": round(float(slope), 3), "last": round((s1 - s0) / (n1 - n0), 3)}


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--images", type=Path, help="folder of images, with its subfolders; default: phantom scans"
    )
    parser.add_argument("--pools", default="10,100,1000,10000", help="pool sizes, separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes for each pool size")
    add_json(parser)
    parser.add_argument("--attack", nargs=2, help=argparse.SUPPRESS)  # for the fresh processes
    options = parser.parse_args()
    if options.attack:
        print(json.dumps(attack_set(Path(options.attack[0]), int(options.attack[1]))))
        return
    sizes = sorted({int(size) for size in options.pools.split(",")})
    key, console = SecretKey.generate(), Console(width=130)
    with tempfile.TemporaryDirectory(prefix="cw-pool-") as temporary:
        folder = Path(temporary, "sealed")
        distinct = write_sealed_set(folder, options.images, sizes[-1] + GUESSED, key)
        records = [measure(folder, size, options.repeats, key) for size in sizes]
    source = options.images.name if options.images else "phantom"
    table = Table(
        *records[0], title=f"pooled key recovery by pool size: {source}, {distinct} different images"
    )
    for record in records:
        table.add_row(*map(str, record.values()))
    console.print(table)
    fitted = fit_exponents(records)
    console.print(fitted)
    if options.json:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        figures = {"machine": machine(), "source": source, "distinct": distinct, "omp_num_threads": threads}
        write_json(options.json, {**figures, "by_pool_size": records, **fitted})


if __name__ == "__main__":
    main()
