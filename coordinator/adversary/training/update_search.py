"""One image out of one gradient, by optimisation: Inverting Gradients (T5).

Geiping et al. 2020 (arXiv 2003.14053): the image whose gradient points where the one seen points, cosine
distance plus total variation, by Adam on the signs of its own gradient, 0.1 at first and a tenth of that after
3/8, 5/8 and 7/8 of the steps. They take 24,000 steps and restarts; here the budget decides, and the number of
steps is handed back. It needs no gradient of the stem, so it is what is left under stem mode `private`. What it
finds is a guess until `replay` confirms it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coordinator.adversary.training.update_steps import Seen
from coordinator.model.vit import unpack

RATE, VARIATION = 0.1, 0.2


@dataclass(frozen=True)
class Searched:
    """image: float64 [h, w, c] as the model reads it. distance: 1 − cosine of its gradient with the one seen."""

    image: np.ndarray
    distance: float
    steps: int


def search(
    seen: Seen,
    label: int,
    steps: int,
    time_left: Callable[[], bool] = lambda: True,
    variation: float = VARIATION,
    seed: int = 0,
) -> Searched:
    """At most `steps` steps from a random start. variation: total variation's weight; 0 for ciphertexts."""
    model = seen.model
    unpack(model, seen.start)
    model.train()
    weights = [(n, w) for n, w in model.named_parameters() if w.requires_grad and n in seen.step.values]
    wanted = [torch.from_numpy(seen.step.values[n]).float() for n, _ in weights]
    length = torch.sqrt(sum((w**2).sum() for w in wanted))  # type: ignore[arg-type]
    embed = model.patch_embed
    channels = embed.proj.in_channels  # type: ignore[union-attr]
    shape = (1, channels, *embed.img_size)  # type: ignore[union-attr, misc]
    image = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    image.requires_grad_(True)
    optimizer = torch.optim.Adam([image], RATE)
    falls = {int(steps * share) for share in (3 / 8, 5 / 8, 7 / 8)}
    best, least, done = image.detach().clone(), float("inf"), 0
    for done in range(1, steps + 1):
        loss = nn.functional.cross_entropy(model(image), torch.tensor([label]))
        found = torch.autograd.grad(loss, [w for _, w in weights], create_graph=True)
        dot = sum((f * w).sum() for f, w in zip(found, wanted, strict=True))
        size = torch.sqrt(sum((f**2).sum() for f in found))  # type: ignore[arg-type]
        distance = 1 - dot / (size * length)
        total = distance + variation * _variation(image)
        if float(distance.detach()) < least:
            best, least = image.detach().clone(), float(distance.detach())
        [slope] = torch.autograd.grad(total, [image])
        image.grad = slope.sign()
        optimizer.step()
        with torch.no_grad():
            image.clamp_(-1.0, 1.0)
        if done in falls:
            optimizer.param_groups[0]["lr"] *= 0.1
        if not time_left():
            break
    return Searched(best[0].double().permute(1, 2, 0).numpy(), least, done)


def _variation(x: torch.Tensor) -> torch.Tensor:
    down, across = x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]
    return down.abs().mean() + across.abs().mean()


def as_levels(image: np.ndarray, exact: bool = False) -> np.ndarray:
    """[h, w, c] as the model reads it → gray levels: uint8, or float32 where ciphertexts are no bytes."""
    levels = (image + 1.0) * 127.5
    return levels.astype(np.float32) if exact else np.rint(levels).clip(0, 255).astype(np.uint8)
