"""Small Vision Transformers with a stem like a public one's: smooth filters, similar positions of neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.training.observation import Observed
from coordinator.exchange.plan import Plan
from coordinator.exchange.pool import MemoryPool
from coordinator.model.vit import build_model
from crypto.arrays import AnyArray, Int64Array

SIDE, BLOCK, WIDTH, CLASSES = 64, 8, 96, 3


def study(weights: Path | str = "", **changes: object) -> Plan:
    """Return a plan of 64×64 images, patches of 8, and a ViT 96 wide."""
    model_args = {"patch_size": BLOCK, "embed_dim": WIDTH, "depth": 1, "num_heads": 2}
    settings = {
        "study": "t",
        "counts": (9, 9, 9),
        "image_size": SIDE,
        "block": BLOCK,
        "model_args": model_args,
    }
    return Plan.model_validate({**settings, "weights": str(weights), **changes})


@torch.no_grad()
def public_file(folder: Path, channels: int = 1) -> Path:
    """Write a checkpoint whose stem is smooth, like that of a ViT that learnt on natural images."""
    model = build_model(study(channels=channels), CLASSES)
    rng, state = np.random.default_rng(4), model.state_dict()
    filters = rng.normal(size=(WIDTH, channels, BLOCK, BLOCK))
    filters = gaussian_filter(filters, (0, 0, 0.8, 0.8), mode="nearest")
    state["patch_embed.proj.weight"].copy_(torch.from_numpy(filters * 0.1 / filters.std()))
    grid = SIDE // BLOCK
    positions = gaussian_filter(rng.normal(size=(grid, grid, WIDTH)), (1.2, 1.2, 0), mode="nearest")
    positions = torch.from_numpy(positions.reshape(-1, WIDTH) * 0.1 / positions.std())
    state["pos_embed"][0, -(grid**2) :] = positions.float()
    path = folder / "public.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, str(path))
    return path


def weights_by_name(model: torch.nn.Module) -> dict[str, AnyArray]:
    """Return a copy of a model's weights by name."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def observed_study(
    pool: MemoryPool,
    plan: Plan | None,
    weights: dict[str, AnyArray],
    labels: Int64Array | None = None,
    seconds: float = 600.0,
    guessed: int = 6,
) -> Knowledge:
    """Return what the cloud holds after a training.

    The last images of the pool are to be guessed; the attack may use the others.
    """
    count = len(pool) - guessed
    observed = None if plan is None else Observed(plan, CLASSES, weights)
    rows = np.arange(count, len(pool))
    return Knowledge(pool, np.arange(count), rows, Budget(seconds), labels=labels, observed=observed)
