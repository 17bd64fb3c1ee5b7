"""A hospital's updates of a tiny Vision Transformer, from real local training, and attacks on them."""

from __future__ import annotations

import numpy as np
import torch

from coordinator.adversary.contract import Budget, Guess, Knowledge
from coordinator.adversary.training import updates
from coordinator.adversary.training.observation import Observed, Update
from coordinator.adversary.training.update_steps import UpdateView, build_plan_model, read_update
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.model_input import to_model_input
from coordinator.model.shares import shared_names
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack
from crypto.arrays import AnyArray, Float64Array, Images
from crypto.key import SecretKey
from crypto.scheme import load
from parties.training.stem import carry, carry_back, key_coordinates
from tests.support.pictures import smooth

CLASSES = 3
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
KEY = SecretKey(bytes([7]) * 32)
PICTURES = smooth(24, 32, 32)
LABELS = [i % CLASSES for i in range(24)]


def plan(**changes: object) -> Plan:
    """Return a plan: one step of SGD a round, clipped, with momentum, weight decay and a warm-up of two steps."""
    settings: dict[str, object] = {
        "study": "t",
        "parties": 1,
        "counts": (40, 12, 16),
        "image_size": 32,
        "block": 8,
    }
    settings |= {"model_args": SMALL, "batch": 8, "rounds": 4, "warmup_steps": 2, "stem": "plain"}
    settings |= {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9, "weight_decay": 0.01, "clip": 0.5}
    return Plan.model_validate(settings | changes)


def trained(p: Plan, images: Images, labels: list[int], round_: int = 1) -> Observed:
    """Return what the cloud sees of a hospital with these plain images in one round.

    The hospital seals under KEY and trains under the plan's stem mode.
    """
    model = build_model(p, CLASSES)
    names = shared_names(model, p)
    before = pack(model, names)
    spec = p.describe()
    sealed = load(spec).cipher(KEY).encrypt(images)
    where = key_coordinates(spec, KEY) if p.stem != "learn" else None
    if where is not None:
        carry(model, where)
    train_locally(model, PlainImages(sealed, np.array(labels)), p, round_, "hospital-0")
    if where is not None:
        carry_back(model, where)
    after = pack(model, names)
    state = {n: model.state_dict()[n].numpy().copy() for n in names}
    return Observed(p, CLASSES, state, (Update(round_, "hospital-0", before, after, len(images)),))


def sealed_pool_of(p: Plan, n: int = 24, key: SecretKey = KEY) -> MemoryPool:
    """Return some pictures, sealed as the plan says."""
    spec = p.describe()
    return MemoryPool(spec, load(spec).cipher(key).encrypt(PICTURES[:n]))


def attack_updates(
    observed: Observed, public: Images | None = None, seconds: float = 60.0, pool: MemoryPool | None = None
) -> Guess:
    """Attack the updates of a training, beside a pool under the plan's scheme."""
    pool = pool or sealed_pool_of(observed.plan)
    rows = np.arange(len(pool))
    return updates.attack(
        Knowledge(pool, rows, rows[:1], Budget(seconds), public=public, observed=observed)
    )


def view_of(observed: Observed) -> UpdateView:
    """Return the first update of a training, read with the plan's model."""
    return read_update(observed, observed.updates[0], build_plan_model(observed))


def gradients_of(model: torch.nn.Module, images: AnyArray, labels: list[int]) -> dict[str, Float64Array]:
    """Return the true gradients of a model's weights on a batch, by name."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(to_model_input(images)), torch.tensor(labels))
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    return {n: w.grad.double().numpy() for n, w in model.named_parameters() if w.grad is not None}
