"""How well pictures agree across the borders of their blocks: the fit of an attack that opens each block by itself.

In real pictures the values on both sides of a border rise and fall together from image to image. In blocks that were
opened with the wrong matrices, or lie in the wrong places, they do not, however smooth each block is in itself.
"""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray, Float64Array


def border_agreement(images: AnyArray, block: int, noise: Float64Array | float = 0.0) -> float:
    """Return the correlation of values on both sides of the blocks' borders over images: 1 alike, 0 unrelated.

    Each place's mean over the images is taken off: pictures of one kind share it, whatever the key. Covariances and
    deviations are added up over all borders first, so that places that hardly vary count for little.

    Args:
        images: [n, h, w, c], at least two.
        block: Side of a block in pixels.
        noise: The variance of the noise in a value of these images, float64 [h, w, c] or one for all. It is taken
            off: noise on one side of a border is independent of that on the other.
    """
    values = images.astype(np.float64)
    values -= values.mean(0)
    spread = np.sqrt(np.maximum((values**2).mean(0) - noise, 0.0))
    together = apart = 0.0
    for axis in (1, 2):
        last = np.arange(block - 1, values.shape[axis] - 1, block)
        together += float((values.take(last, axis) * values.take(last + 1, axis)).mean(0).sum())
        apart += float((spread.take(last, axis - 1) * spread.take(last + 1, axis - 1)).sum())
    return float(np.clip(together / apart, -1.0, 1.0)) if apart > 0 else 0.0
