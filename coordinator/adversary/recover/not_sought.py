"""A part of a key that a recovery does not look for, because a search among so many blocks or values takes too long.

Nobody may say that a scheme withstood an attack that did not look. So the recovery states a fit of 0 beside its note:
the guess is uncertain, and its failure says nothing about the scheme. If it breaks the scheme all the same, that is a
break.
"""

from __future__ import annotations

from coordinator.adversary.contract import Fit, Recovered
from crypto.kernels.table import Table

#: What a recovery states that left a part of the key as it is.
NOT_SOUGHT = Fit(0.0, 0.5, "a part of the key was not sought")


def unmoved(shape: tuple[int, int, int], block: int, note: str) -> Recovered:
    """Return a key that moves nothing, of a recovery that sought nothing.

    Args:
        shape: Shape [h, w, c] of sealed images.
        block: Side of a block in pixels.
        note: What was not sought.
    """
    return Recovered(Table(shape, (block, block)), {}, (note,), (NOT_SOUGHT,))
