"""The guess that the ciphertext is the plain image (T0): the floor of every audit.

It must "break" the scheme `plain`. If it does not, the audit measures nothing.
"""

from __future__ import annotations

from coordinator.adversary.contract import Guess, Knowledge
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Return the sealed images of the rows to guess, unchanged, as pictures of the plain shape."""
    return Guess(load(knowledge.pool.spec).picture(knowledge.pool.images(knowledge.rows)))
