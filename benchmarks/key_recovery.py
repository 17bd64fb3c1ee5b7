"""How many sealed images reveal the key: pooled key recovery on a folder of images, by pool size.

    python -m benchmarks.key_recovery --images FOLDER [--pools 1,2,5,10,20,50,100] [--draws 6] [--json FILE]

Every draw is a disjoint random pool across the folder's classes, sealed as gray 224×224 images under a fresh random
key. K2 and K1 are the shares of the permutations that were recovered. "mod shift" allows one shift by whole blocks.
Pairs are true neighbours that are side by side again. SSIM compares up to four opened images with the plain ones
after that shift. Shown are the median of the draws, and the worst if it differs.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity

from benchmarks.command_line import add_json, make_parser, write_figures
from coordinator.adversary.contract import Knowledge
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.exchange.image_file import open_image
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images, UInt8Array
from crypto.key import SecretKey
from crypto.scheme import describe, load

SIZE, BLOCK = 224, 16
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Draw:
    """What one pool revealed; shares are 0 to 1."""

    images: int
    k2: float
    k1: float
    k1_shifted: float
    pairs: int
    ssim: float
    seconds: float
    note: str


def read_gray(path: Path) -> UInt8Array:
    """Return an image file as uint8 [224, 224, 1]."""
    with open_image(path) as picture:
        gray = picture.convert("L")
        if gray.size != (SIZE, SIZE):
            gray = gray.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return np.asarray(gray)[..., None]


def measure_pool(plain: Images) -> Draw:
    """Seal images, uint8 [n, 224, 224, 1], under a fresh key, attack them and compare with the truth."""
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
    grid = k1[np.argsort(guess.key["K1"])].reshape(down, across)  # the plain block in each cell
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


def summarise(draws: list[Draw]) -> list[dict[str, object]]:
    """Return one record for each pool size: the median over its pools, and the worst of them."""

    def median_and_worst(values: list[float], digits: int) -> str:
        median, worst = f"{np.median(values):.{digits}f}", f"{min(values):.{digits}f}"
        return median if median == worst else f"{median} (worst {worst})"

    pairs = 2 * (SIZE // BLOCK) * (SIZE // BLOCK - 1)
    records: list[dict[str, object]] = []
    for size in sorted({d.images for d in draws}):
        group = [d for d in draws if d.images == size]
        records.append(
            {
                "images": size,
                "K2 whole": f"{sum(d.k2 == 1 for d in group)} of {len(group)} pools",
                "K1 whole": f"{sum(d.k1 == 1 for d in group)} of {len(group)} pools",
                "K1 mod shift": median_and_worst([d.k1_shifted for d in group], 3),
                f"pairs of {pairs}": median_and_worst([float(d.pairs) for d in group], 0),
                "SSIM mod shift": median_and_worst([d.ssim for d in group], 3),
                "seconds": f"{np.median([d.seconds for d in group]):.2f}",
                "longest": f"{max(d.seconds for d in group):.2f}",
            }
        )
    return records


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of images, with its subfolders")
    parser.add_argument("--pools", default="1,2,5,10,20,50,100", help="pool sizes, separated by commas")
    parser.add_argument("--draws", type=int, default=6, help="disjoint pools of each size")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the draw of pools; keys are always fresh"
    )
    add_json(parser)
    options = parser.parse_args()
    paths = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in SUFFIXES)
    rng, draws = np.random.default_rng(options.seed), []
    sizes = [int(size) for size in options.pools.split(",")]
    if not paths or max(sizes) > len(paths):
        parser.error(f"{options.images} has {len(paths)} images; {max(sizes)} are needed")
    measure_pool(np.stack([read_gray(path) for path in paths[:2]]))  # compiles; not measured
    for size in sizes:
        order = rng.permutation(len(paths))
        for draw in range(min(options.draws, len(paths) // size)):
            chosen = order[draw * size : (draw + 1) * size]
            draws.append(measure_pool(np.stack([read_gray(paths[i]) for i in chosen])))
    records = summarise(draws)
    title = f"pooled key recovery, block_pixel_shuffle, {SIZE}×{SIZE} gray, blocks of {BLOCK}"
    table = Table(*records[0], title=title)
    for record in records:
        table.add_row(*map(str, record.values()))
    Console(width=170).print(table)
    figures = {"machine": machine(), "by_pool_size": records, "draws": [asdict(d) for d in draws]}
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
