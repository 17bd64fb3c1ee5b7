"""The table attack × scheme × key scope → smallest pool, on real images.

    python benchmarks/audit_table.py --data FOLDER [--only etc,le] [--jobs 2] [--hours 2] [--json FILE]

FOLDER holds brain_mri/{train,val,test}/CLASS/*.jpg and cifar10_jpeg.npz. Every row of the table takes several
draws of key, pool and audit images; every cell is one attack at one pool size in one draw, scored by the product's
own suite/1 measures. Cells are kept in --out as they are finished, so that a run which was stopped goes on; what the
time did not reach is told as not run. CIFAR-10 is taken at 32×32 and enlarged to 224×224, MRI gray at 224×224.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.orbit import orbit_of
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import broken_by, machine
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.score import figures_of
from parties.scoring.truth import Truth, apart, baselines, that_count

POOLS = (1, 2, 5, 10, 20, 50, 100)
AUDIT, GALLERY = 128, 1000
SEED = 20260
SCHEMA = "cipherward.audit-table/1"


@dataclass(frozen=True)
class Row:
    """One line of the table. data: mri, cifar (32×32) or cifar224. attack: a name of ATTACKS."""

    scheme: str
    data: str
    scope: str = "consortium"
    attack: str = "pooled_key_recovery"
    block: int = 16
    pools: tuple[int, ...] = POOLS
    draws: int = 5
    budget_s: float = 300.0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        options = "".join(f" {k}={v}" for k, v in self.options.items())
        return f"{self.scheme}{options}, {self.data}, {self.scope}, {self.attack}"


def _own_keys(rows: Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        # One draw: its 64 scored images have 64 keys.
        yield Row(row.scheme, row.data, "image", row.attack, row.block, (1,), 1, row.budget_s, row.options)


COLOURS = {"colour_shuffle": True}
SHARED = (
    Row("block_pixel_shuffle", "mri"),
    Row("block_pixel_shuffle", "cifar224"),
    Row("pe", "mri"),
    Row("pe", "cifar", block=4),
    Row("pe", "cifar", block=4, options=COLOURS),
    Row("le", "cifar", block=4),
    Row("ele", "cifar", block=4, pools=(50, 100, 200)),
    Row("value_shuffle", "mri"),
    Row("value_shuffle", "cifar224"),
    Row("etc", "mri"),
    Row("etc", "cifar224"),
    Row("block_pixel", "mri", pools=(20, 100)),
)
ROWS = (
    *SHARED,
    Row("orthogonal", "mri", attack="moment_matching", pools=(10, 100)),
    *_own_keys(SHARED),
    Row("pe", "mri", "image", "leading_bit", pools=(1,), draws=1),
    Row("pe", "cifar", "image", "leading_bit", 4, (1,), 1),
    Row("noise", "mri"),
    Row("plain", "mri", attack="as_is", pools=(1,), draws=2),
)


def read_mri(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [n, 224, 224, 1], int64 [n] labels): always gray, since the files' mode differs by class."""
    classes = sorted(p for p in (folder / "brain_mri" / split).iterdir() if p.is_dir())
    images, labels = [], []
    for label, place in enumerate(classes):
        for path in sorted(place.iterdir()):
            with Image.open(path) as picture:
                images.append(np.asarray(picture.convert("L"))[..., None])
            labels.append(label)
    return np.stack(images), np.array(labels)


def read_cifar(folder: Path, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [count, size, size, 3], int64 [count]): the first images, enlarged bicubically."""
    with np.load(folder / "cifar10_jpeg.npz") as stored:
        data, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["labels"]
    images = []
    for i in range(count):
        with Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]])) as picture:
            colour = picture.convert("RGB")
            if size != 32:
                colour = colour.resize((size, size), Image.Resampling.BICUBIC)
            images.append(np.asarray(colour))
    return np.stack(images), labels[:count].astype(np.int64)


def draw_of(
    row: Row, index: int, images: np.ndarray, labels: np.ndarray
) -> tuple[Truth, MemoryPool, SecretKey]:
    """One draw: audit images, gallery, and a pool of others, sealed under a fresh key.

    The pool's first rows are the audit images; the rest are those that may be collected.
    """
    generator = np.random.default_rng([SEED, index])
    order = generator.permutation(len(images))
    candidates = order[: 2 * AUDIT]
    audit = candidates[that_count(images[candidates], AUDIT)]
    rest = order[2 * AUDIT :]
    most = max(row.pools)
    pool_rows, others = rest[:most], rest[most:]
    gallery = np.concatenate([audit, others[: GALLERY - len(audit)]])
    keep = apart(images[gallery], len(audit))
    scheme = load(describe(row.scheme, images.shape[1:], row.block, row.scope, row.options))
    key = SecretKey.generate()
    sealed = scheme.cipher(key).encrypt(images[np.concatenate([audit, pool_rows])])
    truth = Truth(
        pick=np.arange(len(audit)),
        plain=images[audit],
        sealed=sealed[: len(audit)],
        gallery=images[gallery[keep]],
        labels=labels[gallery[keep]],
        spec=scheme.spec,
        block=row.block,
        seed=SEED,
        orbit=orbit_of(scheme.spec),
        row_keys=scheme.spec.key_scope == "image",
    )
    return truth, MemoryPool(scheme.spec, sealed), key


def cells_of(
    row: Row, index: int, folder: Path, done: set[tuple[str, int, int]]
) -> Iterator[dict[str, Any]]:
    """The cells of one draw that are not there yet."""
    sizes = [n for n in row.pools if (row.name, index, n) not in done]
    if not sizes:
        return
    public = None
    if row.data == "mri":
        images, labels = read_mri(folder, "train")
        if row.attack == "moment_matching":
            public = read_mri(folder, "test")[0]
    else:
        images, labels = read_cifar(folder, 3000, 32 if row.data == "cifar" else 224)
    truth, pool, key = draw_of(row, index, images, labels)
    bases = baselines(truth)
    count = len(truth.pick)
    # Where every image has its own key only the scored rows need a guess; the others choose nothing.
    rows = truth.odd if truth.row_keys else np.arange(count)
    for size in sizes:
        seen = count + np.arange(size)
        started = time.monotonic()
        guess = ATTACKS[row.attack].attack(Knowledge(pool, seen, rows, Budget(row.budget_s), public))
        seconds = time.monotonic() - started
        guessed = truth.plain.copy() if truth.row_keys else guess.images
        if truth.row_keys:
            guessed[truth.odd] = guess.images
        figures = figures_of(guessed, guess.key, truth, bases, None if truth.row_keys else key)
        yield {
            "row": row.name,
            "draw": index,
            "pool": size,
            "seconds": seconds,
            "note": guess.note,
            "idle": guess.idle,
            "broken_by": broken_by({**figures, "error": ""}),
            "ssim": figures["ssim"]["median"],
            "baseline": max(float(np.nanmedian(v)) for v in bases.values()),
            "values_right": figures["values_right"],
            "key": figures["key"],
            "K": figures["K"],
            "R": figures["R"],
            "V": figures["V"],
        }


def work(todo: tuple[Row, int, Path, Path, float]) -> None:
    row, index, folder, journal, until = todo
    if time.time() > until:
        return
    done = {(c["row"], c["draw"], c["pool"]) for c in read_lines(journal)}
    for cell in cells_of(row, index, folder, done):
        append_line(journal, json.dumps(cell))
        print(
            f"{cell['row']} · draw {index} · {cell['pool']}: {cell['broken_by']} {cell['ssim']}", flush=True
        )
        if time.time() > until:
            return


def summary_of(row: Row, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table from its cells: broken at n in two thirds of the draws, and at the next larger n.

    A pool size counts with three draws, or all that the row asks for; what has fewer is told, and judged by none.
    """
    mine = [c for c in cells if c["row"] == row.name]
    by_pool: list[dict[str, Any]] = []
    for n in row.pools:
        here = [c for c in mine if c["pool"] == n]
        by_pool.append(
            {
                "pool": n,
                "draws": len(here),
                "broken": sum(bool(c["broken_by"]) for c in here),
                "idle": sum(bool(c.get("idle")) for c in here),
                "ssim": float(np.median([c["ssim"] for c in here])) if here else None,
                "values_right": _median([c["values_right"] for c in here]),
                "R": _median([c["R"]["rate"] for c in here]),
                "R_high": max((c["R"]["high"] for c in here), default=None),
                "V": _median([c["V"]["rate"] for c in here]),
                "V_high": max((c["V"]["high"] for c in here), default=None),
                "seconds": _median([c["seconds"] for c in here]),
            }
        )
    run = [p for p in by_pool if p["draws"] >= min(3, row.draws)]
    smallest = None
    for i, at in enumerate(run):
        following = run[i + 1 : i + 2]
        if all(3 * p["broken"] >= 2 * p["draws"] for p in (at, *following)):
            smallest = at["pool"]
            break
    return {
        **asdict(row),
        "name": row.name,
        "tier": ATTACKS[row.attack].tier.name,
        "pools": by_pool,
        "smallest_pool": smallest,
        "largest_pool": max((p["pool"] for p in run), default=0),
        "baseline": _median([c["baseline"] for c in mine]),
        "notes": sorted({c["note"] for c in mine if c["note"]}),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("CIPHERWARD_DATA")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--only", default="", help="schemes, with commas between")
    parser.add_argument("--out", type=Path, default=Path("runs/audit_table/cells.jsonl"))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="also write the table here")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = [r for r in ROWS if not args.only or r.scheme in args.only.split(",")]
    until = time.time() + 3600 * args.hours
    # Draw by draw, so that a run which is cut short has something of every row; the dear rows last.
    order = sorted(
        ((r, i) for i in range(5) for r in chosen if i < r.draws),
        key=lambda p: (p[0].scope == "image", p[0].data == "cifar224", p[1]),
    )
    todo = [(r, i, args.data, args.out, until) for r, i in order]
    if args.jobs > 1:
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=8) as workers:
            list(workers.imap_unordered(work, todo))
    else:
        for piece in todo:
            work(piece)
    cells = read_lines(args.out)
    lines = [summary_of(row, cells) for row in ROWS]
    table = Table(
        "scheme, data, scope, attack", "smallest pool", "draws", "median SSIM (baseline)", "seconds"
    )
    for line in lines:
        last = next((p for p in reversed(line["pools"]) if p["draws"]), None)
        if last is None:
            table.add_row(line["name"], "not run", "", "", "")
            continue
        broken = line["smallest_pool"]
        few = f"too few draws ({last['broken']} of {last['draws']} broken)"
        shown = f"not broken up to {line['largest_pool']}" if line["largest_pool"] else few
        shown = str(broken) if broken else shown
        if last["draws"] == last["idle"]:
            shown = "no attack was run"
        ssim = f"{last['ssim']:.3f} ({line['baseline']:.3f}) at {last['pool']}"
        table.add_row(line["name"], shown, str(last["draws"]), ssim, f"{last['seconds']:.2f}")
    Console().print(table)
    if args.json:
        args.json.write_text(
            json.dumps({"schema": SCHEMA, "machine": machine(), "rows": lines}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
