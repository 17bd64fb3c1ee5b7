"""A stem of the cloud's own, learnt on the pool (T1 with its labels, and a public model; told as T2).

Whatever a federation does with its stems, the cloud has sealed images, their labels and a public checkpoint. It
trains that model on them, as a hospital would under stem mode `learn`, and looks at what its own stem learns: columns
of neighbouring pixels learn alike (stem_similarity.py), which gives the order of the pixels, and the seams of the
ciphertexts then give the order of the blocks. It is a test that a proposed scheme must pass even where no stem
travels: private stems cannot help against it. The training need not be finished, nor the model any good: a few
steps on a few images say enough, and what a step adds to a column is a sum over the ciphertexts' own patches.

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
from coordinator.adversary.networks.training_loop import Course, Progress, chosen, device, on_device, train
from coordinator.adversary.training.stem_layout import open_by
from coordinator.adversary.training.stem_similarity import Stem, fits, learnt, stem_in, unfit, units
from coordinator.adversary.training.weights import Shown, guess
from coordinator.exchange.plan import Plan
from coordinator.model.vit import build_model

_BATCH, _RATE, _CLIP = 32, 3e-4, 1.0
_STEPS = 20  # least number of steps; small pools are gone through several times
_IMAGES = 640  # most images that are learnt from
_FEWEST = 8  # least


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows to guess with the key that a stem of the cloud's own shows; else hands back the ciphertexts."""
    note = _missing(knowledge)
    return guess(knowledge, Shown(note, idle=True) if note else _learn(knowledge))


def _missing(knowledge: Knowledge) -> str:
    """What the attack lacks, or nothing."""
    note = unfit(knowledge)
    if note:
        return note
    assert knowledge.observed is not None
    if knowledge.pool.spec.name == "orthogonal":
        return "under orthogonal a stem's columns show no order"
    if knowledge.labels is None:
        return "needs the labels of the pool"
    if len(knowledge.pool_rows) < _FEWEST:
        return f"needs {_FEWEST} ciphertexts, has {len(knowledge.pool_rows)}"
    weights = knowledge.observed.plan.weights
    if weights and not Path(weights).is_file():
        return f"the public weights {Path(weights).name} are not here"
    return ""


def _learn(knowledge: Knowledge) -> Shown:
    observed, spec = knowledge.observed, knowledge.pool.spec
    assert observed is not None
    first, own, progress = trained(knowledge, observed.plan, observed.classes)
    if own is None or first is None or not fits(own, spec):
        return Shown("the model has no patch embedding of the scheme's blocks", idle=True)
    change = learnt(first.filters, own.filters)
    if not np.isfinite(change).all() or not change.any():
        return Shown("; ".join(["the stem learnt nothing", *filter(None, [progress.note])]), idle=True)
    found, note = open_by(knowledge, units(change, spec))
    said = f"after {progress.steps} steps on {min(len(knowledge.pool_rows), _IMAGES)} images"
    return Shown("; ".join(part for part in (said, progress.note, note) if part), found)


def trained(knowledge: Knowledge, plan: Plan, classes: int) -> tuple[Stem | None, Stem | None, Progress]:
    """(the stem before, the stem after, how far it came): the plan's model, trained on the ciphertexts seen."""
    # Under `learn` nothing is frozen and any model goes; the plan's own mode is the hospitals' business.
    whole = plan.model_copy(update={"stem": "learn", "stem_frozen": False, "share": "all"})
    model = build_model(whole, classes)
    before = stem_in(model)
    model.to(device()).train()
    rows = np.random.default_rng(0).permutation(np.asarray(knowledge.pool_rows, np.int64))[:_IMAGES]
    images = on_device(knowledge.pool.images(rows))
    assert knowledge.labels is not None
    labels = torch.from_numpy(np.asarray(knowledge.labels, np.int64)[rows]).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), _RATE)

    def step(batch: np.ndarray) -> Mapping[str, float]:
        logits = model(chosen(images, batch))
        loss = nn.functional.cross_entropy(logits, labels[torch.from_numpy(batch).to(labels.device)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        return {"loss": float(loss.detach())}

    per_epoch = math.ceil(len(rows) / _BATCH)

    def batches(generator: np.random.Generator, epoch: int) -> list[np.ndarray]:
        return np.array_split(generator.permutation(len(rows)), per_epoch)

    course = Course(math.ceil(_STEPS / per_epoch), _BATCH)
    progress = train({"model": model, "optimizer": optimizer}, course, batches, step, knowledge.budget, {})
    return before, stem_in(model), progress
