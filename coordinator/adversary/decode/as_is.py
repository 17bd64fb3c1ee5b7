"""The guess that the ciphertext is the plain image (T0): the floor of every audit.

It must "break" the scheme `plain`, or the audit measures nothing.
"""

from __future__ import annotations

from coordinator.adversary.contract import Guess, Knowledge
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """The sealed images of the rows to guess, unchanged, as pictures of the plain shape."""
    images = load(knowledge.pool.spec).picture(knowledge.pool.images(knowledge.rows))
    return Guess(images)
