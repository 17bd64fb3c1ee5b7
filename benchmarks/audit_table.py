"""The audit table: the smallest pool that breaks each scheme, by attack and key scope, on real images.

    python -m benchmarks.audit_table --data FOLDER [--only etc,le] [--jobs 2] [--hours 2] [--json FILE]
    python -m benchmarks.audit_table --data FOLDER --around docs/results/8-audit-table.json --draws 3 --hours 1

FOLDER holds brain_mri/{train,val,test}/CLASS/*.jpg, cifar10_jpeg.npz and pneumoniamnist.npz. Every row of the table
takes several draws of key, pool and audit images. Every cell is one attack at one pool size in one draw, scored with
the product's own measures, by the rule that it names (suite/2). Finished cells are kept in --out, so that a stopped
run continues with the next cell. Cells that the time did not reach are called "not run". CIFAR-10 is used at 32×32
and enlarged to 224×224, MRI in gray at 224×224.

The whole table takes hours of one core. What it says of a scheme, the smallest pool that breaks it, is decided by few
of its cells: the second form measures those alone, in three draws. They are the pool that broke the scheme in an
earlier table, the next smaller and the next larger one; where nothing broke it, the largest two.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from benchmarks.table1_data import read
from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.audit import suite1
from coordinator.exchange.audit.suite1 import POOLS, draws_needed
from coordinator.exchange.audit.suite2 import SUITE, breaking_measures
from coordinator.exchange.image_file import open_image, open_image_bytes
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images, Int64Array
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.figures import compute_figures
from parties.scoring.second_look import second_truth
from parties.scoring.truth import Truth, baseline_ssims, distinct_rows, gallery_members

AUDIT_IMAGES, GALLERY_IMAGES = 128, 1000  # as in suite/1
SMALL_IMAGES = 3000  # enough for the audit images, the gallery and the largest pool
PUBLIC_IMAGES = 1000  # those that follow, for attacks that need public images
SEED = 20260
SCHEMA = "cipherward.audit-table/1"


@dataclass(frozen=True)
class Row:
    """One line of the table. data: mri, mri64, pneumonia, cifar (32×32) or cifar224. attack: a name of ATTACKS."""

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
        """The row's name in the journal of cells: scheme and options, data, key scope, attack."""
        options = "".join(f" {k}={v}" for k, v in self.options.items())
        return f"{self.scheme}{options}, {self.data}, {self.scope}, {self.attack}"


def _with_image_keys(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the same rows with a different key for each image, attacked one image at a time."""
    for row in rows:
        # One draw is enough: its 64 scored images have 64 keys.
        yield Row(row.scheme, row.data, "image", row.attack, row.block, (1,), 1, row.budget_s, row.options)


def _small_with_image_keys() -> Iterator[Row]:
    """Yield rows for the small images that benchmarks/image_keys.py trains on, those aside that SHARED yields."""
    for scheme in ("block_pixel_shuffle", "value_shuffle", "etc", "pe", "le", "ele", "block_pixel"):
        for data in ("pneumonia", "cifar"):
            if not any((row.scheme, row.data, row.options) == (scheme, data, {}) for row in SHARED):
                yield Row(scheme, data, "image", block=4, pools=(1,), draws=1)
        yield Row(scheme, "mri64", "image", block=8, pools=(1,), draws=1)


COLOURS = {"colour_shuffle": True}
SHARED = (
    Row("block_pixel_shuffle", "mri"),
    Row("block_pixel_shuffle", "cifar224"),
    Row("pe", "mri"),
    Row("pe", "cifar", block=4),
    Row("pe", "cifar", block=4, options=COLOURS),
    Row("le", "cifar", block=4),
    Row("ele", "cifar", block=4, pools=(10, 20, 24, 30, 40, 50, 100, 200)),
    Row("value_shuffle", "mri"),
    Row("value_shuffle", "cifar224"),
    Row("etc", "mri"),
    Row("etc", "cifar224"),
    Row("sub_block_etc", "mri", pools=(1, 2, 5, 10, 20)),
    Row("sub_block_etc", "cifar224", pools=(1, 2, 5, 10, 20)),
    Row("block_pixel", "mri", pools=(5, 10, 20, 100)),
    Row("block_pixel", "cifar", block=4, pools=(5, 10, 20, 100, 300)),
)
ROWS = (
    *SHARED,
    Row("orthogonal", "mri", attack="moment_matching", pools=(1, 2, 5, 10, 100)),
    Row("noisy_orthogonal", "mri", attack="moment_matching", pools=(10, 100)),
    Row("block_projection", "mri", attack="moment_matching", pools=(20, 100, 400), draws=3),
    # No key opens it, and pictures come without one. as_is says what its ciphertexts show of themselves. What
    # matches them with images needs these (match_tokens), so it is no part of an audit: benchmarks/projections.py.
    Row("neuracrypt", "mri", attack="moment_matching", pools=(100, 400), draws=3),
    Row("neuracrypt", "cifar", attack="moment_matching", block=4, pools=(100, 400), draws=3),
    Row("neuracrypt", "pneumonia", attack="moment_matching", block=4, pools=(100, 400), draws=3),
    Row("neuracrypt", "mri", attack="as_is", pools=(1,), draws=3),
    *_with_image_keys(SHARED),
    *_small_with_image_keys(),
    # Its order is drawn for every image, whatever the scope.
    Row("patch_shuffle", "mri", "image", "jigsaw", pools=(1,), draws=1),
    Row("patch_shuffle", "cifar", "image", "jigsaw", 4, (1,), 1),
    Row("patch_shuffle", "cifar224", "image", "jigsaw", pools=(1,), draws=1),
    Row("patch_shuffle", "pneumonia", "image", "jigsaw", 4, (1,), 1),
    Row("pe", "mri", "image", "leading_bit", pools=(1,), draws=1),
    Row("pe", "cifar", "image", "leading_bit", 4, (1,), 1),
    Row("noise", "mri"),
    Row("plain", "mri", attack="as_is", pools=(1,), draws=2),
)


#: Schemes whose cells take minutes. They come last.
_SLOW = ("ele", "block_pixel")


def read_mri(folder: Path, split: str) -> tuple[Images, Int64Array]:
    """Return images, uint8 [n, 224, 224, 1], and labels, int64 [n]. Always gray: files' modes differ by class."""
    classes = sorted(p for p in (folder / "brain_mri" / split).iterdir() if p.is_dir())
    images, labels = [], []
    for label, place in enumerate(classes):
        for path in sorted(place.iterdir()):
            with open_image(path) as picture:
                images.append(np.asarray(picture.convert("L"))[..., None])
            labels.append(label)
    return np.stack(images), np.array(labels)


def read_small_mri(folder: Path) -> tuple[Images, Int64Array]:
    """Return the slices as benchmarks/image_keys.py trains on them, uint8 [n, 64, 64, 1], and labels, int64 [n]."""
    slices = read(folder, "mri", 64, (0, 1, 1))["train"]
    images: Images = slices.images
    return images, slices.labels


def read_cifar(folder: Path, count: int, size: int) -> tuple[Images, Int64Array]:
    """Return the first images, uint8 [count, size, size, 3], enlarged bicubically, and labels, int64 [count]."""
    with np.load(folder / "cifar10_jpeg.npz") as stored:
        data, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["labels"]
    images = []
    for i in range(count):
        with open_image_bytes(data[offsets[i] : offsets[i + 1]]) as picture:
            colour = picture.convert("RGB")
            if size != 32:
                colour = colour.resize((size, size), Image.Resampling.BICUBIC)
            images.append(np.asarray(colour))
    return np.stack(images), labels[:count].astype(np.int64)


def read_pneumonia(folder: Path, count: int) -> tuple[Images, Int64Array]:
    """Return the first chest X-rays, uint8 [count, 28, 28, 1], and labels, int64 [count]."""
    with np.load(folder / "pneumoniamnist.npz") as stored:
        images: Images = stored["train_images"][:count].reshape(-1, 28, 28, 1)
        return images, stored["train_labels"][:count].reshape(-1).astype(np.int64)


def make_draw(
    row: Row, index: int, images: Images, labels: Int64Array
) -> tuple[Truth, MemoryPool, SecretKey]:
    """Draw audit images, a gallery and a pool of other images, and seal them under a fresh key.

    The first rows of the pool are the audit images; an attack may collect the others.
    """
    generator = np.random.default_rng([SEED, index])
    order = generator.permutation(len(images))
    candidates = order[: 2 * AUDIT_IMAGES]
    audit = candidates[distinct_rows(images[candidates], AUDIT_IMAGES)]
    rest = order[2 * AUDIT_IMAGES :]
    largest = max(row.pools)
    pool_rows, others = rest[:largest], rest[largest:]
    gallery = np.concatenate([audit, others[: GALLERY_IMAGES - len(audit)]])
    keep = gallery_members(images[gallery], len(audit))
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
        orbit=load(scheme.spec).orbit,
        row_keys=scheme.is_each_alone,
    )
    return truth, MemoryPool(scheme.spec, sealed), key


def cells_of(
    row: Row, index: int, folder: Path, done: set[tuple[str, int, int]]
) -> Iterator[dict[str, Any]]:
    """Attack at each pool size of one draw that is not done yet, and yield the cells."""
    sizes = [n for n in row.pools if (row.name, index, n) not in done]
    if not sizes:
        return
    public = _public_images(row, folder) if row.attack == "moment_matching" else None
    if row.data == "mri":
        images, labels = read_mri(folder, "train")
    elif row.data == "mri64":
        images, labels = read_small_mri(folder)
    elif row.data == "pneumonia":
        images, labels = read_pneumonia(folder, SMALL_IMAGES)
    else:
        images, labels = read_cifar(folder, SMALL_IMAGES, 32 if row.data == "cifar" else 224)
    truth, pool, key = make_draw(row, index, images, labels)
    bases, second = baseline_ssims(truth), second_truth(truth)
    count = len(truth.pick)
    # If every image has its own key, only the scored rows need a guess: the others choose nothing.
    rows = truth.odd if truth.row_keys else np.arange(count)
    for size in sizes:
        pool_rows = count + np.arange(size)
        started = time.monotonic()
        guess = ATTACKS[row.attack].attack(Knowledge(pool, pool_rows, rows, Budget(row.budget_s), public))
        seconds = time.monotonic() - started
        guesses = truth.plain.copy() if truth.row_keys else guess.images
        if truth.row_keys:
            guesses[truth.odd] = guess.images
        figures = compute_figures(guesses, guess.key, truth, bases, None if truth.row_keys else key, second)
        values = figures.to_json()
        yield {
            "row": row.name,
            "draw": index,
            "pool": size,
            "seconds": seconds,
            "note": guess.note,
            "idle": guess.idle,
            "uncertain": guess.is_uncertain,
            "confidence": guess.confidence,
            "suite": SUITE,
            "broken_by": list(breaking_measures(figures, SUITE)),
            "ssim": values["ssim"]["median"],
            "psnr": values["psnr"]["median"],
            "baseline": max(float(np.nanmedian(v)) for v in bases.values()),
            **{name: values[name] for name in ("values_right", "key", "K", "R", "V")},
        }


def _public_images(row: Row, folder: Path) -> Images:
    """Return images of a row's source that are in none of its draws, for the attacks that need public ones."""
    if row.data == "mri":
        return read_mri(folder, "test")[0]
    if row.data == "pneumonia":
        return read_pneumonia(folder, SMALL_IMAGES + PUBLIC_IMAGES)[0][SMALL_IMAGES:]
    if row.data != "cifar":
        raise ValueError(f"{row.data}: no public images are set aside")
    return read_cifar(folder, SMALL_IMAGES + PUBLIC_IMAGES, 32)[0][SMALL_IMAGES:]


def work(todo: tuple[Row, int, Path, Path, float]) -> None:
    """Run the missing cells of one draw until the time is over: (row, draw, data, journal, end)."""
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


def summarise_row(row: Row, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one line of the table from its cells, by the rule of an audit's verdict (coordinator/report/verdict.py).

    A row is broken at n if two thirds of the draws are broken at n, and the next larger n that decides does not
    refute it. A pool size counts if it has three draws, or all that the row asks for. One with fewer draws is shown,
    and decides nothing.
    """
    row_cells = [c for c in cells if c["row"] == row.name]
    by_pool = [summarise_pool(n, [c for c in row_cells if c["pool"] == n]) for n in row.pools]
    counted = [p for p in by_pool if p["draws"] >= min(3, row.draws)]
    decisions = [_decision(p) for p in counted]
    smallest = None
    for i, pool in enumerate(counted):
        following = [d for d in decisions[i + 1 :] if d is not None]
        if decisions[i] and (not following or following[0]):
            smallest = pool["pool"]
            break
    return {
        **asdict(row),
        "name": row.name,
        "tier": ATTACKS[row.attack].tier.name,
        # Cells of before it was noted were judged by suite/1. The oldest rule counts: a row may hold cells of both.
        "suite": min((c.get("suite", suite1.SUITE) for c in row_cells), default=SUITE),
        "pools": by_pool,
        "smallest_pool": smallest,
        "largest_pool": max((p["pool"] for p in counted), default=0),
        "baseline": _median([c["baseline"] for c in row_cells]),
        "notes": sorted({c["note"] for c in row_cells if c["note"]}),
    }


def _decision(pool: dict[str, Any]) -> bool | None:
    """Return whether a pool size is broken in two thirds of the draws; None if it does not decide.

    What ran out of time, tried nothing or is uncertain says nothing about resistance.
    """
    needed = draws_needed(pool["draws"])
    if pool["broken"] >= needed:
        return True
    return False if pool["withstood"] > pool["draws"] - needed else None


def summarise_pool(n: int, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one pool size, over its draws."""
    return {
        "pool": n,
        "draws": len(cells),
        # What an attack returns untried is the ciphertext's picture: another row says what that shows.
        "broken": sum(bool(c["broken_by"]) and not c.get("idle") for c in cells),
        "idle": sum(bool(c.get("idle")) for c in cells),
        "uncertain": sum(bool(c.get("uncertain")) and not c["broken_by"] for c in cells),
        "withstood": sum(
            not (c["broken_by"] or c.get("idle") or c.get("uncertain") or "truncated" in c["note"])
            for c in cells
        ),
        "ssim": _median([c["ssim"] for c in cells]),
        "values_right": _median([c["values_right"] for c in cells]),
        "R": _median([c["R"]["rate"] for c in cells]),
        "R_high": max((c["R"]["high"] for c in cells), default=None),
        "V": _median([c["V"]["rate"] for c in cells]),
        "V_high": max((c["V"]["high"] for c in cells), default=None),
        "seconds": _median([c["seconds"] for c in cells]),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def deciding_pools(row: Row, earlier: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    """Return the pool sizes that decide on a row's smallest pool, as far as an earlier table tells.

    They are the size that broke the scheme there, with its neighbours; the largest two where none did, or where the
    row is not in that table.
    """
    known = next((line for line in earlier if line["name"] == row.name), {"smallest_pool": None})
    smallest = known["smallest_pool"]
    if smallest not in row.pools:
        return row.pools[-2:]
    place = row.pools.index(smallest)
    return row.pools[max(0, place - 1) : place + 2]


def chosen_rows(args: argparse.Namespace) -> list[Row]:
    """Return the rows to measure, cut to the draws and the pool sizes that are asked for."""
    rows = [row for row in ROWS if not args.only or row.scheme in split_list(args.only)]
    rows = [row for row in rows if not args.images or row.data in split_list(args.images)]
    earlier = json.loads(args.around.read_text())["result"]["rows"] if args.around else None
    return [
        replace(
            row,
            draws=min(row.draws, args.draws),
            pools=row.pools if earlier is None else deciding_pools(row, earlier),
        )
        for row in rows
    ]


def run(args: argparse.Namespace) -> None:
    """Run the missing cells of the chosen rows, in as many processes as asked for, until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = chosen_rows(args)
    until = time.time() + 3600 * args.hours
    # Draw by draw, so that a run that is cut short has something of every row; expensive rows last.
    order = sorted(
        ((row, i) for i in range(5) for row in rows if i < row.draws),
        key=lambda p: (p[0].scheme in _SLOW, p[0].scope == "image", p[0].data == "cifar224", p[1]),
    )
    todo = [(row, i, args.data, args.out, until) for row, i in order]
    if args.jobs > 1:
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=8) as workers:
            list(workers.imap_unordered(work, todo))
    else:
        for item in todo:
            work(item)


def with_earlier(
    lines: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the lines of a table, where those of which no cell was measured are taken from an earlier table."""
    kept = {line["name"]: line for line in earlier}
    return [
        line if any(p["draws"] for p in line["pools"]) else kept.get(line["name"], line) for line in lines
    ]


def show(lines: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(
        "scheme, data, scope, attack", "smallest pool", "draws", "median SSIM (baseline)", "seconds"
    )
    for line in lines:
        last = next((p for p in reversed(line["pools"]) if p["draws"]), None)
        if last is None:
            table.add_row(line["name"], "not run", "", "", "")
            continue
        if last["draws"] == last["idle"]:
            verdict = "no attack was run"
        elif line["smallest_pool"]:
            verdict = str(line["smallest_pool"])
        elif 3 * last.get("uncertain", 0) > last["draws"]:
            verdict = f"attack uncertain at {last['pool']}"
        elif line["largest_pool"]:
            verdict = f"not broken up to {line['largest_pool']}"
        else:
            verdict = f"too few draws ({last['broken']} of {last['draws']} broken)"
        ssim = f"{last['ssim']:.3f} ({line['baseline']:.3f}) at {last['pool']}"
        table.add_row(line["name"], verdict, str(last["draws"]), ssim, f"{last['seconds']:.2f}")
    Console().print(table)


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--only", default="", help="schemes, separated by commas")
    parser.add_argument(
        "--images", default="", help="only rows on these: mri, mri64, pneumonia, cifar, cifar224"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/audit_table/cells.jsonl"), help="the journal of cells"
    )
    parser.add_argument(
        "--update", type=Path, help="an earlier file of docs/results, for rows that are not run"
    )
    parser.add_argument("--draws", type=int, default=5, help="draws of key, pool and images, at most")
    parser.add_argument(
        "--around", type=Path, help="an earlier file of docs/results: only the pools that decide, see above"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--hours", type=float, default=2.0, help="time for the whole table")
    add_json(parser)
    args = parser.parse_args()
    run(args)
    cells = read_lines(args.out)
    earlier = json.loads(args.update.read_text())["result"]["rows"] if args.update else ()
    lines = with_earlier([summarise_row(row, cells) for row in ROWS], earlier)
    show(lines)
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), "rows": lines})


if __name__ == "__main__":
    main()
