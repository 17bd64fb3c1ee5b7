"""Measure what a Vision Transformer's stem gives away of the key: carried stems, trained stems, and the cloud's own.

    python -m benchmarks.stems --data FOLDER [--images 800] [--own SCHEME:n,...] [--only carried,learnt] [--json FILE]

FOLDER holds brain_mri/train/CLASS/*.jpg and vit_tiny_patch16_224.safetensors. Images are gray 224×224, sealed under
one fresh key; blocks and patches are of 16.

carried  the public stem, carried into the key's coordinates, with the public weights at hand and without
learnt   the public stem after one epoch on --images ciphertexts, 32 a step (AdamW 3e-4; SGD 0.03)
own      a stem that the cloud itself trains on n ciphertexts of a scheme, for each in --own, under stem mode private

"columns" and "positions" are the share of units (pixels of a sub-block, values of a block, tokens) whose most
similar other unit stands beside them in the plain image. "raw columns" is that of the change with the weight decay
in it. K1 and K2 are shares of the permutations that were recovered; under value_shuffle they count only if the turn
happens to be right. SSIM is that of suite/1: the median of 20 images outside the pool, after one move of the
scheme's orbit for all of them, chosen on 20 others.
"""

from __future__ import annotations

import datetime
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

from benchmarks.command_line import add_json, make_parser, write_figures
from benchmarks.key_recovery import BLOCK, SIZE, read_gray
from coordinator.adversary.contract import Attack, Knowledge
from coordinator.adversary.training import learned_stem, weights
from coordinator.adversary.training.observation import Observed
from coordinator.adversary.training.stem_similarity import (
    Stem,
    block_positions,
    cosine_similarities,
    learnt_change,
    stem_from_weights,
    unit_weights,
)
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.training import PlainImages, train_locally, use_all_cores
from coordinator.model.vit import build_model
from coordinator.report.build import machine
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.key import SecretKey
from crypto.scheme import load
from parties.scoring.measures import ssims
from parties.scoring.registration import register
from parties.training.stem import carry, key_coordinates

SCHEMA = "cipherward.stems/1"
#: Images to guess: half of them choose the move, the other half give SSIM.
GUESSED = 40
#: Ciphertexts that the attack has beside a carried or trained stem.
POOL_IMAGES = 20
OPTIMIZERS = {"adamw": 3e-4, "sgd": 0.03}
OWN = "block_pixel_shuffle:10,block_pixel_shuffle:40,value_shuffle:40"
WEIGHTS = "vit_tiny_patch16_224.safetensors"


@dataclass(frozen=True)
class Pool:
    """Images sealed under one fresh key. The last GUESSED of them are guessed.

    Attributes:
        plan: of the training.
        plain: uint8 [n, 224, 224, 1].
        labels: their classes.
        key: the key.
        sealed: the ciphertexts.
        parts: the key under the scheme's own names.
    """

    plan: Plan
    plain: Images
    labels: Int64Array
    key: SecretKey
    sealed: MemoryPool
    parts: Mapping[str, AnyArray]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.labels.max()) + 1


def seal_pool(data: Path, scheme: str, images: int, seed: int, stem: str = "learn") -> Pool:
    """Seal `images` slices for the pool and GUESSED to guess, of all classes, from a fixed draw under a fresh key."""
    folders = sorted(p for p in (data / "brain_mri/train").iterdir() if p.is_dir())
    files = [(path, k) for k, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    if images + GUESSED > len(files):
        raise SystemExit(f"{data} has {len(files)} images, {images + GUESSED} are asked for")
    chosen = [files[i] for i in np.random.default_rng(seed).permutation(len(files))[: images + GUESSED]]
    plain = np.stack([read_gray(path) for path, _ in chosen])
    settings = {"study": "stems", "counts": (3, 3, 3), "image_size": SIZE, "block": BLOCK, "rounds": 1}
    plan = Plan.model_validate(
        {**settings, "scheme": scheme, "stem": stem, "weights": str(data / WEIGHTS), "seed": seed}
    )
    algorithm, key = load(plan.describe()), SecretKey.generate()
    sealed = MemoryPool(algorithm.spec, algorithm.cipher(key).encrypt(plain))
    return Pool(plan, plain, np.array([k for _, k in chosen]), key, sealed, algorithm.parts(key))


def neighbour_share(rows: AnyArray, place: Int64Array, width: int) -> float:
    """Return the share of rows [m, F] whose most similar other row stands beside them; place: int64 [m] on a grid."""
    similarities = cosine_similarities(rows, rows)
    np.fill_diagonal(similarities, -np.inf)
    near = similarities.argmax(1)
    y, x = np.divmod(place, width)
    return float((abs(y - y[near]) + abs(x - x[near]) == 1).mean())


def neighbour_shares(pool: Pool, stem: Stem, first: Stem | None = None) -> dict[str, float]:
    """Return the shares of neighbours among columns and positions of a stem, or of its change since the first."""
    if "K2" not in pool.parts:
        return {}
    spec = pool.sealed.spec
    side = BLOCK if spec.name == "value_shuffle" else BLOCK // 2
    positions: AnyArray | None = block_positions(stem, spec.blocks)
    assert positions is not None
    shares: dict[str, float] = {}
    filters: AnyArray = stem.filters
    if first is not None:
        before = block_positions(first, spec.blocks)
        assert before is not None
        raw = unit_weights(filters - first.filters, spec)
        shares["raw columns"] = neighbour_share(raw, pool.parts["K2"], side)
        filters, positions = learnt_change(first.filters, filters), learnt_change(before, positions)
    shares["columns"] = neighbour_share(unit_weights(filters, spec), pool.parts["K2"], side)
    shares["positions"] = neighbour_share(positions, pool.parts["K1"], spec.grid[1])
    return shares


def score_attack(pool: Pool, attack: Attack, observed: Observed, pool_images: int) -> dict[str, Any]:
    """Run an attack, and score its guesses and its key."""
    count = len(pool.plain)
    rows = np.arange(count - GUESSED, count)
    started = time.monotonic()
    guess = attack(
        Knowledge(pool.sealed, np.arange(pool_images), rows, labels=pool.labels, observed=observed)
    )
    seconds = time.monotonic() - started
    plain = pool.plain[rows]
    move = register(guess.images[::2], plain[::2], BLOCK, load(pool.sealed.spec).orbit)
    scores = ssims(move.apply(guess.images[1::2], BLOCK), plain[1::2])
    key = guess.key or {}
    shares = {
        n: float((key[n] == pool.parts[n]).mean()) for n in ("K1", "K2") if n in key and n in pool.parts
    }
    if "matrix" in key:
        shares["matrix off by at most"] = float(np.abs(key["matrix"] - pool.parts["matrix"]).max())
    return {
        "images seen": pool_images,
        "key": guess.key is not None,
        **shares,
        "SSIM": float(np.nanmedian(scores)),
        "attack s": round(seconds, 1),
        "note": guess.note,
    }


def carried(data: Path, scheme: str, seed: int) -> list[dict[str, Any]]:
    """Attack the public stem in a key's coordinates, with the public weights and without."""
    pool = seal_pool(data, scheme, POOL_IMAGES, seed)
    model = build_model(pool.plan, pool.classes)
    carry(model, key_coordinates(pool.sealed.spec, pool.key))
    shared = {k: v.numpy() for k, v in model.state_dict().items()}
    stem = stem_from_weights(shared)
    assert stem is not None
    records = []
    for public in (True, False):
        plan = pool.plan if public else pool.plan.model_copy(update={"weights": "not here"})
        name = f"carried, {'with' if public else 'without'} the public weights"
        scores = score_attack(pool, weights.attack, Observed(plan, pool.classes, shared), POOL_IMAGES)
        records.append({"stem": name, "scheme": scheme, **neighbour_shares(pool, stem), **scores})
    return records


def learnt(data: Path, optimizer: str, images: int, seed: int) -> list[dict[str, Any]]:
    """Attack a stem that learnt on ciphertexts for one epoch."""
    pool = seal_pool(data, "block_pixel_shuffle", images, seed)
    plan = pool.plan.model_copy(update={"optimizer": optimizer, "lr": OPTIMIZERS[optimizer]})
    model = build_model(plan, pool.classes)
    started = time.monotonic()
    train_locally(
        model, PlainImages(pool.sealed.sealed[:images], pool.labels[:images]), plan, 1, "hospital"
    )
    seconds = round(time.monotonic() - started)
    observed = Observed(plan, pool.classes, {k: v.numpy() for k, v in model.state_dict().items()})
    stem, first = stem_from_weights(observed.weights), weights.first_stem(observed)
    assert stem is not None and first is not None
    about = {"stem": f"learnt, {optimizer} {OPTIMIZERS[optimizer]:g}", "scheme": "block_pixel_shuffle"}
    scores = score_attack(pool, weights.attack, observed, POOL_IMAGES)
    training = {"trained on": images, "training s": seconds}
    return [{**about, **neighbour_shares(pool, stem, first), **scores, **training}]


def own(data: Path, scheme: str, images: int, seed: int) -> list[dict[str, Any]]:
    """Attack with a stem of the cloud's own under stem mode private.

    Only ciphertexts, labels and the public model are used.
    """
    pool = seal_pool(data, scheme, images, seed, "private")
    scores = score_attack(pool, learned_stem.attack, Observed(pool.plan, pool.classes, {}), images)
    return [{"stem": "the cloud's own", "scheme": scheme, "trained on": images, **scores}]


def show(records: Sequence[Mapping[str, Any]]) -> None:
    """Print the records as a table."""
    columns = ["stem", "scheme", "trained on", "columns", "positions", "K1", "K2", "SSIM", "attack s"]
    table = Table(*columns, title="what a stem gives away: brain MRI 224×224 gray, ViT-Ti/16")
    for record in records:
        cells = [record.get(c, "") for c in columns]
        table.add_row(*(f"{c:.3f}" if isinstance(c, float) and c <= 1 else str(c) for c in cells))
    Console(width=170).print(table)


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of a run."""
    command = shlex.join(["python", *sys.argv])
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "run": {"command": command, "torch_threads": torch.get_num_threads()},
        "machine": machine(),
        "records": records,
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of brain_mri/ and the public weights"
    )
    parser.add_argument("--images", type=int, default=800, help="ciphertexts that a stem learns on")
    parser.add_argument("--own", default=OWN, help="pools for the cloud's own stem: SCHEME:n, with commas")
    parser.add_argument("--only", default="carried,learnt,own", help="parts to run, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of images; keys are always fresh")
    add_json(parser)
    options = parser.parse_args()
    use_all_cores()
    data, seed = options.data, options.seed
    parts, records = options.only.split(","), list[dict[str, Any]]()
    # The first attack compiles; it is not counted.
    first = seal_pool(data, "block_pixel_shuffle", 2, seed)
    score_attack(first, weights.attack, Observed(first.plan, 4, {}), 2)

    def add(new: list[dict[str, Any]]) -> None:
        records.extend(new)
        show(new)
        write_figures(options.json, summarise(records))

    if "carried" in parts:
        for scheme in ("block_pixel_shuffle", "value_shuffle", "orthogonal"):
            add(carried(data, scheme, seed))
    if "learnt" in parts:
        for optimizer in OPTIMIZERS:
            add(learnt(data, optimizer, options.images, seed))
    if "own" in parts:
        for scheme, _, images in (pool.partition(":") for pool in options.own.split(",")):
            add(own(data, scheme, int(images), seed))
    show(records)


if __name__ == "__main__":
    main()
