"""Updates as a hospital makes them, of a tiny Vision Transformer: real local training on given images."""

from __future__ import annotations

import numpy as np

from coordinator.adversary.training.observation import Observed, Update
from coordinator.exchange.plan import Plan
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack, shared_names
from crypto.key import SecretKey
from crypto.scheme import load
from parties.training.stem import carry, carry_back, coordinates

CLASSES = 3
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
KEY = SecretKey(bytes([7]) * 32)


def plan(**changes) -> Plan:
    """One step of SGD a round, clipped, with momentum, weight decay and half of the warm-up behind it."""
    settings = {"study": "t", "parties": 1, "counts": (40, 12, 16), "image_size": 32, "block": 8}
    settings |= {"model_args": SMALL, "batch": 8, "rounds": 4, "warmup_steps": 2, "stem": "plain"}
    settings |= {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9, "weight_decay": 0.01, "clip": 0.5}
    return Plan.model_validate(settings | changes)


def trained(p: Plan, images: np.ndarray, labels: list[int], round_: int = 1) -> Observed:
    """What the cloud sees of a hospital with these plain images in one round, under the plan's stem mode and KEY."""
    model = build_model(p, CLASSES)
    names = shared_names(model, p)
    before = pack(model, names)
    spec = p.describe()
    sealed = load(spec).cipher(KEY).encrypt(images)
    where = coordinates(spec, KEY) if p.stem != "learn" else None
    if where is not None:
        carry(model, where)
    train_locally(model, PlainImages(sealed, np.array(labels)), p, round_, "hospital-0")
    if where is not None:
        carry_back(model, where)
    after = pack(model, names)
    state = {n: model.state_dict()[n].numpy().copy() for n in names}
    return Observed(p, CLASSES, state, (Update(round_, "hospital-0", before, after, len(images)),))
