"""The leading-bit attack, also called the FR attack (T0): every value above 127 becomes 255 − value.

Source: Chang et al., "Attacks on image encryption schemes for privacy-preserving deep neural networks", arXiv
2004.13263. It undoes the negative-positive transform of single values, and nothing else. Natural images are mostly
dark or mostly bright over long stretches, so folding every value to the dark half gives a picture back. Because it
only undoes sign flips, surviving it says nothing about a shuffle.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from crypto.scheme import load


def attack(knowledge: Knowledge) -> Guess:
    """Fold the values 128..255 of each image to 127..0."""
    sealed = load(knowledge.pool.spec).picture(knowledge.pool.images(knowledge.rows))
    return Guess(np.minimum(sealed, 255 - sealed))
