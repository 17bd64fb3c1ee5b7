"""Measure what a hospital's updates give away: real training steps on real images, attacked as the cloud would.

    python -m benchmarks.updates --data FOLDER [--parts solve,steps,learn,candidates,search,membership] [--json FILE]

FOLDER holds brain_mri/train and vit_tiny_patch16_224.safetensors. Images are gray 224×224 slices. The model is
ViT-Ti/16 from these public weights, trained by SGD with momentum 0.9 and clipping at 1, except where AdamW is named.
Hospitals seal under block_pixel_shuffle with blocks of 16, and train as coordinator/model/training.py does. SSIM is
that of suite/1. Each part takes minutes. With --json a part's figures replace its earlier ones in the file.

- solve, steps, learn: one image in the hospital. SSIM to the plain image (stem plain), to the ciphertext (stem learn)
  and, opened with the key that a pool of 50 images gives away, to the plain image. "found" counts pictures
  that the attack hands in and whose SSIM is at least .90, "confirmed" those that it proves by training on them. The
  parts vary the learning rate, because float32 weights hide small ones, and the number of local
  steps over the same image.
- candidates: which of --candidates plain slices took part, stem private. With several steps only the area under the
  ROC curve of the same figure is measured, because nothing is confirmed there.
- search: Inverting Gradients, stem private, one image, within --seconds.
- membership: fine-tuning on some images; are these recognised among others of the same source?
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from benchmarks.command_line import add_data, add_json, make_parser, write_figures
from coordinator.adversary.contract import Knowledge
from coordinator.adversary.time_budget import Budget
from coordinator.adversary.training import updates
from coordinator.adversary.training.membership import measure_membership
from coordinator.adversary.training.observation import Observed, Update
from coordinator.adversary.training.update_candidates import confirm_candidates
from coordinator.adversary.training.update_findings import EXACT_SHARE, UpdateCase, invert_updates
from coordinator.adversary.training.update_search import search, to_gray_levels
from coordinator.adversary.training.update_solve import solve
from coordinator.adversary.training.update_steps import (
    CONFIRMED_DISTANCE,
    UpdateView,
    build_plan_model,
    labels_to_try,
    read_update,
    replay_distance,
)
from coordinator.exchange.audit.suite1 import OPENS
from coordinator.exchange.image_file import open_image
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.model_input import to_model_input
from coordinator.model.shares import shared_names
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack
from coordinator.report.build import machine
from crypto.arrays import BoolArray, Float64Array, Images, Int64Array
from crypto.key import SecretKey
from crypto.scheme import load
from parties.scoring.measures import ssim
from parties.scoring.registration import register_each
from parties.training.stem import carry, carry_back, key_coordinates

SIZE = 224
Record = dict[str, Any]


def read_slices(folder: Path, count: int, seed: int) -> tuple[Images, Int64Array]:
    """Return random slices over the classes, uint8 [n, 224, 224, 1], and their classes, int64 [n]."""
    paths = sorted((folder / "brain_mri" / "train").rglob("*.jpg"))
    classes = sorted({p.parent.name for p in paths})
    chosen = [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))[:count]]
    images = []
    for path in chosen:
        with open_image(path) as picture:
            images.append(np.asarray(picture.convert("L"), np.uint8)[..., None])
    return np.stack(images), np.array([classes.index(p.parent.name) for p in chosen])


def make_plan(folder: Path, **changes: Any) -> Plan:
    """Return the plan of one hospital."""
    settings = {
        "study": "updates",
        "parties": 1,
        "source": "folder",
        "images": str(folder),
        "image_size": SIZE,
        "weights": str(folder / "vit_tiny_patch16_224.safetensors"),
        "rounds": 10,
        "warmup_steps": 0,
        "optimizer": "sgd",
        "lr": 0.05,
        "weight_decay": 0.0,
        "key_scope": "party",
        "stem": "plain",
    }
    return Plan.model_validate(settings | changes)


def observe_round(p: Plan, images: Images, labels: Int64Array, key: SecretKey) -> Observed:
    """Train a hospital with these images for one round, and return what the cloud sees."""
    model = build_model(p, 4)
    names = shared_names(model, p)
    before, spec = pack(model, names), p.describe()
    sealed = load(spec).cipher(key).encrypt(images)
    if p.stem != "learn":
        carry(model, key_coordinates(spec, key))
    train_locally(model, PlainImages(sealed, labels), p, 1, "hospital-0")
    if p.stem != "learn":
        carry_back(model, key_coordinates(spec, key))
    state = model.state_dict()
    weights = {n: state[n].numpy().copy() for n in names}
    return Observed(p, 4, weights, (Update(1, "hospital-0", before, pack(model, names), len(images)),))


def median_and_range(values: Sequence[float]) -> str:
    """Return median and range in words."""
    return f"{np.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"


#: The cases of the linear solve, by part: a name, images in the hospital, settings of the plan.
SOLVES: dict[str, list[tuple[str, int, dict[str, Any]]]] = {
    "solve": [
        ("plain, lr 0.05", 1, {}),
        ("plain, lr 0.005", 1, {"lr": 0.005}),
        ("plain, lr 0.0005", 1, {"lr": 0.0005}),
    ],
    "steps": [
        ("plain, lr 0.05, 2 local steps", 1, {"local_epochs": 2}),
        ("plain, lr 0.05, 5 local steps", 1, {"local_epochs": 5}),
        ("plain, lr 0.05, batch of 2", 2, {}),
    ],
    "learn": [
        ("learn, lr 0.05", 1, {"stem": "learn"}),
        ("plain, lr 0.05, ViT-S/16, random weights", 1, {"model": "vit_small_patch16_224", "weights": ""}),
    ],
}


def measure_solves(folder: Path, part: str, count: int) -> list[Record]:
    """Measure every case of a part of SOLVES."""
    images, labels = read_slices(folder, count + 50, 0)
    key = SecretKey.generate()
    records = []
    for name, batch, changes in SOLVES[part]:
        record = measure_solve(make_plan(folder, **changes), batch, (images, labels), count, key)
        records.append({"stem": name, **record})
        print(records[-1], flush=True)
    return records


def measure_solve(
    p: Plan, batch: int, data: tuple[Images, Int64Array], count: int, key: SecretKey
) -> Record:
    """Solve the updates of hospitals, one for each of the first `count` images; the other images are the pool."""
    images, labels = data
    cipher = load(p.describe()).cipher(key)
    sealed, found, confirmed, rank = cipher.encrypt(images[:count]), 0, 0, 0
    scores: list[float] = []
    opened: list[float] = []
    seconds: list[float] = []
    for i in range(min(count, 3) if p.model != "vit_tiny_patch16_224" else count):
        rows = np.arange(i, i + batch) % count
        observed = observe_round(p, images[rows], labels[rows], key)
        started = time.perf_counter()
        view = view_of(observed)
        solution = solve(view.model, view.gradients.values, view.gradients.rounding)
        seconds.append(time.perf_counter() - started)
        rank = solution.rank
        target = sealed if p.stem == "learn" else images
        scores.append(max(ssim(to_gray_levels(solution.image), target[k]) for k in rows))
        answers = iter([True])  # the solve alone: `search` has a part of its own
        [finding] = invert_updates(observed, None, functools.partial(next, answers, False))
        confirmed += finding.is_confirmed
        found += any(ssim(picture, target[k]) >= OPENS for picture in finding.images for k in rows)
        if len(finding.images) and p.stem == "learn":
            pool = MemoryPool(p.describe(), cipher.encrypt(images[count:]))
            pool_rows = np.arange(len(pool))
            budget = Budget(300.0)
            guess = updates.attack(Knowledge(pool, pool_rows, pool_rows[:1], budget, observed=observed))
            # Black borders leave a whole-block shift of the key free. An audit grants it, too.
            orbit = load(p.describe()).orbit
            [placed] = register_each(guess.images[:1], images[i : i + 1], p.block, orbit)
            opened.append(ssim(placed, images[i]))
    return {
        "images": len(scores),
        "rank of 196": rank,
        "SSIM, median (range)": median_and_range(scores),
        "opened with the pool's key": median_and_range(opened) if opened else "",
        "found": f"{found} of {len(scores)}",
        "confirmed": f"{confirmed} of {len(scores)}",
        "calibrated": "variants",
        "seconds": round(float(np.median(seconds)), 1),
    }


def view_of(observed: Observed) -> UpdateView:
    """Read the first update of a training."""
    return read_update(observed, observed.updates[0], build_plan_model(observed))


def roc_auc(scores: Float64Array, is_member: BoolArray) -> float:
    """Return the area under the ROC curve."""
    members = int(is_member.sum())
    above = rankdata(scores)[is_member].sum() - members * (members + 1) / 2
    return float(above / (members * (~is_member).sum()))


#: The cases of the candidate test: a name, images in the hospital, settings of the plan.
CANDIDATES: list[tuple[str, int, dict[str, Any]]] = [
    *((f"1 step, batch of {b}", b, {"batch": 64}) for b in (1, 2, 4, 8, 16, 32, 64)),
    ("1 step, batch of 8, lr 0.0005", 8, {"lr": 0.0005}),
    ("2 steps, batch of 1, two images", 2, {"batch": 1}),
    ("5 steps, batch of 1, five images", 5, {"batch": 1}),
    ("2 steps, batch of 16", 32, {"batch": 16}),
    ("5 steps, batch of 8", 40, {"batch": 8}),
    ("1 image, AdamW, by training on each", 1, {"optimizer": "adamw", "lr": 3e-4}),
]


def measure_candidates(folder: Path, count: int) -> list[Record]:
    """Measure every case of CANDIDATES on the same slices."""
    images, labels = read_slices(folder, count, 1)
    key = SecretKey.generate()
    records = []
    for name, members, changes in CANDIDATES:
        p = make_plan(folder, stem="private", **changes)
        observed = observe_round(p, images[:members], labels[:members], key)
        records.append({"update": name, **measure_candidate_test(observed, images, members)})
        print(records[-1], flush=True)
    return records


def measure_candidate_test(observed: Observed, images: Images, members: int) -> Record:
    """Test candidates, of which the first `members` took part."""
    view = view_of(observed)
    is_member, started = np.arange(len(images)) < members, time.perf_counter()
    if observed.plan.optimizer == "adamw":
        tried = min(len(images), 30)
        case = UpdateCase(view, 4)
        distances = np.array([case.distance(image) for image in images[:tried]])
        is_confirmed = np.array(
            [case.stands_out(image, EXACT_SHARE, CONFIRMED_DISTANCE) for image in images[:tried]]
        )
        is_member, rank = is_member[:tried], "–"
    else:
        test = confirm_candidates(view, images)
        distances, rank = test.outside, str(test.rank)
        is_confirmed = test.is_confirmed if view.gradients.steps == 1 else np.zeros(len(images), bool)
    inside, outside = distances[is_member], distances[~is_member]
    return {
        "rank": rank,
        "confirmed": f"{(is_confirmed & is_member).sum()} of {members}",
        "wrongly": f"{(is_confirmed & ~is_member).sum()} of {(~is_member).sum()}",
        "members, median (most)": f"{np.median(inside):.1e} ({inside.max():.1e})",
        "others, median (least)": f"{np.median(outside):.2f} ({outside.min():.2f})",
        "calibrated": "variants" if observed.plan.optimizer == "adamw" else "decoys",
        "AUC": round(roc_auc(-distances, is_member), 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def measure_searches(folder: Path, count: int, seconds: float, steps: int) -> list[Record]:
    """Search for the images of hospitals with one image each."""
    images, labels = read_slices(folder, count, 2)
    key, records = SecretKey.generate(), []
    for i in range(count):
        observed = observe_round(
            make_plan(folder, stem="private"), images[i : i + 1], labels[i : i + 1], key
        )
        view = view_of(observed)
        budget, label = Budget(seconds), labels_to_try(view.gradients, 4)
        result = search(view, label[0], steps, budget.time_left)
        guess = to_gray_levels(result.image)
        records.append(
            {
                "image": i,
                "steps": result.steps,
                "steps planned": steps,
                "cosine distance": round(result.distance, 4),
                "SSIM": round(ssim(guess, images[i]), 4),
                "SSIM of a flat picture": round(ssim(np.full_like(guess, images[i].mean()), images[i]), 4),
                "its update's distance": round(
                    replay_distance(view, to_model_input(guess[None]), label), 3
                ),
                "seconds": round(seconds - budget.left(), 0),
            }
        )
        print(records[-1], flush=True)
    return records


def measure_fine_tuning(folder: Path, count: int, epochs: int) -> list[Record]:
    """Test membership in a fine-tuning on half of the images."""
    images, labels = read_slices(folder, 2 * count, 3)
    is_member = np.arange(2 * count) < count
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.05}
    p = make_plan(folder, local_epochs=epochs, rounds=1, batch=32, **settings)
    started = time.perf_counter()
    observed = observe_round(p, images[:count], labels[:count], SecretKey.generate())
    seconds = time.perf_counter() - started
    result = measure_membership(observed, images, labels, is_member)
    record = {
        "training": f"AdamW 1e-4, {epochs} epochs of {count} images",
        "AUC": f"{result.auc:.3f} ({result.auc_low:.3f}–{result.auc_high:.3f})",
        "TPR": f"{result.tpr:.3f} ({result.tpr_low:.3f}–{result.tpr_high:.3f})",
        "at FPR": round(result.fpr, 4),
        "members, others": f"{result.members}, {result.non_members}",
        "training seconds": round(seconds),
    }
    print(record, flush=True)
    return [record]


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--parts", default="solve,steps,learn,candidates,search,membership")
    parser.add_argument("--images", type=int, default=5, help="images of solve, one hospital each")
    parser.add_argument("--candidates", type=int, default=120)
    parser.add_argument("--searched", type=int, default=2, help="images of search")
    parser.add_argument("--steps", type=int, default=80, help="steps of search, as far as --seconds reach")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each image of search")
    parser.add_argument("--members", type=int, default=120, help="images fine-tuned on, and as many others")
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    add_json(parser)
    o = parser.parse_args()
    if not (o.data / "brain_mri" / "train").is_dir():
        parser.error("no real images: name a folder that holds brain_mri/ with --data or CIPHERWARD_DATA")
    run: dict[str, Callable[[], list[Record]]] = {
        **{part: functools.partial(measure_solves, o.data, part, o.images) for part in SOLVES},
        "candidates": lambda: measure_candidates(o.data, o.candidates),
        "search": lambda: measure_searches(o.data, o.searched, o.seconds, o.steps),
        "membership": lambda: measure_fine_tuning(o.data, o.members, o.epochs),
    }
    figures = json.loads(o.json.read_text()) if o.json and o.json.exists() else {}
    figures["machine"] = machine()
    for part in o.parts.split(","):
        figures[part] = run[part]()
        table = Table(*figures[part][0], title=part)
        for record in figures[part]:
            table.add_row(*map(str, record.values()))
        Console(width=170).print(table)
        write_figures(o.json, figures)


if __name__ == "__main__":
    main()
