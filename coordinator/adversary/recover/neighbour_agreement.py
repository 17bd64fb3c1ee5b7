"""How much neighbouring pixels agree: what tells opened pictures from shuffled ones where nobody knows the truth."""

from __future__ import annotations

import numpy as np

from crypto.arrays import Float64Array, Images


def neighbour_agreement(images: Images) -> float:
    """Return how much neighbouring pixels agree: the median correlation over images, of the worse direction.

    Args:
        images: uint8 [n, h, w, c]. An image without variation counts as 0.
    """
    values = images.astype(np.float64)
    across = _correlations(values[:, :, 1:], values[:, :, :-1])
    down = _correlations(values[:, 1:], values[:, :-1])
    return float(min(np.median(across), np.median(down)))


def colour_agreement(images: Images) -> float:
    """Return `neighbour_agreement` of the colours, each a picture of its own; 0 without any that varies.

    In pictures of one hue, as of stained tissue, all values of a colour are alike wherever the pixels stand. Empty
    planes tell nothing, and are left out.
    """
    height, width = images.shape[1:3]
    planes = images.transpose(0, 3, 1, 2).reshape(-1, height, width, 1)
    varied = planes[np.ptp(planes, axis=(1, 2, 3)) > 0]
    return neighbour_agreement(varied) if len(varied) and min(height, width) > 1 else 0.0


def _correlations(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return Pearson's r of each pair of images [n, h, w, c], float64 [n]; 0 where either is constant."""
    a, b = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(1, keepdims=True) for x in (a, b))
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    r: Float64Array = np.where(spread > 0, (a * b).sum(1) / np.maximum(spread, 1e-9), 0.0)
    return r
