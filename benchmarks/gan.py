"""What the GAN attack makes of CIFAR-10 at 32×32, sealed in blocks of 4 under one key, epoch by epoch.

    python benchmarks/gan.py --data FOLDER [--scheme le] [--images 50000] [--epochs 25] [--hours 1] [--json FILE]

FOLDER holds cifar10_jpeg.npz. Of --images training images one random half is only seen sealed, the other only plain:
no image is on both sides. The published protocol (25 epochs of 50,000 ciphertexts) has the same 50,000 images on
both, in another order; an epoch is one pass over the ciphertexts, so half the images make half its steps.

After every epoch the generator opens --test images of CIFAR's test set, which no training saw, and the median SSIM is
printed: of windows with texture, as an audit has it, and over the whole picture, as it was published. The floor is
the mean of the plain half, guessed for every image. A run that is stopped goes on from --out.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity
from torch import nn

from coordinator.adversary.contract import Budget
from coordinator.adversary.networks.gan import PUBLISHED, toned, train
from coordinator.adversary.networks.training_loop import Course, Progress, as_input, device, pictures
from coordinator.report.build import machine
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.measures import ssims

BLOCK, SHAPE = 4, (32, 32, 3)
#: About the published median SSIM (arXiv 2010.06198), over whole pictures.
PAPER = {"le": 0.66, "pe": 0.12, "ele": 0.095, "etc": 0.095}
PAPER_IMAGES = 50_000


def read(folder: Path, test: bool, count: int, seed: int) -> np.ndarray:
    """uint8 [count, 32, 32, 3]: random images of CIFAR-10's training or test set."""
    with np.load(folder / "cifar10_jpeg.npz") as stored:
        data, offsets = stored["jpeg"].tobytes(), stored["offsets"]
        rows = np.flatnonzero(stored["is_test"].astype(bool) == test)
    if count > len(rows):
        raise SystemExit(f"CIFAR-10 has {len(rows)} such images, {count} are asked for")
    images = []
    for i in np.random.default_rng([seed, int(test)]).permutation(rows)[:count]:
        with Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]])) as picture:
            images.append(np.asarray(picture.convert("RGB")))
    return np.stack(images)


def medians(guesses: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """Median SSIM by the audit's measure and over the whole picture, as in the paper."""
    whole = [structural_similarity(a, b, channel_axis=-1) for a, b in zip(guesses, plain, strict=True)]
    return {
        "ssim": round(float(np.nanmedian(ssims(guesses, plain))), 4),
        "whole_picture": round(float(np.median(whole)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("CIPHERWARD_DATA")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--scheme", default="le")
    parser.add_argument("--images", type=int, default=PAPER_IMAGES, help="both halves together")
    parser.add_argument("--epochs", type=int, default=PUBLISHED.epochs)
    parser.add_argument("--hours", type=float, default=1.0, help="of training, in this run")
    parser.add_argument("--test", type=int, default=1000, help="held-out images to score")
    parser.add_argument("--seed", type=int, default=0, help="of the key, the halves, weights and batches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--out", type=Path, help="checkpoint and journal; default runs/gan/SCHEME-IMAGES-SEED"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = args.out or Path("runs/gan") / f"{args.scheme}-{args.images}-{args.seed}"
    out.mkdir(parents=True, exist_ok=True)
    journal = out / "epochs.jsonl"

    scheme = load(describe(args.scheme, SHAPE, BLOCK))
    spec = scheme.spec
    # From the seed, so that a stopped run goes on with the same ciphertexts; the attack never sees it.
    key = SecretKey(hashlib.sha256(f"benchmarks/gan {args.seed}".encode()).digest())
    drawn = read(args.data, False, args.images, args.seed)
    half = args.images // 2
    sealed = as_input(spec, scheme.cipher(key).encrypt(drawn[:half]))
    public, plain = drawn[half:], read(args.data, True, args.test, args.seed)
    opened = as_input(spec, scheme.cipher(key).encrypt(plain))
    mean = np.repeat(public.mean(0, keepdims=True).round().astype(np.uint8), len(plain), axis=0)
    floors = {
        "mean image": medians(mean, plain),
        "ciphertext": medians(scheme.picture(opened), plain),
    }
    for name, floor in floors.items():
        print(f"{name}: {floor}", flush=True)

    spent = read_lines(journal)[-1]["seconds"] if journal.exists() else 0.0  # by earlier runs
    started = time.monotonic()

    def score(generator: nn.Module, progress: Progress) -> None:
        record = {
            "epoch": progress.epochs,
            "steps": progress.steps,
            **medians(made := pictures(generator, opened), plain),
            "toned": medians(toned(made, pictures(generator, sealed[:2000]), public[:2000]), plain)["ssim"],
            **{f"loss_{name}": round(value, 4) for name, value in progress.losses.items()},
            "seconds": round(spent + time.monotonic() - started, 1),
        }
        append_line(journal, json.dumps(record))
        print(record, flush=True)

    course = Course(args.epochs, PUBLISHED.batch, args.seed)
    budget = Budget(3600 * args.hours)
    generator, progress = train(sealed, public, spec, course, budget, out / "checkpoint.pt", score)
    records = read_lines(journal)
    if progress.diverged or not progress.steps:
        raise SystemExit(progress.note or "nothing was trained")
    if not records or records[-1]["steps"] < progress.steps:  # stopped within an epoch
        score(generator, progress)
        records = read_lines(journal)
    last, best = records[-1], max(records, key=lambda r: r["ssim"])
    whole = PUBLISHED.epochs * (PAPER_IMAGES // PUBLISHED.batch)
    figures: dict[str, Any] = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "run": {"command": shlex.join(["python", *sys.argv])},
        "machine": {**machine(), "threads": args.threads, "device": str(device())},
        "scheme": args.scheme,
        "sealed_images": half,
        "plain_images": len(public),
        "held_out_images": len(plain),
        "epochs": f"{progress.epochs} of {args.epochs}",
        "share_of_the_published_steps": round(progress.steps / whole, 3),
        "median_ssim": last["ssim"],
        "median_ssim_toned": last.get("toned", "not run"),
        "median_ssim_mean_image": floors["mean image"]["ssim"],
        "median_ssim_ciphertext": floors["ciphertext"]["ssim"],
        "median_ssim_whole_picture": last["whole_picture"],
        "mean_image_whole_picture": floors["mean image"]["whole_picture"],
        "ciphertext_whole_picture": floors["ciphertext"]["whole_picture"],
        "published_whole_picture": PAPER.get(args.scheme, "not published"),
        "seconds": last["seconds"],
        "note": progress.note,
        "by_epoch": records,
    }
    table = Table(
        "figure", "value", title=f"GAN attack on {args.scheme}, CIFAR-10 32×32, blocks of {BLOCK}"
    )
    for name, value in figures.items():
        if not isinstance(value, list | dict):
            table.add_row(name.replace("_", " "), str(value))
    table.add_row("best epoch, of which an adversary does not know", f"{best['epoch']}: {best['ssim']}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
