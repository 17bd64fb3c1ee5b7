"""What a Vision Transformer's stem gives away of the key: carried stems, stems that learnt, and the cloud's own.

    python benchmarks/stems.py --data FOLDER [--images 800] [--own SCHEME:n,...] [--only carried,learnt] [--json FILE]

FOLDER holds brain_mri/train/CLASS/*.jpg and vit_tiny_patch16_224.safetensors. Images are gray 224×224, sealed under
one fresh key; blocks and patches are of 16.

carried  the public stem, carried into the key's coordinates, with the public weights at hand and without
learnt   the public stem after one epoch on --images ciphertexts, 32 a step (AdamW 3e-4; SGD 0.03)
own      a stem that the cloud itself trains on n ciphertexts of a scheme, for each in --own, under stem mode private

Neighbours: the share of units (pixels of a sub-block, values of a block, tokens) whose most similar other one stands
beside them in the plain image; `raw` is that of the change with the weight decay in it. K1 and K2 are shares of the
permutations found, under value_shuffle only where the turn happens to be right. SSIM is suite/1's, median of 20
images outside the pool, after one move of the scheme's orbit for all of them, chosen on 20 others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.key_recovery import BLOCK, SIZE, read
from coordinator.adversary.contract import Attack, Knowledge
from coordinator.adversary.training import learned_stem, weights
from coordinator.adversary.training.observation import Observed
from coordinator.adversary.training.stem_similarity import Stem, alike, learnt, places_of, stem_of, units
from coordinator.exchange.orbit import orbit_of
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.training import PlainImages, train_locally, use_all_cores
from coordinator.model.vit import build_model
from coordinator.report.build import machine
from crypto.key import SecretKey
from crypto.scheme import load
from parties.scoring.measures import ssims
from parties.scoring.registration import register
from parties.training.stem import carry, coordinates

SCHEMA = "cipherward.stems/1"
GUESSED = 40
SEEN = 20  # ciphertexts beside a carried or learnt stem
OPTIMIZERS = {"adamw": 3e-4, "sgd": 0.03}
OWN = "block_pixel_shuffle:10,block_pixel_shuffle:40,value_shuffle:40"
WEIGHTS = "vit_tiny_patch16_224.safetensors"


@dataclass(frozen=True)
class Pool:
    """Images sealed under one fresh key: the last GUESSED of them are guessed. plain: uint8 [n, 224, 224, 1]."""

    plan: Plan
    plain: np.ndarray
    labels: np.ndarray
    key: SecretKey
    sealed: MemoryPool
    parts: Mapping[str, np.ndarray]

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def pool_of(data: Path, scheme: str, images: int, seed: int, stem: str = "learn") -> Pool:
    """`images` slices to see and GUESSED to guess, of all classes, from a fixed draw under a fresh key."""
    folders = sorted(p for p in (data / "brain_mri/train").iterdir() if p.is_dir())
    held = [(path, k) for k, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    if images + GUESSED > len(held):
        raise SystemExit(f"{data} has {len(held)} images, {images + GUESSED} are asked for")
    chosen = [held[i] for i in np.random.default_rng(seed).permutation(len(held))[: images + GUESSED]]
    plain = np.stack([read(path) for path, _ in chosen])
    settings = {"study": "stems", "counts": (3, 3, 3), "image_size": SIZE, "block": BLOCK, "rounds": 1}
    plan = Plan.model_validate(
        {**settings, "scheme": scheme, "stem": stem, "weights": str(data / WEIGHTS), "seed": seed}
    )
    made, key = load(plan.describe()), SecretKey.generate()
    sealed = MemoryPool(made.spec, made.cipher(key).encrypt(plain))
    return Pool(plan, plain, np.array([k for _, k in chosen]), key, sealed, made.parts(key))


def beside(rows: np.ndarray, place: np.ndarray, width: int) -> float:
    """Share of rows [m, F] whose most similar other one stands beside them; place: int64 [m] on a grid."""
    likeness = alike(rows, rows)
    np.fill_diagonal(likeness, -np.inf)
    near = likeness.argmax(1)
    y, x = np.divmod(place, width)
    return float((abs(y - y[near]) + abs(x - x[near]) == 1).mean())


def neighbours(pool: Pool, stem: Stem, first: Stem | None = None) -> dict[str, float]:
    """Shares of neighbours among columns and positions, of a stem or of what it learnt since the first."""
    if "K2" not in pool.parts:
        return {}
    spec = pool.sealed.spec
    side = BLOCK if spec.name == "value_shuffle" else BLOCK // 2
    places = places_of(stem, spec.blocks)
    assert places is not None
    found: dict[str, float] = {}
    filters = stem.filters
    if first is not None:
        before = places_of(first, spec.blocks)
        assert before is not None
        found["raw columns"] = beside(units(filters - first.filters, spec), pool.parts["K2"], side)
        filters, places = learnt(first.filters, filters), learnt(before, places)
    found["columns"] = beside(units(filters, spec), pool.parts["K2"], side)
    found["positions"] = beside(places, pool.parts["K1"], spec.grid[1])
    return found


def opened(pool: Pool, attack: Attack, observed: Observed, seen: int) -> dict[str, Any]:
    """What an attack made of the images to guess, and of the key."""
    count = len(pool.plain)
    rows = np.arange(count - GUESSED, count)
    started = time.monotonic()
    guess = attack(Knowledge(pool.sealed, np.arange(seen), rows, labels=pool.labels, observed=observed))
    seconds = time.monotonic() - started
    plain = pool.plain[rows]
    move = register(guess.images[::2], plain[::2], BLOCK, orbit_of(pool.sealed.spec))
    likeness = ssims(move.apply(guess.images[1::2], BLOCK), plain[1::2])
    key = guess.key or {}
    shares = {
        n: float((key[n] == pool.parts[n]).mean()) for n in ("K1", "K2") if n in key and n in pool.parts
    }
    if "matrix" in key:
        shares["matrix off by at most"] = float(np.abs(key["matrix"] - pool.parts["matrix"]).max())
    return {
        "images seen": seen,
        "key": guess.key is not None,
        **shares,
        "SSIM": float(np.nanmedian(likeness)),
        "attack s": round(seconds, 1),
        "note": guess.note,
    }


def carried(data: Path, scheme: str, seed: int) -> list[dict[str, Any]]:
    """The public stem in a key's coordinates, attacked with the public weights and without."""
    pool = pool_of(data, scheme, SEEN, seed)
    model = build_model(pool.plan, pool.classes)
    carry(model, coordinates(pool.sealed.spec, pool.key))
    held = {k: v.numpy() for k, v in model.state_dict().items()}
    stem = stem_of(held)
    assert stem is not None
    records = []
    for public in (True, False):
        plan = pool.plan if public else pool.plan.model_copy(update={"weights": "not here"})
        name = f"carried, {'with' if public else 'without'} the public weights"
        found = opened(pool, weights.attack, Observed(plan, pool.classes, held), SEEN)
        records.append({"stem": name, "scheme": scheme, **neighbours(pool, stem), **found})
    return records


def trained(data: Path, optimizer: str, images: int, seed: int) -> list[dict[str, Any]]:
    """A stem that learnt on ciphertexts for one epoch."""
    pool = pool_of(data, "block_pixel_shuffle", images, seed)
    plan = pool.plan.model_copy(update={"optimizer": optimizer, "lr": OPTIMIZERS[optimizer]})
    model = build_model(plan, pool.classes)
    started = time.monotonic()
    train_locally(
        model, PlainImages(pool.sealed.sealed[:images], pool.labels[:images]), plan, 1, "hospital"
    )
    seconds = round(time.monotonic() - started)
    observed = Observed(plan, pool.classes, {k: v.numpy() for k, v in model.state_dict().items()})
    stem, first = stem_of(observed.weights), weights.first_stem(observed)
    assert stem is not None and first is not None
    about = {"stem": f"learnt, {optimizer} {OPTIMIZERS[optimizer]:g}", "scheme": "block_pixel_shuffle"}
    found = opened(pool, weights.attack, observed, SEEN)
    trained_on = {"trained on": images, "training s": seconds}
    return [{**about, **neighbours(pool, stem, first), **found, **trained_on}]


def own(data: Path, scheme: str, images: int, seed: int) -> list[dict[str, Any]]:
    """A stem of the cloud's own, under stem mode private; only ciphertexts, labels and the public model are used."""
    pool = pool_of(data, scheme, images, seed, "private")
    found = opened(pool, learned_stem.attack, Observed(pool.plan, pool.classes, {}), images)
    return [{"stem": "the cloud's own", "scheme": scheme, "trained on": images, **found}]


def shown(records: Sequence[Mapping[str, Any]]) -> None:
    columns = ["stem", "scheme", "trained on", "columns", "positions", "K1", "K2", "SSIM", "attack s"]
    table = Table(*columns, title="what a stem gives away: brain MRI 224×224 gray, ViT-Ti/16")
    for record in records:
        cells = [record.get(c, "") for c in columns]
        table.add_row(*(f"{c:.3f}" if isinstance(c, float) and c <= 1 else str(c) for c in cells))
    Console(width=170).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a ViT's stem gives away of the key.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of brain_mri/ and the public weights"
    )
    parser.add_argument("--images", type=int, default=800, help="ciphertexts that a stem learns on")
    parser.add_argument("--own", default=OWN, help="pools for the cloud's own stem: SCHEME:n, with commas")
    parser.add_argument("--only", default="carried,learnt,own", help="parts to run, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of images; keys are always fresh")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    use_all_cores()
    parts, records = options.only.split(","), []
    opened_first = pool_of(options.data, "block_pixel_shuffle", 2, options.seed)  # compiles; not counted
    opened(opened_first, weights.attack, Observed(opened_first.plan, 4, {}), 2)

    def add(new: list[dict[str, Any]]) -> None:
        records.extend(new)
        shown(new)
        if options.json:
            result = {
                "schema": SCHEMA,
                "created": datetime.datetime.now(datetime.UTC).isoformat(),
                "run": {
                    "command": shlex.join(["python", *sys.argv]),
                    "torch_threads": torch.get_num_threads(),
                },
                "machine": machine(),
                "records": records,
            }
            options.json.write_text(json.dumps(result, indent=1) + "\n")

    if "carried" in parts:
        for scheme in ("block_pixel_shuffle", "value_shuffle", "orthogonal"):
            add(carried(options.data, scheme, options.seed))
    if "learnt" in parts:
        for optimizer in OPTIMIZERS:
            add(trained(options.data, optimizer, options.images, options.seed))
    if "own" in parts:
        for scheme, _, images in (pool.partition(":") for pool in options.own.split(",")):
            add(own(options.data, scheme, int(images), options.seed))
    shown(records)


if __name__ == "__main__":
    main()
