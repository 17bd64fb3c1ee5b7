"""A small plan, and images that a small model learns in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from coordinator.exchange.plan import Plan
from coordinator.model.training import PlainImages

SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


def plan(**changes: Any) -> Plan:
    """Return a plan with a small model, with these changes."""
    settings: dict[str, Any] = {
        "study": "t",
        "counts": (9, 9, 9),
        "image_size": 32,
        "block": 8,
        "model_args": SMALL,
        "batch": 8,
    }
    return Plan.model_validate(settings | {"rounds": 2, "warmup_steps": 0, "lr": 3e-3} | changes)


def striped_images(n: int = 48, seed: int = 0) -> PlainImages:
    """Return images of two classes that differ in the direction of stripes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    y, x = np.mgrid[:32, :32]
    images = [128 + 90 * np.sin((y if k else x) * 0.8 + generator.uniform(0, 6)) for k in labels]
    return PlainImages(np.stack(images).astype(np.uint8)[..., None], labels)
