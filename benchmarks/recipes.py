"""What makes a pretrained ViT learn ciphertext better, and what makes plain fine-tuning better: recipes tried on val.

    python -m benchmarks.recipes [--recipes "learn: base,plain: base,…"] [--test "learn: base,…"] [--seeds 1]
        [--hours 1] [--out runs/recipes] [--json FILE]

The folder of the data is $CIPHERWARD_DATA, or --folder: brain_mri/ and vit_tiny_patch16_224.safetensors. A recipe is
a plan of three hospitals that train by federated averaging, or of one place that has all images, here in one
process. `learn` recipes train on images that block_pixel_shuffle sealed, `plain` ones on plain images: under stem
`private` the federation computes the same up to float rounding. A `learn` recipe with `augment` seals the altered
images in memory, as a hospital that has its key does. The recipes are those of benchmarks/recipe_list.py. A recipe
of BEGUN begins with weights that whoever trains carried by a key recovered from the sealed training images
(benchmarks/recovered_weights.py). A recipe of TAUGHT learns what another recipe says of the plain images
(benchmarks/distillation.py). The test images are read by --test only, for the recipes that val chose. Finished
recipes are kept in --out with their weights, and a stopped one continues from its last round.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from benchmarks.command_line import add_folder, add_json, make_parser, run_on_folder, split_list
from benchmarks.distillation import Pairs, imitate
from benchmarks.recipe_list import AFTER, BASE, BEGUN, FEATURES, RECIPES, TAUGHT, plan_of
from benchmarks.recovered_weights import POOL, write_recovered_weights
from benchmarks.table1_data import read
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.plan import Plan
from coordinator.model.training import AugmentableImages, PlainImages, predict_probabilities, use_all_cores
from coordinator.model.vit import build_model, unpack
from coordinator.report.build import machine
from crypto.arrays import AnyArray, Float32Array, Int64Array, Rows
from crypto.cipher import Cipher
from crypto.errors import CipherwardError, unknown
from crypto.files import append_line, disk_errors, folder_lock, read_lines, write_bytes, write_json
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from crypto.scheme import load
from crypto.tensor_file import torch_tensor_bytes
from parties.training.baseline import LocalTraining, train_plain

SCHEMA = "cipherward.recipes/1"


@dataclass(frozen=True, repr=False)  # the cipher is as secret as its key
class _SealedImages:
    """Sealed images of a hospital that has the plain images too, and seals altered views of them while it trains."""

    plain: PlainImages
    cipher: Cipher
    images: AnyArray

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [n]."""
        return self.plain.labels

    def rows(self, rows: Rows) -> AnyArray:
        """Return the images of these rows as they were sealed: int64 [r] → [r, h, w, c]."""
        return self.images[rows]

    def views(self, rows: Rows, augment: str, random: np.random.Generator) -> AnyArray:
        """Return the images of these rows, altered at random and then sealed: int64 [r] → [r, h, w, c]."""
        return self.cipher.encrypt(np.asarray(self.plain.views(rows, augment, random)))


def deal(
    images: PlainImages, seed: int, hospitals: int, cipher: Cipher | None
) -> list[tuple[str, AugmentableImages]]:
    """Return the images of each hospital, dealt evenly at random, sealed if there is a cipher."""
    parts = np.array_split(np.random.default_rng(seed).permutation(len(images.labels)), hospitals)
    dealt: list[tuple[str, AugmentableImages]] = []
    for i, rows in enumerate(parts):
        own = PlainImages(images.images[rows], images.labels[rows])
        dealt.append(
            (f"hospital-{i}", _SealedImages(own, cipher, cipher.encrypt(own.images)) if cipher else own)
        )
    return dealt


def _kept(name: str, seed: int, out: Path) -> Path:
    """Return where the weights of a recipe's best round are kept."""
    return out / f"{'-'.join(name.replace(':', '').split())}-{seed}.safetensors"


def _best_weights(name: str, seed: int, out: Path) -> Float32Array:
    """Return the weights of a recipe's best round, float32 [parameters].

    Raises:
        CipherwardError: if they are not kept.
    """
    path = _kept(name, seed, out)
    if not path.exists():
        raise CipherwardError(
            f"{name}, seed {seed}, has to be kept, and {path} is not there", "try that recipe first"
        )
    with safe_open(str(path), framework="numpy") as file:
        weights: Float32Array = file.get_tensor("best")
    return weights


def _cipher(plan: Plan, out: Path) -> Cipher | None:
    """Return what seals the images of a recipe; None if it trains on plain ones."""
    if plan.stem != "learn":
        return None
    path = out / "secret.key"  # one key for all recipes: they differ in nothing but their settings
    if not path.exists():
        write_key(path, SecretKey.generate())
    return load(plan.describe()).cipher(read_key(path))


def _seal(images: PlainImages, cipher: Cipher | None) -> PlainImages:
    return PlainImages(cipher.encrypt(images.images), images.labels) if cipher else images


def try_recipe(name: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """Train one recipe, from its last round on, and return its figures on val. Its weights are kept in `out`."""
    plan = plan_of(name, seed, data)
    splits = read(data, "mri", plan.image_size, (0, 0, 1))
    cipher = _cipher(plan, out)
    started = _kept(name, seed, out).with_suffix(".started")
    classes = 1 + int(splits["train"].labels.max())
    recovered: dict[str, Any] = {}
    if name in BEGUN and cipher is not None:
        carried = out / f"carried-{BEGUN[name]}-{seed}.safetensors"
        rows = np.random.default_rng(seed).permutation(len(splits["train"].labels))[:POOL]
        sealed = cipher.encrypt(splits["train"].images[rows])
        key = read_key(out / "secret.key")
        recovered["recovered"] = write_recovered_weights(plan, sealed, key, BEGUN[name], carried)
        plan = plan.model_copy(update={"weights": str(carried)})
    if name in AFTER:
        earlier = _write_earlier(AFTER[name], 0 if name in TAUGHT else seed, data, classes, out)
        plan = plan.model_copy(update={"weights": str(earlier)})
    dealt = deal(splits["train"], seed, plan.parties, cipher)
    _, val, seconds = train_plain(
        plan,
        dealt,
        _seal(splits["val"], cipher),
        classes,
        started,
        lambda line: print(" ", line, flush=True),
        _taught(name, plan, dealt, classes, data, out),
    )
    started.replace(_kept(name, seed, out))
    return {
        "recipe": name,
        "seed": seed,
        "changes": RECIPES[name],
        "rounds": plan.rounds,
        "val": val,
        "best": max(val),
        "images": [len(splits[s].labels) for s in ("train", "val")],
        "seconds": seconds,
        **recovered,
        **({"teacher": TAUGHT[name]} if name in TAUGHT else {}),
    }


def _taught(
    name: str,
    plan: Plan,
    dealt: Sequence[tuple[str, AugmentableImages]],
    classes: int,
    data: Path,
    out: Path,
) -> LocalTraining | None:
    """Return what trains the students of a recipe of TAUGHT; None for other recipes."""
    if name not in TAUGHT:
        return None
    teacher = build_model(plan_of(TAUGHT[name], 0, data), classes, plain=True)
    unpack(teacher, _best_weights(TAUGHT[name], 0, out))
    pairs = {
        party: Pairs(images.plain, images.cipher.encrypt)
        for party, images in dealt
        if isinstance(images, _SealedImages)
    }
    return lambda model, party, round_: imitate(
        model, teacher, pairs[party], plan, round_, party, name in FEATURES
    )


def _write_earlier(name: str, seed: int, data: Path, classes: int, out: Path) -> Path:
    """Write the best weights of a kept recipe by timm's names, and return their file."""
    path = out / f"earlier-{seed}.safetensors"
    model = build_model(plan_of(name, seed, data), classes, plain=True)
    unpack(model, _best_weights(name, seed, out))
    write_bytes(path, torch_tensor_bytes(dict(model.state_dict()), {}))
    return path


def read_test(name: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """Return the test accuracy of the round of a recipe that was best on val, and what flips at test time give.

    `flipped` holds val and test accuracy by the mean of the outputs for each image and its mirror, which is sealed
    too: only a hospital could do so.
    """
    plan = plan_of(name, seed, data)
    splits, cipher = read(data, "mri", plan.image_size, (1, 0, 0)), _cipher(plan, out)
    model = build_model(plan, 1 + int(splits["test"].labels.max()), plain=True)
    unpack(model, _best_weights(name, seed, out))

    def rates(split: str) -> tuple[dict[str, Any], dict[str, Any]]:
        plain = splits[split]
        mirrors = PlainImages(np.ascontiguousarray(plain.images[:, :, ::-1]), plain.labels)
        one, other = (predict_probabilities(model, _seal(images, cipher)) for images in (plain, mirrors))
        hits = [int((scores.argmax(1) == plain.labels).sum()) for scores in (one, one + other)]
        alone, both = (rate_of(n, len(plain.labels)).to_json() for n in hits)
        return alone, both

    (_, val), (test, flipped) = rates("val"), rates("test")
    return {"recipe": name, "seed": seed, "test": test, "flipped": {"val": val, "test": flipped}}


def run(options: argparse.Namespace) -> None:
    """Try the recipes that are not kept yet, as far as the time allows, and write all figures."""
    names = options.recipes or list(RECIPES)
    if wrong := [name for name in [*names, *options.test] if name not in RECIPES]:
        raise unknown("recipe", wrong[0], RECIPES)
    with disk_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    use_all_cores()
    kept, tests, until = (
        options.out / "recipes.jsonl",
        options.out / "tests.jsonl",
        time.time() + 3600 * options.hours,
    )
    with folder_lock(options.out):
        for seed in range(options.seeds):
            for name in names:
                if (name, seed) not in _done(kept) and time.time() < until:
                    print(f"{name}, seed {seed}", flush=True)
                    append_line(kept, json.dumps(try_recipe(name, seed, options.folder, options.out)))
        for name, seed in sorted(_done(kept) - _done(tests)):
            if name in options.test:
                append_line(tests, json.dumps(read_test(name, seed, options.folder, options.out)))
        read = {(line["recipe"], line["seed"]): line for line in read_lines(tests)}
        lines = []
        for line in read_lines(kept):
            known = read.get((line["recipe"], line["seed"]), {})
            lines.append({**line, "test": known.get("test"), "flipped": known.get("flipped")})
    if options.json:
        write_json(options.json, {"schema": SCHEMA, "machine": machine(), "base": BASE, "recipes": lines})


def _done(journal: Path) -> set[tuple[str, int]]:
    """Return recipe and seed of each line of a journal."""
    return {(line["recipe"], line["seed"]) for line in read_lines(journal)}


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_folder(parser)
    parser.add_argument("--recipes", type=split_list, default=[], help="recipes by name; all by default")
    parser.add_argument(
        "--test", type=split_list, default=[], help="recipes whose test accuracy is read, once a seed"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each recipe, from 0")
    parser.add_argument("--hours", type=float, default=1.0, help="time after which no recipe is begun")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of the figures")
    add_json(parser)
    run_on_folder(parser.parse_args(), run)


if __name__ == "__main__":
    main()
