"""Which of three unlabelled colour components is red, green and blue, by what pictures usually are."""

from __future__ import annotations

import numpy as np

from crypto.arrays import AnyArray
from crypto.symmetry import COLOUR_ORDERS


def usual_order(values: AnyArray) -> int:
    """Return the row of COLOUR_ORDERS that names red, green and blue among three components.

    Green is the component most like the two others, and red is the brighter of those.

    Args:
        values: Float [m, 3, r]: the three components of m pixels in r images, in one unknown order.
    """
    colours = values.transpose(1, 0, 2).reshape(3, -1)
    varied = colours.std(1) > 0
    likeness = np.corrcoef(colours).sum(0) if varied.all() else np.zeros(3)
    green = int(likeness.argmax())
    red, blue = sorted({0, 1, 2} - {green}, key=lambda k: -colours[k].mean())
    return int(np.flatnonzero((np.array([red, green, blue]) == COLOUR_ORDERS).all(1))[0])
