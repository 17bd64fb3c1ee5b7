"""Patches without the brightness and contrast of their images, and images that have those of other images.

A network that normalises its layers over the patches of an image leaves little of both in its tokens. So a guess of a
picture can hold neither, and bears what is usual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crypto.arrays import Float64Array, Images
from crypto.kernels.blocks import from_blocks, to_blocks

#: Least deviation of an image, in gray levels: one of a single level has no contrast that could be taken away.
_LEAST_SPREAD = 1.0


@dataclass(frozen=True)
class TonedPatches:
    """The patches of images, each in units of the deviation of its image, about the image's mean.

    Attributes:
        values: float64 [n, N, V].
        mean: Median over the images of their means, in gray levels.
        spread: Median over the images of their deviations, in gray levels.
        shape: (h, w, c) of an image.
    """

    values: Float64Array
    mean: float
    spread: float
    shape: tuple[int, ...]

    @classmethod
    def of(cls, images: Images, block: int) -> TonedPatches:
        """Return the patches of images uint8 [n, h, w, c]."""
        blocks = to_blocks(images, block).astype(np.float64)
        patches = blocks.reshape(*blocks.shape[:2], -1)
        means = patches.mean((1, 2), keepdims=True)
        spreads = np.maximum(patches.std((1, 2), keepdims=True), _LEAST_SPREAD)
        tone = float(np.median(means)), float(np.median(spreads))
        return cls((patches - means) / spreads, *tone, images.shape[1:])

    def images(self, patches: Float64Array) -> Images:
        """Return images uint8 [r, h, w, c] of patches [r, N, V], with the mean and spread of these images."""
        height, width, channels = self.shape
        apart = patches - patches.mean((1, 2), keepdims=True)
        units = apart / np.maximum(apart.std((1, 2), keepdims=True), 1e-12)
        values = np.clip(np.rint(self.mean + self.spread * units), 0, 255).astype(np.uint8)
        return from_blocks(values.reshape(*values.shape[:2], -1, channels), height, width)
