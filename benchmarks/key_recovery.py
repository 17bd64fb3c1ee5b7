"""How many sealed images give the key away: pooled key recovery on a folder of images, by pool size.

    python benchmarks/key_recovery.py --images FOLDER [--pools 1,2,5,10,20,50,100] [--draws 6] [--json FILE]

Every draw is a disjoint random pool across the folder's classes, sealed as gray 224×224 images under a
fresh random key. K2 and K1 are shares of the permutations found; "mod shift" allows one shift by whole
blocks; pairs are true neighbours that stand side by side again; SSIM compares up to four opened images
with the plain ones after that shift. Median of the draws, and the worst where that differs.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity

from coordinator.adversary.contract import Knowledge
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.key import SecretKey
from crypto.scheme import describe, load

SIZE, BLOCK = 224, 16
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Draw:
    """What one pool gave away; shares are 0 to 1."""

    images: int
    k2: float
    k1: float
    k1_shifted: float
    pairs: int
    ssim: float
    seconds: float
    note: str


def read(path: Path) -> np.ndarray:
    """uint8 [224, 224, 1]."""
    with Image.open(path) as picture:
        gray = picture.convert("L")
        if gray.size != (SIZE, SIZE):
            gray = gray.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return np.asarray(gray)[..., None]


def measure(plain: np.ndarray) -> Draw:
    """Seals uint8 [n, 224, 224, 1] under a fresh key, attacks it and compares with the truth."""
    scheme = load(describe("block_pixel_shuffle", (SIZE, SIZE, 1), BLOCK))
    spec, key = scheme.spec, SecretKey.generate()
    truth = scheme.parts(key)
    k1, k2 = truth["K1"], truth["K2"]
    pool = MemoryPool(spec, scheme.cipher(key).encrypt(plain))
    started = time.monotonic()
    guess = attack(Knowledge(pool, np.arange(len(plain)), np.arange(min(4, len(plain)))))
    seconds = time.monotonic() - started
    if guess.key is None:
        return Draw(len(plain), 0.0, 0.0, 0.0, 0, 0.0, seconds, guess.note)
    down, across = spec.grid
    grid = k1[np.argsort(guess.key["K1"])].reshape(down, across)  # the plain block that stands in each cell
    cells = np.arange(spec.blocks).reshape(down, across)
    dy, dx = (grid // across - cells // across) % down, (grid % across - cells % across) % across
    shifts, counts = np.unique(dy * across + dx, return_counts=True)
    y, x = divmod(int(shifts[counts.argmax()]), across)
    beside = (np.diff(grid, axis=1) == 1) & (grid[:, 1:] % across > 0)
    opened = np.roll(guess.images, (y * BLOCK, x * BLOCK), (1, 2))
    likeness = [structural_similarity(a[..., 0], b[..., 0]) for a, b in zip(opened, plain, strict=False)]
    return Draw(
        images=len(plain),
        k2=float((guess.key["K2"] == k2).mean()),
        k1=float((guess.key["K1"] == k1).mean()),
        k1_shifted=float(counts.max() / spec.blocks),
        pairs=int(beside.sum() + (np.diff(grid, axis=0) == across).sum()),
        ssim=float(np.median(likeness)),
        seconds=seconds,
        note=guess.note,
    )


def by_size(draws: list[Draw]) -> list[dict[str, object]]:
    """One record a pool size: what its pools gave away, the median and the worst of them."""

    def both(values: list[float], digits: int) -> str:
        middle, worst = f"{np.median(values):.{digits}f}", f"{min(values):.{digits}f}"
        return middle if middle == worst else f"{middle} (worst {worst})"

    whole = 2 * (SIZE // BLOCK) * (SIZE // BLOCK - 1)
    records: list[dict[str, object]] = []
    for size in sorted({d.images for d in draws}):
        here = [d for d in draws if d.images == size]
        records.append(
            {
                "images": size,
                "K2 whole": f"{sum(d.k2 == 1 for d in here)} of {len(here)} pools",
                "K1 whole": f"{sum(d.k1 == 1 for d in here)} of {len(here)} pools",
                "K1 mod shift": both([d.k1_shifted for d in here], 3),
                f"pairs of {whole}": both([float(d.pairs) for d in here], 0),
                "SSIM mod shift": both([d.ssim for d in here], 3),
                "seconds": f"{np.median([d.seconds for d in here]):.2f}",
                "longest": f"{max(d.seconds for d in here):.2f}",
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description="Pooled key recovery by pool size, on a folder of images.")
    parser.add_argument(
        "--images", type=Path, required=True, help="folder of images, read with its subfolders"
    )
    parser.add_argument("--pools", default="1,2,5,10,20,50,100", help="pool sizes, separated by commas")
    parser.add_argument("--draws", type=int, default=6, help="disjoint pools of each size")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of pools; keys are always fresh")
    parser.add_argument("--json", type=Path, help="also write the figures, and every draw, to this file")
    options = parser.parse_args()
    paths = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in SUFFIXES)
    rng, draws = np.random.default_rng(options.seed), []
    sizes = [int(size) for size in options.pools.split(",")]
    if not paths or max(sizes) > len(paths):
        parser.error(f"{options.images} has {len(paths)} images, {max(sizes)} are asked for")
    measure(np.stack([read(path) for path in paths[:2]]))  # compiles; not counted
    for size in sizes:
        order = rng.permutation(len(paths))
        for draw in range(min(options.draws, len(paths) // size)):
            chosen = order[draw * size : (draw + 1) * size]
            draws.append(measure(np.stack([read(paths[i]) for i in chosen])))
    records = by_size(draws)
    title = f"pooled key recovery, block_pixel_shuffle, {SIZE}×{SIZE} gray, blocks of {BLOCK}"
    table = Table(*records[0], title=title)
    for record in records:
        table.add_row(*map(str, record.values()))
    Console(width=170).print(table)
    if options.json:
        figures = {"machine": machine(), "by_pool_size": records, "draws": [asdict(d) for d in draws]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
