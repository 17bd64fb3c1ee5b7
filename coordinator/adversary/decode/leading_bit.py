"""The leading-bit attack, also called the FR attack (T0): every value above 127 becomes 255 − value.

Source: Chang et al., "Attacks on image encryption schemes for privacy-preserving deep neural networks",
arXiv 2004.13263. It undoes the negative-positive transform of single values, and nothing else: natural
images are mostly dark or mostly bright for long stretches, so folding every value to the dark half gives a
picture back. It only undoes sign flips, so surviving it says nothing about a shuffle.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Each image by itself; uint8 values 128..255 are folded to 127..0."""
    sealed = load(knowledge.pool.spec).picture(knowledge.pool.images(knowledge.rows))
    images = np.minimum(sealed, 255 - sealed)
    return Guess(images)
