"""Train a stem of the cloud's own on the pool, and read the key from what it learns (T2: pool, labels, public model).

Whatever a federation does with its stems, the cloud has sealed images, their labels and a public checkpoint. It
trains that model on them, as a hospital would under stem mode `learn`, and looks at what its own stem learns.
Columns of neighbouring pixels learn similar weights (stem_similarity.py), which gives the order of the pixels. The
seams of the ciphertexts then give the order of the blocks.

A proposed scheme must pass this test even if no stem travels: private stems cannot help against it. The training
need not be finished, nor the model be any good. A few steps on a few images are enough, because what a step adds to
a column is a sum over the ciphertexts' own patches.

Source: our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.networks import training_loop
from coordinator.adversary.networks.device import images_to_device, take_batch, training_device
from coordinator.adversary.networks.training_loop import Progress, TrainingConfig
from coordinator.adversary.training.stem_layout import recover_key
from coordinator.adversary.training.stem_similarity import (
    Stem,
    copy_stem,
    learnt_change,
    reads_whole_blocks,
    unit_weights,
    why_unusable,
)
from coordinator.adversary.training.weights import StemEvidence, guess_from
from coordinator.exchange.plan import Plan
from coordinator.model.vit import build_model
from crypto.arrays import Int64Array

#: Images a step, AdamW's learning rate, and the most that a gradient may measure. The first two are those of the
#: stems in benchmarks/stems.py. Set once; not tuned further.
_BATCH, _RATE, _CLIP = 32, 3e-4, 1.0
#: The training takes at least so many steps; small pools come several times. Set once; not tuned further. In the
#: tests 20 steps on 16 images open the pool.
_MIN_STEPS = 20
#: At most so many images are learnt from: 20 steps of 32.
_MAX_IMAGES = 640
#: Below so many images nothing is tried. Set by hand; not tuned further.
_MIN_IMAGES = 8


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the key that a stem of the cloud's own shows.

    Without a key, the guess is the ciphertext's picture.
    """
    note = _missing_data(knowledge)
    return guess_from(knowledge, StemEvidence(note, idle=True) if note else _inspect_own_stem(knowledge))


def _missing_data(knowledge: Knowledge) -> str:
    """Return what the attack lacks; empty if nothing."""
    note = why_unusable(knowledge)
    if note:
        return note
    assert knowledge.observed is not None
    if knowledge.pool.spec.name == "orthogonal":
        return "under orthogonal a stem's columns show no order"
    if knowledge.labels is None:
        return "needs the labels of the pool"
    if len(knowledge.pool_rows) < _MIN_IMAGES:
        return f"needs {_MIN_IMAGES} ciphertexts, has {len(knowledge.pool_rows)}"
    weights = knowledge.observed.plan.weights
    if weights and not Path(weights).is_file():
        return f"the public weights {Path(weights).name} are not here"
    return ""


def _inspect_own_stem(knowledge: Knowledge) -> StemEvidence:
    """Train a stem, and return what its change shows."""
    observed, spec = knowledge.observed, knowledge.pool.spec
    assert observed is not None
    first, trained, progress = train_stem(knowledge, observed.plan, observed.classes)
    if trained is None or first is None or not reads_whole_blocks(trained, spec):
        return StemEvidence("the model has no patch embedding of the scheme's blocks", idle=True)
    change = learnt_change(first.filters, trained.filters)
    if not np.isfinite(change).all() or not change.any():
        return StemEvidence(
            "; ".join(["the stem learnt nothing", *filter(None, [progress.note])]), idle=True
        )
    key, key_note = recover_key(knowledge, unit_weights(change, spec))
    images = min(len(knowledge.pool_rows), _MAX_IMAGES)
    notes = (f"after {progress.steps} steps on {images} images", progress.note, key_note)
    return StemEvidence("; ".join(filter(None, notes)), key)


def train_stem(knowledge: Knowledge, plan: Plan, classes: int) -> tuple[Stem | None, Stem | None, Progress]:
    """Train the plan's model on the pool's ciphertexts and labels.

    Returns:
        The stem before, the stem after, and how far the training came.
    """
    # Under `learn` nothing is frozen and any model will do. The plan's own mode binds the hospitals alone.
    plan = plan.model_copy(update={"stem": "learn", "stem_frozen": False, "share": "all"})
    model = build_model(plan, classes)
    before = copy_stem(model)
    device = training_device()
    model.to(device).train()
    rows = np.random.default_rng(0).permutation(np.asarray(knowledge.pool_rows, np.int64))[:_MAX_IMAGES]
    images = images_to_device(knowledge.pool.images(rows))
    assert knowledge.labels is not None
    labels = torch.from_numpy(np.asarray(knowledge.labels, np.int64)[rows]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), _RATE)

    def step(batch: Int64Array) -> Mapping[str, float]:
        logits = model(take_batch(images, batch))
        loss = nn.functional.cross_entropy(logits, labels[torch.from_numpy(batch).to(labels.device)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        return {"loss": float(loss.detach())}

    per_epoch = math.ceil(len(rows) / _BATCH)

    def batches(rng: np.random.Generator, _: int) -> list[Int64Array]:
        return np.array_split(rng.permutation(len(rows)), per_epoch)

    config = TrainingConfig(math.ceil(_MIN_STEPS / per_epoch), _BATCH)
    parts: dict[str, training_loop.Stateful] = {"model": model, "optimizer": optimizer}
    progress = training_loop.train(parts, config, batches, step, knowledge.budget, {})
    return before, copy_stem(model), progress
