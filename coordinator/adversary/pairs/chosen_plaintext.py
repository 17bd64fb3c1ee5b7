"""The key from images of the adversary's own choice, sealed under it (T4).

Source: textbook. Every unit that the key could confuse with another is given a number, written in as many images
as the number has digits; a digit goes up to half of what a unit can hold where units are inverted, so that the
inversion shows. The sealed images are then known pairs in which nothing is left open (known_pairs.py):

- block and pixel shuffling: one RGB image of all different colours, or two gray ones;
- value_shuffle and block_pixel: three images at 224×224×3; ele: seven;
- pe: one flat image; le: one image, whose blocks hold the digits of a nibble's place in a block;
- etc: one random image; orthogonal: as many random black and white blocks as a block has values, and a few more.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.pairs.known_pairs import opened, solve
from coordinator.adversary.pairs.unit_signatures import Layout, layout_of
from crypto.kernels.blocks import from_blocks, quarter_pixels
from crypto.scheme import load
from crypto.spec import SchemeSpec


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows with the key that the oracle's answers give; without one, hands back the sealed pictures."""
    spec, found = knowledge.pool.spec, None
    if knowledge.oracle is None:
        note = "needs an oracle"
    elif load(spec).row_keys:
        note = "every image has a key of its own: an oracle says nothing of others"
    else:
        plain = queries(spec)
        found, note = solve(spec, plain, knowledge.oracle(plain))
        note = "; ".join([f"{len(plain)} chosen images", *([note] if note else [])])
    return opened(knowledge, found, note)


def queries(spec: SchemeSpec) -> np.ndarray:
    """uint8 [m, *image_shape]: the images to have sealed."""
    rng = np.random.default_rng(0)
    if spec.name == "orthogonal":
        size = spec.block**2 * spec.image_shape[2]
        count = -(-(size + 32) // spec.blocks)
        return rng.integers(0, 2, (count, *spec.image_shape), np.uint8) * np.uint8(255)
    if spec.name == "etc":
        return rng.integers(0, 256, (1, *spec.image_shape), dtype=np.uint8)
    return _numbered(layout_of(spec))


def _numbered(layout: Layout) -> np.ndarray:
    """uint8 [m, h, w, c]: every unit that could be confused with another holds the digits of its own number."""
    height, width, channels = layout.shape
    n = height * width // layout.block**2
    base = (layout.top + 1) // (2 if layout.signed else 1)
    if layout.unit == "pixel":
        base **= channels
    if layout.single:
        return np.zeros((1, height, width, channels), np.uint8)
    parts = 4 if layout.quarters else 1
    # Sub-blocks stay, and so does a block under `moves_blocks` False: their units need no number of their own.
    if layout.moves_blocks:
        numbers = np.arange(n * layout.units).reshape(n, 1, layout.units).repeat(parts, 1)
        digits = _digits(numbers, base)
    else:
        digits = _digits(np.arange(layout.units), base)  # [d, U]
        if layout.shared:  # one digit a block, over and over
            count = -(-len(digits) // n)
            which = (np.arange(count * n) % len(digits)).reshape(count, n)
            digits = digits[which]
        else:
            digits = np.broadcast_to(digits[:, None], (len(digits), n, layout.units))
        digits = digits[:, :, None]
    return _joined(layout, digits)


def _digits(numbers: np.ndarray, base: int) -> np.ndarray:
    """[...] → [d, ...]: the digits of every number, the lowest first; as many as the largest needs."""
    digits, rest = [numbers % base], numbers // base
    while rest.any():
        digits.append(rest % base)
        rest = rest // base
    return np.stack(digits)


def _joined(layout: Layout, units: np.ndarray) -> np.ndarray:
    """[m, N, P, U] → uint8 [m, h, w, c]: the inverse of unit_signatures.cut."""
    height, width, channels = layout.shape
    m, n = units.shape[:2]
    if layout.quarters:
        whole = np.empty((m, n, layout.block**2), np.int64)
        whole[:, :, quarter_pixels(layout.block)] = units
    else:
        whole = units[:, :, 0]
    if layout.unit == "nibble":
        low, high = np.split(whole, 2, axis=2)
        whole = low | high << 4
    if layout.unit == "pixel":
        blocks = whole[..., None] // 256 ** np.arange(channels) % 256
    else:
        blocks = whole.reshape(m, n, -1, channels)
    return from_blocks(blocks.astype(np.uint8), height, width)
