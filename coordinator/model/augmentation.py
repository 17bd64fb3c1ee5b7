"""What a plan's `augment` does to plain images, in memory, before a hospital seals them or trains on them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

from crypto.arrays import AnyArray

#: The bounds of `flip_affine`: a turn in degrees, and a change of scale.
_TURN, _SCALE = 15.0, 0.15


def alter(images: AnyArray, augment: str, random: np.random.Generator) -> AnyArray:
    """Return images [n, h, w, c], each altered at random as the plan's `augment` says, in their dtype."""
    return {"flip_shift": flip_shift, "flip_affine": flip_affine}[augment](images, random)


def flip_shift(images: AnyArray, random: np.random.Generator) -> AnyArray:
    """Return images [n, h, w, c], each mirrored with probability 1/2 and shifted by up to an eighth of its sides.

    The mirror is left to right. Pixels that enter at an edge repeat that edge.
    """
    n, height, width, _ = images.shape
    mirrored = random.integers(0, 2, (n,))
    down = random.integers(-(height // 8), height // 8 + 1, n)
    right = random.integers(-(width // 8), width // 8 + 1, n)
    views = np.empty_like(images)
    for i, image in enumerate(images):
        rows = np.clip(np.arange(height) - down[i], 0, height - 1)
        columns = np.clip(np.arange(width) - right[i], 0, width - 1)
        views[i] = image[rows[:, None], columns[::-1] if mirrored[i] else columns]
    return views


def flip_affine(images: AnyArray, random: np.random.Generator) -> AnyArray:
    """Return images [n, h, w, c], each mirrored, shifted, turned and scaled at random.

    Mirror and shift are those of `flip_shift`. The turn is by up to 15° about the middle, the scale between .85 and
    1.15. Pixels between pixels are interpolated, and rounded where images are integers. Pixels that enter at an edge
    repeat that edge.
    """
    n, height, width, _ = images.shape
    mirror = 1.0 - 2.0 * random.integers(0, 2, n)
    shift = random.uniform(-0.25, 0.25, (n, 2))  # a grid's sides are 2 long: an eighth
    angle = np.deg2rad(random.uniform(-_TURN, _TURN, n))
    scale = np.exp(random.uniform(math.log1p(-_SCALE), math.log1p(_SCALE), n))
    # From a view's pixels to the image's, in units of half a side: what turns a square stretches a longer image.
    cos, sin, aspect = np.cos(angle) / scale, np.sin(angle) / scale, height / width
    maps = np.empty((n, 2, 3), np.float32)
    maps[:, 0] = np.stack([mirror * cos, -mirror * sin * aspect, shift[:, 0]], 1)
    maps[:, 1] = np.stack([sin / aspect, cos, shift[:, 1]], 1)
    planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))
    grid = affine_grid(torch.from_numpy(maps), list(planes.shape), align_corners=False)
    views = (
        grid_sample(planes, grid, padding_mode="border", align_corners=False).numpy().transpose(0, 2, 3, 1)
    )
    if np.issubdtype(images.dtype, np.integer):
        views = np.rint(views)
    return np.ascontiguousarray(views, images.dtype)
