"""Run an attack by a trained network on CIFAR-10 at 32×32, sealed in blocks of 4 under one key, and score its epochs.

    python -m benchmarks.gan --data FOLDER [--attack gan] [--scheme le] [--images 50000] [--epochs N] [--every 1]
        [--precision float32] [--hours 1] [--json FILE]

FOLDER holds cifar10_jpeg.npz. The attack sees one random half of --images training images sealed, and the other
half plain. No image is on both sides. The published protocol of `gan` (25 epochs of 50,000 ciphertexts) has the same
50,000 images on both, in another order. An epoch is one pass over the ciphertexts, so half the images make half its
steps. `sia_gan` is given the classes of the ciphertexts, too. `itn` uses no ciphertext: it trains on the plain half,
under fresh keys. --precision bfloat16 trains by torch's autocast; what is scored is decoded in float32.

After every --every epochs the network decodes --test images of CIFAR's test set, which no training saw, and the
median SSIM is printed: of windows with texture, as an audit has it, and over the whole picture, as it was published
for `gan`. SIA-GAN was published by LPIPS, which needs a network pretrained on ImageNet that this project has not. The
floor is the mean of the plain half, guessed for every image. Beside them stands what `gan` chooses its epoch by, of
which the test images are no part: the distance of patches (coordinator/adversary/networks/epoch_choice.py). A run
that is stopped continues from --out.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity
from torch import nn

from benchmarks.command_line import add_data, add_json, make_parser, write_figures
from coordinator.adversary.networks import gan, itn, sia_gan
from coordinator.adversary.networks.device import decode_images, training_device
from coordinator.adversary.networks.epoch_choice import BestEpoch
from coordinator.adversary.networks.training_loop import (
    OnEpoch,
    Progress,
    TrainingConfig,
    to_plain_shape,
)
from coordinator.adversary.time_budget import Budget
from coordinator.exchange.image_file import open_image_bytes
from coordinator.report.build import machine
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec
from parties.scoring.measures import ssims

BLOCK, SHAPE = 4, (32, 32, 3)
#: The published median SSIM of `gan` (arXiv 2010.06198, read off its figure), over whole pictures.
PAPER = {"le": 0.66, "pe": 0.12, "ele": 0.095, "etc": 0.095}
#: The published LPIPS of `sia_gan` (Madono et al. 2021).
PAPER_LPIPS = {"le": 0.091, "pe": 0.163, "ele": 0.148, "etc": 0.207}
PAPER_IMAGES = 50_000
#: Images on either side that the tones are taken from, as in the attack.
TONE_IMAGES = 2000


@dataclass(frozen=True)
class Data:
    """What the attack sees, and what scores it.

    Attributes:
        spec: the scheme.
        sealed: ciphertexts to train on.
        labels: their classes, int64 [n].
        public: plain images to train on.
        plain: held-out images.
        sealed_plain: the same, sealed under the same key.
    """

    spec: SchemeSpec
    sealed: AnyArray
    labels: Int64Array
    public: Images
    plain: Images
    sealed_plain: AnyArray


@dataclass(frozen=True)
class Trained:
    """How an attack by a trained network is run.

    Attributes:
        published: the published training.
        train: trains on data until the budget ends, resumed from a file, and tells of every epoch.
        lowest: the network's output that stands for black.
    """

    published: TrainingConfig
    train: Callable[[Data, TrainingConfig, Budget, Path, OnEpoch, BestEpoch], tuple[nn.Module, Progress]]
    lowest: float = -1.0


ATTACKS = {
    "gan": Trained(
        gan.PUBLISHED,
        lambda data, config, budget, file, on_epoch, best: gan.train(
            data.sealed, data.public, data.spec, config, budget, file, on_epoch, best
        ),
    ),
    "sia_gan": Trained(
        sia_gan.PUBLISHED,
        lambda data, config, budget, file, on_epoch, _: sia_gan.train(
            data.sealed, data.public, data.labels, data.spec, config, budget, file, on_epoch
        ),
    ),
    "itn": Trained(
        itn.PUBLISHED,
        lambda data, config, budget, file, on_epoch, _: itn.train(
            data.public, data.spec, config, budget, file, on_epoch
        ),
        lowest=0.0,
    ),
}


def draw(folder: Path, test: bool, count: int, seed: int) -> tuple[Images, Int64Array]:
    """Return random images of CIFAR-10's training or test set, uint8 [count, 32, 32, 3], and their classes."""
    with np.load(folder / "cifar10_jpeg.npz") as stored:
        data, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["labels"]
        rows = np.flatnonzero(stored["is_test"].astype(bool) == test)
    if count > len(rows):
        raise SystemExit(f"CIFAR-10 has {len(rows)} such images, {count} are asked for")
    drawn = np.random.default_rng([seed, int(test)]).permutation(rows)[:count]
    images = []
    for i in drawn:
        with open_image_bytes(data[offsets[i] : offsets[i + 1]]) as picture:
            images.append(np.asarray(picture.convert("RGB")))
    return np.stack(images), labels[drawn].astype(np.int64)


def medians(guesses: Images, plain: Images) -> dict[str, float]:
    """Return the median SSIM by the audit's measure, and over the whole picture as in the paper."""
    whole = [structural_similarity(a, b, channel_axis=-1) for a, b in zip(guesses, plain, strict=True)]
    return {
        "ssim": round(float(np.nanmedian(ssims(guesses, plain))), 4),
        "whole_picture": round(float(np.median(whole)), 4),
    }


def seal_data(args: argparse.Namespace) -> Data:
    """Draw the images of a run and seal them."""
    scheme = load(describe(args.scheme, SHAPE, BLOCK))
    # From the seed, so that a stopped run continues with the same ciphertexts; the attack never sees it.
    key = SecretKey(hashlib.sha256(f"benchmarks/gan {args.seed}".encode()).digest())
    cipher = scheme.cipher(key)
    drawn, labels = draw(args.data, False, args.images, args.seed)
    plain, _ = draw(args.data, True, args.test, args.seed)
    half = args.images // 2
    sealed, sealed_plain = (
        to_plain_shape(scheme.spec, cipher.encrypt(part)) for part in (drawn[:half], plain)
    )
    return Data(scheme.spec, sealed, labels[:half], drawn[half:], plain, sealed_plain)


def score_floors(data: Data) -> dict[str, dict[str, float]]:
    """Score what needs no attack: the mean image, and the ciphertext's picture."""
    mean = np.repeat(data.public.mean(0, keepdims=True).round().astype(np.uint8), len(data.plain), axis=0)
    return {
        "mean image": medians(mean, data.plain),
        "ciphertext": medians(load(data.spec).picture(data.sealed_plain), data.plain),
    }


def score_epoch(
    attack: Trained, data: Data, network: nn.Module, progress: Progress, seconds: float, best: BestEpoch
) -> dict[str, Any]:
    """Score a network on the held-out images."""
    guesses = decode_images(network, data.sealed_plain, attack.lowest)
    generated = decode_images(network, data.sealed[:TONE_IMAGES], attack.lowest)
    toned = gan.match_tones(guesses, generated, data.public[:TONE_IMAGES])
    return {
        "epoch": progress.epochs,
        "steps": progress.steps,
        **medians(guesses, data.plain),
        "toned": medians(toned, data.plain)["ssim"],
        "patch_distance": best.distances.get(progress.epochs),
        **{f"loss_{name}": round(value, 4) for name, value in progress.losses.items()},
        "seconds": round(seconds, 1),
    }


def run(args: argparse.Namespace, data: Data, out: Path) -> tuple[Progress, list[dict[str, Any]]]:
    """Train, and return how far the training came and the scores of every epoch."""
    journal = out / "epochs.jsonl"
    earlier_seconds = read_lines(journal)[-1]["seconds"] if journal.exists() else 0.0
    started = time.monotonic()

    attack, device = ATTACKS[args.attack], training_device().type
    best = gan.choose_epoch(data.sealed, data.public)

    def score(network: nn.Module, progress: Progress) -> None:
        seconds = earlier_seconds + time.monotonic() - started
        with torch.autocast(device, enabled=False):
            if args.attack == "sia_gan":  # shown only: `gan` chooses by it, within its training
                best.consider(network, progress.epochs)
            record = score_epoch(attack, data, network, progress, seconds, best)
        append_line(journal, json.dumps(record))
        print(record, flush=True)

    def on_epoch(network: nn.Module, progress: Progress) -> None:
        if progress.epochs % args.every == 0 or progress.epochs == args.epochs:
            score(network, progress)

    config = TrainingConfig(args.epochs, attack.published.batch_size, args.seed)
    budget = Budget(3600 * args.hours)
    with torch.autocast(device, torch.bfloat16, enabled=args.precision == "bfloat16"):
        generator, progress = attack.train(data, config, budget, out / "checkpoint.pt", on_epoch, best)
    records = read_lines(journal)
    if progress.is_untrained:
        raise SystemExit(progress.note or "nothing was trained")
    if not records or records[-1]["steps"] < progress.steps:  # stopped within an epoch
        score(generator, progress)
        records = read_lines(journal)
    return progress, records


def summarise(
    args: argparse.Namespace,
    data: Data,
    floors: Mapping[str, Mapping[str, float]],
    progress: Progress,
    records: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the figures of a run."""
    last = records[-1]
    published = ATTACKS[args.attack].published
    published_steps = published.epochs * (PAPER_IMAGES // published.batch_size)
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "run": {"command": shlex.join(["python", *sys.argv])},
        "machine": {**machine(), "threads": args.threads, "device": str(training_device())},
        "attack": args.attack,
        "scheme": args.scheme,
        "precision": args.precision,
        "sealed_images": len(data.sealed) if args.attack != "itn" else 0,
        "plain_images": len(data.public),
        "held_out_images": len(data.plain),
        "epochs": f"{progress.epochs} of {args.epochs}",
        "share_of_the_published_steps": round(progress.steps / published_steps, 3),
        "median_ssim": last["ssim"],
        "median_ssim_toned": last.get("toned", "not run"),
        "median_ssim_mean_image": floors["mean image"]["ssim"],
        "median_ssim_ciphertext": floors["ciphertext"]["ssim"],
        "median_ssim_whole_picture": last["whole_picture"],
        "mean_image_whole_picture": floors["mean image"]["whole_picture"],
        "ciphertext_whole_picture": floors["ciphertext"]["whole_picture"],
        **_beside(args, records),
        "seconds": last["seconds"],
        "note": progress.note,
        "by_epoch": records,
    }


def _beside(args: argparse.Namespace, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what was published of the attack, and the epoch that it chooses itself, as `gan` does."""
    if args.attack == "sia_gan":
        return {"published_lpips": PAPER_LPIPS.get(args.scheme, "not published")}
    if args.attack == "itn":
        return {}
    measured = [record for record in records if record.get("patch_distance") is not None]
    chosen = min(measured, key=lambda record: float(record["patch_distance"]), default=None)
    return {
        "published_whole_picture": PAPER.get(args.scheme, "not published"),
        "chosen_epoch": chosen["epoch"] if chosen else "not run",
        "median_ssim_chosen_toned": chosen["toned"] if chosen else "not run",
        "median_ssim_best_toned": max((record["toned"] for record in measured), default="not run"),
    }


def show(figures: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    title = f"{figures['attack']} on {figures['scheme']}, CIFAR-10 32×32, blocks of {BLOCK}"
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        if not isinstance(value, list | dict):
            table.add_row(name.replace("_", " "), str(value))
    best = max(figures["by_epoch"], key=lambda r: r["ssim"])
    table.add_row("best epoch, which an adversary does not know", f"{best['epoch']}: {best['ssim']}")
    Console().print(table)


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--attack", choices=list(ATTACKS), default="gan")
    parser.add_argument("--scheme", default="le")
    parser.add_argument("--images", type=int, default=PAPER_IMAGES, help="both halves together")
    parser.add_argument("--epochs", type=int, help="default: as published")
    parser.add_argument("--every", type=int, default=1, help="epochs from one score to the next")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of the training"
    )
    parser.add_argument("--hours", type=float, default=1.0, help="of training, in this run")
    parser.add_argument("--test", type=int, default=1000, help="held-out images to score")
    parser.add_argument("--seed", type=int, default=0, help="of the key, the halves, weights and batches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--out", type=Path, help="checkpoint and journal; default runs/gan/ATTACK-SCHEME-IMAGES-SEED"
    )
    add_json(parser)
    args = parser.parse_args()
    args.epochs = args.epochs or ATTACKS[args.attack].published.epochs
    torch.set_num_threads(args.threads)
    out = args.out or Path("runs/gan") / f"{args.attack}-{args.scheme}-{args.images}-{args.seed}"
    out.mkdir(parents=True, exist_ok=True)
    data = seal_data(args)
    floors = score_floors(data)
    for name, floor in floors.items():
        print(f"{name}: {floor}", flush=True)
    progress, records = run(args, data, out)
    figures = summarise(args, data, floors, progress, records)
    show(figures)
    write_figures(args.json, figures)


if __name__ == "__main__":
    main()
