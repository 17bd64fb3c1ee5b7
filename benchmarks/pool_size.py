"""How the time and the memory of pooled key recovery grow with the pool.

    python benchmarks/pool_size.py [--images FOLDER] [--pools 10,100,1000,10000] [--repeats 3] [--json FILE]

Gray 224×224 images are sealed under one fresh key, as block and pixel shuffling with blocks of 16, into a sealed set
on disk. Every pool size is attacked by fresh processes, which read the set as the suite does; compiling is not
counted (each process attacks two other images first). Without --images, phantom scans are sealed. Where the folder
holds fewer images than the largest pool, they are sealed again, mirrored or not and shifted by up to 8 pixels, as
`distinct` says. K1 and K2 are the shares found of the key's two permutations.

Seconds are the least of the repeats; `load` is the machine's over the last minute, with all that runs on it. The
exponent is the slope of log seconds over log images, fitted from 100 images on, and `last` is that of the largest two
pools: 1 is linear, below 1 is better than linear. Memory is the greatest resident memory of the process; pages of the
sealed set that the kernel maps in count in it, and can be taken back.
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

from benchmarks.key_recovery import BLOCK, SIZE, SUFFIXES, read
from coordinator.adversary.contract import Knowledge
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.exchange.pool import MemoryPool, Pool
from coordinator.report.build import machine
from crypto.files import write_json
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sources.phantom import Phantom

SPEC = describe("block_pixel_shuffle", (SIZE, SIZE, 1), BLOCK)
GUESSED = 4  # images to open beside the pool
PHANTOMS = 2000  # different phantom scans, at most
SHIFT = 8  # pixels that a repeated image is moved by, at most
FITTED = 100  # the smallest pool that counts in the exponent


def images_of(folder: Path | None, count: int) -> tuple[Callable[[int], np.ndarray], int]:
    """(row → uint8 [224, 224, 1], how many different images there are), the rows in a random order."""
    if folder is None:
        source = Phantom(SIZE, 1, min(count, PHANTOMS), 0, "train")
        return functools.cache(source.read), len(source)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    order = np.random.default_rng(0).permutation(len(paths))
    return functools.cache(lambda row: read(paths[order[row]])), len(paths)


def moved(image: np.ndarray, row: int, turn: int) -> np.ndarray:
    """The image as it is in the first turn, mirrored or not and shifted by a few pixels in later ones."""
    if turn == 0:
        return image
    rng = np.random.default_rng([row, turn])
    down, right = rng.integers(0, 2 * SHIFT + 1, 2)
    wide = np.pad(
        image[:, ::-1] if rng.integers(2) else image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "edge"
    )
    return wide[down : down + SIZE, right : right + SIZE]


def sealed_set(folder: Path, images: Path | None, count: int, key: SecretKey) -> int:
    """Seals `count` images into a folder; returns how many of them are different images."""
    get, distinct = images_of(images, count)

    def image(row: int) -> np.ndarray:
        turn, which = divmod(row, distinct)
        return moved(get(which), which, turn)

    seal_images(folder, image, np.zeros(count, np.int64), ["any"], key, SPEC, "pool_size")
    return min(distinct, count)


def attacked(folder: Path, size: int) -> dict[str, Any]:
    """One attack on the first images of the set, in this process: seconds, memory and the parts of the key."""
    noise = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 1), np.uint8)
    attack(Knowledge(MemoryPool(SPEC, noise), np.arange(2), np.arange(2)))  # compiles; not counted
    before = _memory()
    pool = Pool([SealedDataset.open(folder)])
    started = time.monotonic()
    guess = attack(Knowledge(pool, np.arange(size), len(pool) - 1 - np.arange(GUESSED)))
    seconds = time.monotonic() - started
    parts = {} if guess.key is None else {n: guess.key[n].tolist() for n in ("K1", "K2")}
    return {"seconds": seconds, "before": before, "after": _memory(), "note": guess.note, **parts}


def _memory() -> float:
    """The greatest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(folder: Path, size: int, repeats: int, key: SecretKey) -> dict[str, Any]:
    """One record of a pool size, each repeat in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pool_size", "--attack", str(folder), str(size)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    truth = load(SPEC).parts(key)
    found = {name: np.array(runs[0].get(name, -1)) for name in ("K1", "K2")}
    right = {name: float((found[name] == truth[name]).mean()) for name in found}
    return {
        "images": size,
        "seconds": round(min(r["seconds"] for r in runs), 3),
        "longest": round(max(r["seconds"] for r in runs), 3),
        "K1": round(right["K1"], 3),
        "K1 mod shift": round(shifted(found["K1"], truth["K1"]), 3),
        "K2": round(right["K2"], 3),
        "memory_mb": round(max(r["after"] for r in runs)),
        "before_mb": round(max(r["before"] for r in runs)),
        "load": round(os.getloadavg()[0], 1),
        "note": runs[0]["note"],
    }


def shifted(found: np.ndarray, truth: np.ndarray) -> float:
    """The share of K1 that is right after one shift by whole blocks."""
    if found.shape != truth.shape:
        return 0.0
    down, across = SPEC.grid
    dy, dx = (truth // across - found // across) % down, (truth % across - found % across) % across
    return float(np.unique(dy * across + dx, return_counts=True)[1].max() / len(truth))


def exponents(records: list[dict[str, Any]]) -> dict[str, float]:
    """The slopes of log seconds over log images: fitted from FITTED images on, and of the largest two pools."""
    some = [(math.log(r["images"]), math.log(r["seconds"])) for r in records if r["images"] >= FITTED]
    if len(some) < 2:
        return {}
    (n0, s0), (n1, s1) = some[-2:]
    slope = np.polyfit([n for n, _ in some], [s for _, s in some], 1)[0]
    return {"exponent": round(float(slope), 3), "last": round((s1 - s0) / (n1 - n0), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Pooled key recovery: seconds and memory by pool size.")
    parser.add_argument("--images", type=Path, help="folder of images, read with its subfolders")
    parser.add_argument("--pools", default="10,100,1000,10000", help="pool sizes, separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes for each pool size")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--attack", nargs=2, help=argparse.SUPPRESS)  # what the fresh processes do
    options = parser.parse_args()
    if options.attack:
        print(json.dumps(attacked(Path(options.attack[0]), int(options.attack[1]))))
        return
    sizes = sorted({int(size) for size in options.pools.split(",")})
    key, console = SecretKey.generate(), Console(width=130)
    with tempfile.TemporaryDirectory(prefix="cw-pool-") as temporary:
        folder = Path(temporary, "sealed")
        distinct = sealed_set(folder, options.images, sizes[-1] + GUESSED, key)
        records = [measure(folder, size, options.repeats, key) for size in sizes]
    source = options.images.name if options.images else "phantom"
    table = Table(
        *records[0], title=f"pooled key recovery by pool size: {source}, {distinct} different images"
    )
    for record in records:
        table.add_row(*map(str, record.values()))
    console.print(table)
    fitted = exponents(records)
    console.print(fitted)
    if options.json:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        figures = {"machine": machine(), "source": source, "distinct": distinct, "omp_num_threads": threads}
        write_json(options.json, {**figures, "by_pool_size": records, **fitted})


if __name__ == "__main__":
    main()
