"""What the updates of a hospital give away: real training steps on real images, attacked as the cloud would.

    python benchmarks/updates.py --data FOLDER [--parts solve,steps,learn,candidates,search,membership] [--json FILE]

FOLDER holds brain_mri/train and vit_tiny_patch16_224.safetensors. Gray 224×224 slices, ViT-Ti/16 from these
public weights, SGD with momentum 0.9 and clipping at 1 but where AdamW is named; hospitals seal under
block_pixel_shuffle with blocks of 16, and train as coordinator/model/training.py does. SSIM is that of suite/1. Each part
takes minutes; with --json a part's figures replace its earlier ones in the file.

- solve, steps, learn: one image in the hospital. SSIM to the plain image (stem plain), to the ciphertext (stem learn)
  and, opened with the key that a pool of 50 images gives away, to the plain image. "found" counts what the attack
  calls found. Learning rates, because float32 weights hide small ones; local steps over the same image.
- candidates: which of --candidates plain slices took part, stem private. Several steps: only the area under the ROC
  curve of the same figure, since nothing is confirmed there.
- search: Inverting Gradients, stem private, one image, within --seconds.
- membership: fine-tuning on some images; are these told from others of the same source?
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.training import updates
from coordinator.adversary.training.membership import membership
from coordinator.adversary.training.observation import Observed, Update
from coordinator.adversary.training.update_candidates import confirm
from coordinator.adversary.training.update_findings import findings
from coordinator.adversary.training.update_search import as_levels, search
from coordinator.adversary.training.update_solve import solve
from coordinator.adversary.training.update_steps import as_input, labels_to_try, model_of, replay, see
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack, shared_names
from coordinator.report.build import machine
from crypto.key import SecretKey
from crypto.scheme import load
from parties.scoring.measures import ssim
from parties.training.stem import carry, carry_back, coordinates

SIZE = 224
Record = dict[str, Any]


def slices(folder: Path, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [n, 224, 224, 1], int64 [n] class) of a random choice over the classes."""
    paths = sorted((folder / "brain_mri" / "train").rglob("*.jpg"))
    classes = sorted({p.parent.name for p in paths})
    chosen = [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))[:count]]
    images = [np.asarray(Image.open(p).convert("L"), np.uint8)[..., None] for p in chosen]
    return np.stack(images), np.array([classes.index(p.parent.name) for p in chosen])


def plan(folder: Path, **changes: Any) -> Plan:
    settings = {
        "study": "updates",
        "parties": 1,
        "source": "folder",
        "images": str(folder),
        "image_size": SIZE,
    }
    settings |= {
        "weights": str(folder / "vit_tiny_patch16_224.safetensors"),
        "rounds": 10,
        "warmup_steps": 0,
    }
    settings |= {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.0, "key_scope": "party", "stem": "plain"}
    return Plan.model_validate(settings | changes)


def trained(p: Plan, images: np.ndarray, labels: np.ndarray, key: SecretKey) -> Observed:
    """What the cloud sees of the first round of a hospital with these images."""
    model = build_model(p, 4)
    names = shared_names(model, p)
    before, spec = pack(model, names), p.describe()
    sealed = load(spec).cipher(key).encrypt(images)
    if p.stem != "learn":
        carry(model, coordinates(spec, key))
    train_locally(model, PlainImages(sealed, labels), p, 1, "hospital-0")
    if p.stem != "learn":
        carry_back(model, coordinates(spec, key))
    state = model.state_dict()
    weights = {n: state[n].numpy().copy() for n in names}
    return Observed(p, 4, weights, (Update(1, "hospital-0", before, pack(model, names), len(images)),))


def _middle(values: Sequence[float]) -> str:
    return f"{np.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"


#: What is solved: a name, images in the hospital, settings of the plan.
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


def solves(folder: Path, part: str, count: int) -> list[Record]:
    images, labels = slices(folder, count + 50, 0)
    key = SecretKey.generate()
    records = []
    for name, batch, changes in SOLVES[part]:
        p = plan(folder, **changes)
        cipher = load(p.describe()).cipher(key)
        sealed, found, raw, opened, seconds, rank = cipher.encrypt(images[:count]), 0, [], [], [], 0
        for i in range(min(count, 3) if p.model != "vit_tiny_patch16_224" else count):
            mine = np.arange(i, i + batch) % count
            observed = trained(p, images[mine], labels[mine], key)
            started = time.perf_counter()
            seen = see(observed, observed.updates[0], model_of(observed))
            solved = solve(seen.model, seen.step.values, seen.step.rounding)
            seconds.append(time.perf_counter() - started)
            rank = solved.rank
            target = sealed if p.stem == "learn" else images
            raw.append(max(ssim(as_levels(solved.image), target[k]) for k in mine))
            once = iter([True])  # the solve alone: `search` has a part of its own
            [finding] = findings(observed, None, lambda once=once: next(once, False))  # type: ignore[misc]
            found += finding.found
            if finding.found and p.stem == "learn":
                pool = MemoryPool(p.describe(), cipher.encrypt(images[count:]))
                every = np.arange(len(pool))
                guess = updates.attack(Knowledge(pool, every, every[:1], Budget(300.0), observed=observed))
                opened.append(ssim(guess.images[0], images[i]))
        records.append(
            {
                "stem": name,
                "images": len(raw),
                "rank of 196": rank,
                "SSIM, median (range)": _middle(raw),
                "opened with the pool's key": _middle(opened) if opened else "",
                "found": f"{found} of {len(raw)}",
                "seconds": round(float(np.median(seconds)), 1),
            }
        )
        print(records[-1], flush=True)
    return records


def _auc(scores: np.ndarray, members: np.ndarray) -> float:
    inside = int(members.sum())
    above = rankdata(scores)[members].sum() - inside * (inside + 1) / 2
    return float(above / (inside * (~members).sum()))


def candidates(folder: Path, count: int) -> list[Record]:
    images, labels = slices(folder, count, 1)
    key = SecretKey.generate()
    records = []
    settings: list[tuple[str, int, dict[str, Any]]] = [
        *((f"1 step, batch of {b}", b, {"batch": 64}) for b in (1, 2, 4, 8, 16, 32, 64)),
        ("1 step, batch of 8, lr 0.0005", 8, {"lr": 0.0005}),
        ("2 steps, batch of 1, two images", 2, {"batch": 1}),
        ("5 steps, batch of 1, five images", 5, {"batch": 1}),
        ("2 steps, batch of 16", 32, {"batch": 16}),
        ("5 steps, batch of 8", 40, {"batch": 8}),
        ("1 image, AdamW, by training on each", 1, {"optimizer": "adamw", "lr": 3e-4}),
    ]
    for name, took, changes in settings:
        p = plan(folder, stem="private", **changes)
        observed = trained(p, images[:took], labels[:took], key)
        seen = see(observed, observed.updates[0], model_of(observed))
        members, started = np.arange(count) < took, time.perf_counter()
        if p.optimizer == "adamw":
            tried = min(count, 30)
            label = labels_to_try(seen.step, 4)
            away = np.array([replay(seen, as_input(image[None]), label) for image in images[:tried]])
            inside, members, rank = away < 0.02, members[:tried], "–"
        else:
            span = confirm(seen, images)
            away, rank = span.outside, str(span.rank)
            inside = span.inside if seen.step.steps == 1 else np.zeros(count, bool)
        records.append(
            {
                "update": name,
                "rank": rank,
                "confirmed": f"{(inside & members).sum()} of {took}",
                "wrongly": f"{(inside & ~members).sum()} of {(~members).sum()}",
                "members, median (most)": f"{np.median(away[members]):.1e} ({away[members].max():.1e})",
                "others, median (least)": f"{np.median(away[~members]):.2f} ({away[~members].min():.2f})",
                "AUC": round(_auc(-away, members), 4),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
        print(records[-1], flush=True)
    return records


def searches(folder: Path, count: int, seconds: float, steps: int) -> list[Record]:
    images, labels = slices(folder, count, 2)
    key, records = SecretKey.generate(), []
    for i in range(count):
        observed = trained(plan(folder, stem="private"), images[i : i + 1], labels[i : i + 1], key)
        seen = see(observed, observed.updates[0], model_of(observed))
        budget, label = Budget(seconds), labels_to_try(seen.step, 4)
        made = search(seen, label[0], steps, lambda budget=budget: budget.left() > 0)  # type: ignore[misc]
        guess = as_levels(made.image)
        records.append(
            {
                "image": i,
                "steps": made.steps,
                "steps planned": steps,
                "cosine distance": round(made.distance, 4),
                "SSIM": round(ssim(guess, images[i]), 4),
                "SSIM of a flat picture": round(ssim(np.full_like(guess, images[i].mean()), images[i]), 4),
                "its update's distance": round(replay(seen, as_input(guess[None]), label), 3),
                "seconds": round(seconds - budget.left(), 0),
            }
        )
        print(records[-1], flush=True)
    return records


def memberships(folder: Path, count: int, epochs: int) -> list[Record]:
    images, labels = slices(folder, 2 * count, 3)
    members = np.arange(2 * count) < count
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.05}
    p = plan(folder, local_epochs=epochs, rounds=1, batch=32, **settings)
    started = time.perf_counter()
    observed = trained(p, images[:count], labels[:count], SecretKey.generate())
    spent = time.perf_counter() - started
    found = membership(observed, images, labels, members)
    record = {
        "training": f"AdamW 1e-4, {epochs} epochs of {count} images",
        "AUC": f"{found.auc:.3f} ({found.auc_low:.3f}–{found.auc_high:.3f})",
        "TPR": f"{found.tpr:.3f} ({found.tpr_low:.3f}–{found.tpr_high:.3f})",
        "at FPR": round(found.fpr, 4),
        "members, others": f"{found.members}, {found.others}",
        "training seconds": round(spent),
    }
    print(record, flush=True)
    return [record]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the updates of a hospital give away.")
    folder = os.environ.get("CIPHERWARD_DATA", "")
    parser.add_argument("--data", type=Path, default=Path(folder) if folder else None, help="FOLDER")
    parser.add_argument("--parts", default="solve,steps,learn,candidates,search,membership")
    parser.add_argument("--images", type=int, default=5, help="images of solve, one hospital each")
    parser.add_argument("--candidates", type=int, default=120)
    parser.add_argument("--searched", type=int, default=2, help="images of search")
    parser.add_argument("--steps", type=int, default=80, help="steps of search, as far as --seconds reach")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each image of search")
    parser.add_argument("--members", type=int, default=120, help="images fine-tuned on, and as many others")
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    o = parser.parse_args()
    if o.data is None or not (o.data / "brain_mri" / "train").is_dir():
        parser.error("no real images: name a folder that holds brain_mri/ with --data or CIPHERWARD_DATA")
    run = {
        **{part: lambda part=part: solves(o.data, part, o.images) for part in SOLVES},  # type: ignore[misc]
        "candidates": lambda: candidates(o.data, o.candidates),
        "search": lambda: searches(o.data, o.searched, o.seconds, o.steps),
        "membership": lambda: memberships(o.data, o.members, o.epochs),
    }
    figures = json.loads(o.json.read_text()) if o.json and o.json.exists() else {}
    figures["machine"] = machine()
    for part in o.parts.split(","):
        figures[part] = run[part]()
        table = Table(*figures[part][0], title=part)
        for record in figures[part]:
            table.add_row(*map(str, record.values()))
        Console(width=170).print(table)
        if o.json:
            o.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
