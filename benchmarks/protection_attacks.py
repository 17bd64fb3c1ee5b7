"""The attacks of benchmarks/protection.py on what the cloud holds: updates of one step, and a whole training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.privacy_accuracy import count_hits
from benchmarks.protection_training import HOSPITALS, CloudView, Protection, train_round
from coordinator.adversary.training.membership import evaluate_scores, label_confidence
from coordinator.adversary.training.observation import Observed, Update
from coordinator.adversary.training.update_findings import Finding, invert_updates
from coordinator.adversary.training.update_search import to_gray_levels
from coordinator.adversary.training.update_solve import solve
from coordinator.adversary.training.update_steps import build_plan_model, read_update
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.plan import Plan
from coordinator.model.model_input import to_model_input
from coordinator.model.training import PlainImages
from coordinator.model.vit import build_model, pack, unpack
from crypto.arrays import BoolArray, Float32Array, Float64Array, Images, Rows
from crypto.errors import CipherwardError
from parties.scoring.measures import ssim

Record = dict[str, Any]
#: Images of each hospital where candidates are tested; one step takes all of them.
BATCH = 16
_STEP = {"rounds": 10, "batch": 64, "lr": 0.05}
#: The ViT for 28×28 pixels, from scratch.
SMALL = {
    "image_size": 28,
    "block": 4,
    "model_args": {"patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 4},
}


def model_settings(name: str, data: Path) -> Record:
    """Return the settings of a plan that name the model of a data set."""
    return SMALL if name == "pneumonia" else {"weights": str(data / "vit_tiny_patch16_224.safetensors")}


# ---- one step --------------------------------------------------------------------------------------------


def measure_step(
    protection: Protection, settings: Record, images: PlainImages, start: Float32Array | None, seed: int
) -> Record:
    """Attack the updates of a round in which every hospital takes one step.

    Twice: with one image in each hospital, and with BATCH. Candidates are the images of all hospitals and as many
    others.

    Args:
        protection: of the updates.
        settings: of the plan: its model.
        images: the hospitals' and others.
        start: the weights that are sent out, float32 [parameters]; None for those that the plan starts from.
        seed: of the choice of images.
    """
    plan = protection.plan(**_STEP, **settings, seed=seed)
    classes = int(images.labels.max()) + 1
    order = np.random.default_rng([seed, 1]).permutation(len(images.labels))
    single = _hold(plan, classes, images, order[:HOSPITALS], start)
    batch = _hold(plan, classes, images, order[: HOSPITALS * BATCH], start)
    record: Record = _solve_single(plan, classes, single, images.images[order[:HOSPITALS]])
    record["calibrated"] = "decoys"  # what confirmations are compared with
    for name, view, count in (("single", single, HOSPITALS), ("batch", batch, HOSPITALS * BATCH)):
        rows = order[: 2 * count]
        record |= {
            f"{name} {k}": v for k, v in _confirm(plan, classes, view, images.images[rows], count).items()
        }
    rows = order[: 2 * HOSPITALS * BATCH]
    scores = _gradient_match(plan, classes, batch, PlainImages(images.images[rows], images.labels[rows]))
    record["gradient match"] = _evaluate(batch.updates, scores)
    return record | {"seconds": batch.seconds, "bytes": batch.traffic}


def _hold(
    plan: Plan, classes: int, images: PlainImages, rows: Rows, start: Float32Array | None
) -> CloudView:
    """Return what the cloud holds after a round of hospitals with a third of these rows each."""
    model, each = build_model(plan, classes), len(rows) // HOSPITALS
    parts = [rows[i * each : (i + 1) * each] for i in range(HOSPITALS)]
    hospitals = [PlainImages(images.images[part], images.labels[part]) for part in parts]
    return train_round(model, plan, hospitals, pack(model) if start is None else start)


def _solve_single(plan: Plan, classes: int, held: CloudView, truth: Images) -> Record:
    """Solve for the one image of each hospital: SSIM of what comes out, and how many images are confirmed."""
    scores, confirmed = [], 0
    for update in held.updates:
        observed = Observed(plan, classes, {}, (update,))
        view = read_update(observed, update, build_plan_model(observed))
        picture = to_gray_levels(solve(view.model, view.gradients.values, view.gradients.rounding).image)
        scores.append(max(ssim(picture, image) for image in truth))
        confirmed += len(_find(observed, None).images)
    flat = [ssim(np.full_like(image, round(float(image.mean()))), image) for image in truth]
    return {"solve SSIM": scores, "flat SSIM": flat, "solved": confirmed, "images": len(truth)}


def _find(observed: Observed, candidates: Images | None) -> Finding:
    """Run the attack on one update without its search, which benchmarks/updates.py measures."""
    answers = iter([True])
    time_left = functools.partial(next, answers, False) if candidates is None else lambda: True
    [finding] = invert_updates(observed, candidates, time_left)
    return finding if finding.is_confirmed else replace(finding, images=finding.images[:0])


def _confirm(plan: Plan, classes: int, held: CloudView, candidates: Images, members: int) -> Record:
    """Count candidates that the attack confirms; the first `members` took part."""
    keys = [image.tobytes() for image in candidates]
    confirmed: set[bytes] = set()
    by_chance = 0.0
    for update in held.updates:
        observed = Observed(plan, classes, {}, (update,))
        # A single image would also be searched for: only candidates are asked about here.
        tested = replace(observed, updates=(replace(update, images=max(2, update.images)),))
        finding = _find(tested, candidates)
        confirmed |= {image.tobytes() for image in finding.images}
        by_chance += finding.by_chance
    return {
        "confirmed": sum(key in confirmed for key in keys[:members]),
        "members": members,
        "wrongly": sum(key in confirmed for key in keys[members:]),
        "others": len(keys) - members,
        "by chance": by_chance,
    }


def _gradient_match(plan: Plan, classes: int, held: CloudView, candidates: PlainImages) -> Float64Array:
    """Return how far each update goes along each candidate's own clipped gradient, float64 [updates, n].

    The mean over the candidates of a label is subtracted: all of them share a direction that tells nothing.
    """
    model = build_model(plan, classes)
    unpack(model, held.updates[0].before)
    moved = [torch.from_numpy(update.before - update.after) for update in held.updates]
    names = [name for name, _ in model.named_parameters()]
    assert names == list(model.state_dict()), "a model with buffers"
    scores = np.empty((len(moved), len(candidates.labels)))
    for row, label in enumerate(candidates.labels):
        model.zero_grad()
        logits = model(to_model_input(candidates.images[row : row + 1]))
        loss = nn.functional.cross_entropy(logits, torch.tensor([int(label)]))
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        gradient = torch.cat([w.grad.reshape(-1) for w in model.parameters() if w.grad is not None])
        clipped = gradient / max(1.0, float(gradient.norm()))
        scores[:, row] = [float(step @ clipped / step.norm()) for step in moved]
    for label in np.unique(candidates.labels):
        same = candidates.labels == label
        scores[:, same] -= scores[:, same].mean(1, keepdims=True)
    return scores


def _evaluate(updates: Sequence[Update], scores: Float64Array) -> Record:
    """Return the figures of scores [updates, candidates], whose first half are the hospitals' images in their order.

    One hospital's update is asked about its own images and a third of the others; a sum is asked about all.
    """
    half = scores.shape[1] // 2
    owner = np.tile(np.arange(half) * HOSPITALS // half, 2)
    is_member: BoolArray = np.arange(2 * half) < half
    chosen = scores[0] if len(updates) == 1 else scores[owner, np.arange(2 * half)]
    return asdict(evaluate_scores(chosen, is_member))


# ---- a whole training ------------------------------------------------------------------------------------


def measure_training(
    plan: Plan, model: nn.Module, members: PlainImages, others: PlainImages, test: PlainImages
) -> Record:
    """Train all rounds, and test membership with what the cloud holds in the end: the last round's updates.

    Args:
        plan: from `Protection.plan`.
        model: as it is sent out first.
        members: images of all hospitals, a third each.
        others: as many images of the same source.
        test: what accuracy is measured on.
    """
    each = len(members.labels) // HOSPITALS
    parts = [slice(i * each, (i + 1) * each) for i in range(HOSPITALS)]
    hospitals = [PlainImages(members.images[part], members.labels[part]) for part in parts]
    both = PlainImages(
        np.concatenate([d.images[: HOSPITALS * each] for d in (members, others)]),
        np.concatenate([d.labels[: HOSPITALS * each] for d in (members, others)]),
    )
    first: Float32Array = pack(model)
    before = label_confidence(model, both.images, both.labels)
    seconds, weights = [], first
    for round_ in range(1, plan.rounds + 1):
        held = train_round(model, plan, hospitals, weights, round_)
        weights = held.mean
        seconds.append(held.seconds)
    if not np.isfinite(weights).all():
        raise CipherwardError("the training diverged", "choose a smaller learning rate")
    scores = np.empty((len(held.updates), len(both.labels)))
    for row, update in enumerate(held.updates):
        unpack(model, update.after)
        scores[row] = label_confidence(model, both.images, both.labels) - before
    unpack(model, weights)
    return {
        "membership": _evaluate(held.updates, scores),
        "accuracy": rate_of(count_hits(model, test), len(test.labels)).to_json(),
        "round seconds": float(np.median(seconds)),
        "round bytes": held.traffic,
        "parameters": int(first.size),
        "members": HOSPITALS * each,
    }
