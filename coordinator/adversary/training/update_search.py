"""Search for the one image behind a gradient by optimisation: the gradient inversion attack Inverting Gradients (T5).

Source: Geiping et al. 2020 (arXiv 2003.14053). They look for the image whose gradient points where the observed one
points. The objective is cosine distance plus total variation. Adam works on the signs of its own gradient, at a
rate of 0.1 at first and a tenth of that after 3/8, 5/8 and 7/8 of the steps. They take 24,000 steps and restarts.
Here the budget decides, and the number of steps is returned.

The search needs no gradient of the stem, so it is what is left under stem mode `private`. Its image is a guess
until a replayed training confirms it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.adversary.training.update_steps import UpdateView
from coordinator.model.vit import unpack
from crypto.arrays import AnyArray, Float64Array

#: Adam's first rate, from the source.
_RATE = 0.1
#: The weight of total variation. Set once; not tuned further.
VARIATION_WEIGHT = 0.2


@dataclass(frozen=True)
class SearchResult:
    """The nearest image of a search.

    Attributes:
        image: float64 [h, w, c] as the model reads it.
        distance: 1 − cosine of its gradient with the observed one.
        steps: steps that were taken.
    """

    image: Float64Array
    distance: float
    steps: int


def search(
    view: UpdateView,
    label: int,
    steps: int,
    time_left: TimeLeft = always,
    variation: float = VARIATION_WEIGHT,
    seed: int = 0,
) -> SearchResult:
    """Search for an image from a random start.

    Args:
        view: the observed update.
        label: the image's class.
        steps: the most steps to take.
        time_left: asked after every step.
        variation: the weight of total variation; 0 for ciphertexts.
        seed: of the start.
    """
    model = view.model
    unpack(model, view.start)
    model.train()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    targets = {n: torch.from_numpy(v).float() for n, v in view.gradients.values.items() if n in trained}
    image = _random_image(model, seed)
    optimiser = torch.optim.Adam([image], _RATE)
    drops = {int(steps * share) for share in (3 / 8, 5 / 8, 7 / 8)}
    best, least, step = image.detach().clone(), float("inf"), 0
    for step in range(1, steps + 1):
        distance = _gradient_distance(model, targets, image, label, view.plan.label_smoothing)
        objective = distance + variation * _total_variation(image)
        if float(distance.detach()) < least:
            best, least = image.detach().clone(), float(distance.detach())
        [slope] = torch.autograd.grad(objective, [image])
        image.grad = slope.sign()
        optimiser.step()
        with torch.no_grad():
            image.clamp_(-1.0, 1.0)
        if step in drops:
            optimiser.param_groups[0]["lr"] *= 0.1
        if not time_left():
            break
    return SearchResult(best[0].double().permute(1, 2, 0).numpy(), least, step)


def _random_image(model: nn.Module, seed: int) -> torch.Tensor:
    """Return a random image float32 [1, c, h, w] that takes gradients."""
    embed = model.patch_embed
    channels = embed.proj.in_channels  # type: ignore[union-attr] # timm's patch embedding
    shape = (1, channels, *embed.img_size)  # type: ignore[union-attr, misc] # timm's patch embedding
    image = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return image.requires_grad_(True)


def _gradient_distance(
    model: nn.Module, targets: Mapping[str, torch.Tensor], image: torch.Tensor, label: int, smoothing: float
) -> torch.Tensor:
    """Return 1 − cosine of an image's gradient, of the hospital's loss, with the target gradients.

    It can be differentiated.
    """
    weights = {name: weight for name, weight in model.named_parameters() if name in targets}
    loss = nn.functional.cross_entropy(model(image), torch.tensor([label]), label_smoothing=smoothing)
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    pairs = [(slope, targets[name]) for name, slope in zip(weights, slopes, strict=True)]
    dot = _total([(slope * target).sum() for slope, target in pairs])
    length = torch.sqrt(_total([(slope**2).sum() for slope, _ in pairs]))
    target_length = torch.sqrt(_total([(target**2).sum() for _, target in pairs]))
    return 1 - dot / (length * target_length)


def _total(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum of scalars, added one by one in their order."""
    return sum(parts, start=torch.zeros(()))


def _total_variation(image: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute differences of neighbouring pixels, down plus across."""
    down, across = image[:, :, 1:] - image[:, :, :-1], image[:, :, :, 1:] - image[:, :, :, :-1]
    return down.abs().mean() + across.abs().mean()


def to_gray_levels(image: Float64Array, exact: bool = False) -> AnyArray:
    """Return an image [h, w, c], as the model reads it, in gray levels.

    The result is uint8, or float32 without rounding if `exact`, for ciphertexts that are not bytes.
    """
    levels = (image + 1.0) * 127.5
    return levels.astype(np.float32) if exact else np.rint(levels).clip(0, 255).astype(np.uint8)
