"""Does JPEG between sealing and the attack help? Key recovery of etc and sub_block_etc from compressed sealed images.

    python -m benchmarks.jpeg --data FOLDER [--draws 2] [--hours 1] [--json FILE]

FOLDER is described in picture_sources.py. Every draw is a random pool of one kind of picture, sealed under a key of
its own, compressed to JPEG with 4:2:0 subsampling of colours, as cameras and browsers do it, and decoded. The attack
has the decoded images alone. What it opens still bears the JPEG's loss, as with the true key: both are stated.

Measured as in picture_kinds.py: opens (K) is a median SSIM of .90 of images outside the pool, names (R) that half of
them name their own image among 100. Finished cells are kept in --out, so that a stopped run continues.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_data, add_json, make_parser, write_figures
from benchmarks.picture_kinds import GALLERY, NAMED_FROM, OPENS_FROM, OUTSIDE
from benchmarks.picture_measures import best_move, share_named
from benchmarks.picture_sources import read_kind
from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.exchange.image_file import open_image_bytes
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.measures import ssims

SCHEMA = "cipherward.jpeg/1"
SEED = 20264
BUDGET_SECONDS = 300.0
BLOCK = 16
#: Qualities of JPEG; 0 is no JPEG at all.
QUALITIES = (0, 95, 85, 70)
POOLS = (10, 1)


@dataclass(frozen=True)
class Setting:
    """A scheme with its sub-blocks, a kind of picture and a quality of JPEG."""

    scheme: str
    sub_block: int
    kind: str
    quality: int

    @property
    def name(self) -> str:
        """The setting's name in the journal of cells."""
        return f"{self.scheme} {self.sub_block} {self.kind} {self.quality}"

    @property
    def options(self) -> dict[str, Any]:
        """The scheme's options."""
        return {"sub_block": self.sub_block} if self.scheme == "sub_block_etc" else {}


SETTINGS = tuple(
    Setting(scheme, sub_block, kind, quality)
    for scheme, sub_block in (("etc", BLOCK), ("sub_block_etc", 8), ("sub_block_etc", 4))
    for kind in ("mri 224", "cifar 224", "tissue 224")
    for quality in QUALITIES
)


def compressed(images: Images, quality: int) -> tuple[Images, float]:
    """Return images uint8 [n, h, w, c] after JPEG, and the bytes of a pixel."""
    if not quality:
        return images, float(images.shape[3])
    decoded, size = [], 0
    for image in images:
        file = io.BytesIO()
        picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
        picture.save(file, "JPEG", quality=quality, subsampling=2)
        size += len(file.getvalue())
        with open_image_bytes(file.getvalue()) as stored:
            decoded.append(np.asarray(stored).reshape(image.shape))
    return np.stack(decoded), size / images[..., 0].size


def measure(setting: Setting, images: Images, size: int, draw: int) -> dict[str, Any]:
    """Attack one pool and return what it opened outside the pool, and what the true key opens."""
    chosen = np.random.default_rng([SEED, size, draw]).permutation(len(images))
    plain, others = images[chosen[: size + OUTSIDE]], images[chosen[size + OUTSIDE :]]
    scheme = load(describe(setting.scheme, plain.shape[1:], BLOCK, options=setting.options))
    # The same key at every quality.
    seed = f"{setting.scheme} {setting.sub_block} {setting.kind} {size} {draw}"
    cipher = scheme.cipher(SecretKey(hashlib.sha256(seed.encode()).digest()))
    sealed, pixel_bytes = compressed(np.asarray(cipher.encrypt(plain)), setting.quality)
    shown = np.arange(size, len(plain))
    started = time.monotonic()
    pool = MemoryPool(scheme.spec, sealed)
    guess = attack(Knowledge(pool, np.arange(size), shown, Budget(BUDGET_SECONDS)))
    seconds = time.monotonic() - started
    opened = best_move(guess.images, plain[size:], scheme.orbit, BLOCK).apply(guess.images, BLOCK)
    gallery = np.concatenate([plain[size:], others[: GALLERY - OUTSIDE]])
    return {
        "setting": setting.name,
        "pool": size,
        "draw": draw,
        "seconds": seconds,
        "bytes": pixel_bytes,
        "ssim": float(np.nanmedian(ssims(opened, plain[size:]))),
        "true_key_ssim": float(
            np.nanmedian(ssims(np.asarray(cipher.decrypt(sealed[size:])), plain[size:]))
        ),
        "named": share_named(opened, gallery),
        "has_key": guess.key is not None,
        "uncertain": guess.is_uncertain,
        "note": guess.note,
    }


def run(args: argparse.Namespace) -> None:
    """Measure the missing cells until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 3600 * args.hours
    done = {(c["setting"], c["pool"], c["draw"]) for c in read_lines(args.out)}
    cells = [(s, size, draw) for size in POOLS for draw in range(args.draws) for s in SETTINGS]
    for setting, size, draw in cells:
        if (setting.name, size, draw) in done:
            continue
        if time.monotonic() > until:
            return
        cell = measure(setting, read_kind(args.data, setting.kind), size, draw)
        append_line(args.out, json.dumps(cell))
        print(setting.name, size, draw, cell["ssim"], cell["named"], cell["seconds"], flush=True)


def summarise(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line a setting and pool size, with medians over the draws; settings without draws are left out."""
    lines = []
    for size in POOLS:
        for setting in SETTINGS:
            own = [c for c in cells if (c["setting"], c["pool"]) == (setting.name, size)]
            if not own:
                continue
            medians = {
                name: float(np.median([c[name] for c in own]))
                for name in ("seconds", "bytes", "ssim", "true_key_ssim", "named")
            }
            opens = sum(c["has_key"] and c["ssim"] >= OPENS_FROM for c in own)
            names = sum(c["has_key"] and c["named"] >= NAMED_FROM for c in own)
            uncertain = sum(c["uncertain"] for c in own)
            counts = {"draws": len(own), "opens": opens, "names": names, "uncertain": uncertain}
            lines.append({**asdict(setting), "pool": size, **counts, **medians})
    return lines


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--draws", type=int, default=2, help="pools of each size")
    parser.add_argument("--hours", type=float, default=1.0, help="time for the missing cells")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/jpeg/cells.jsonl"), help="the journal of cells"
    )
    add_json(parser)
    args = parser.parse_args()
    run(args)
    lines = summarise(read_lines(args.out))
    table = Table("scheme", "pictures", "JPEG", "pool", "SSIM", "true key", "named")
    for line in lines:
        figures = [f"{line[name]:.2f}" for name in ("ssim", "true_key_ssim", "named")]
        scheme = f"{line['scheme']} {line['sub_block']}"
        table.add_row(scheme, line["kind"], str(line["quality"] or "none"), str(line["pool"]), *figures)
    Console(width=120).print(table)
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), "rows": lines})


if __name__ == "__main__":
    main()
