"""Small Vision Transformers with a stem like a public one's: smooth filters, positions that know their neighbours."""

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

SIDE, BLOCK, WIDTH, CLASSES = 64, 8, 96, 3


def study(weights: Path | str = "", **changes: object) -> Plan:
    """A plan of 64×64 images, patches of 8, and a ViT 96 wide."""
    args = {"patch_size": BLOCK, "embed_dim": WIDTH, "depth": 1, "num_heads": 2}
    settings = {"study": "t", "counts": (9, 9, 9), "image_size": SIDE, "block": BLOCK, "model_args": args}
    return Plan.model_validate({**settings, "weights": str(weights), **changes})


@torch.no_grad()
def public_file(folder: Path, channels: int = 1) -> Path:
    """A checkpoint whose stem is smooth, as that of a ViT which learnt on natural images."""
    model = build_model(study(channels=channels), CLASSES)
    rng, state = np.random.default_rng(4), model.state_dict()
    filters = rng.normal(size=(WIDTH, channels, BLOCK, BLOCK))
    filters = gaussian_filter(filters, (0, 0, 0.8, 0.8), mode="nearest")
    state["patch_embed.proj.weight"].copy_(torch.from_numpy(filters * 0.1 / filters.std()))
    grid = SIDE // BLOCK
    places = gaussian_filter(rng.normal(size=(grid, grid, WIDTH)), (1.2, 1.2, 0), mode="nearest")
    places = torch.from_numpy(places.reshape(-1, WIDTH) * 0.1 / places.std())
    state["pos_embed"][0, -(grid**2) :] = places.float()
    path = folder / "public.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, str(path))
    return path


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def watched(
    pool: MemoryPool,
    plan: Plan | None,
    weights: dict[str, np.ndarray],
    labels: np.ndarray | None = None,
    seconds: float = 600.0,
    guessed: int = 6,
) -> Knowledge:
    """What the cloud holds after a training; the last images of the pool are to be guessed, the others seen."""
    count = len(pool) - guessed
    observed = None if plan is None else Observed(plan, CLASSES, weights)
    rows = np.arange(count, len(pool))
    return Knowledge(pool, np.arange(count), rows, Budget(seconds), labels=labels, observed=observed)
