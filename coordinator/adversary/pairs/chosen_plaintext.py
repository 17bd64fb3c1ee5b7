"""The key from images of the adversary's own choice, sealed under it (T4): a chosen-plaintext attack.

Source: textbook. Every unit that the key could confuse with another is given a number. The number is written in as
many images as it has digits. If units are inverted, a digit goes up to half of what a unit can hold, so that the
inversion shows. The sealed images are then known pairs in which nothing stays open (known_pairs.py):

- block and pixel shuffling: one RGB image of all different colours, or two gray ones;
- value_shuffle and block_pixel: three images at 224×224×3; ele: seven;
- pe: one flat image; le: one image, whose blocks hold the digits of a nibble's place in a block;
- block_projection: two random images, six in colour;
- etc: one random image; orthogonal: as many random black and white blocks as a block has values, and a few more.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.opened import open_rows
from coordinator.adversary.pairs.known_pairs import solve
from coordinator.adversary.pairs.unit_signatures import layout_of
from crypto.arrays import Images, Int64Array
from crypto.kernels.blocks import from_blocks, quarter_pixels
from crypto.scheme import load
from crypto.spec import SchemeSpec
from crypto.unit_layout import UnitLayout

#: Random blocks asked for beyond the size of a block, so that a matrix of full rank is all but certain. Set once.
_SPARE_BLOCKS = 32


def attack(knowledge: Knowledge) -> Guess:
    """Open the rows to guess with the key that the oracle's answers give.

    Without an oracle, the guess is the ciphertext's picture.
    """
    spec = knowledge.pool.spec
    if knowledge.oracle is None:
        return open_rows(knowledge, None, "needs an oracle", idle=True)
    if load(spec).row_keys:
        note = "every image has a key of its own: an oracle says nothing about others"
        return open_rows(knowledge, None, note, idle=True)
    plain = queries(spec)
    key, note = solve(spec, plain, knowledge.oracle(plain))
    return open_rows(knowledge, key, "; ".join([f"{len(plain)} chosen images", *([note] if note else [])]))


def queries(spec: SchemeSpec) -> Images:
    """Return the images to have sealed, uint8 [m, *image_shape]."""
    rng = np.random.default_rng(0)
    if spec.name in ("orthogonal", "noisy_orthogonal"):
        size = spec.block**2 * spec.image_shape[2]
        count = -(-(size + _SPARE_BLOCKS) // spec.blocks)
        return rng.integers(0, 2, (count, *spec.image_shape), np.uint8) * np.uint8(255)
    if spec.name == "block_projection":
        count = 2 * -(-spec.block * spec.image_shape[2] // spec.block)
        return rng.integers(0, 256, (count, *spec.image_shape), np.uint8)
    if spec.name == "etc":
        return rng.integers(0, 256, (1, *spec.image_shape), dtype=np.uint8)
    return _numbered_images(layout_of(spec))


def _numbered_images(layout: UnitLayout) -> Images:
    """Return uint8 [m, h, w, c]: images whose units, if the key could confuse them, hold the digits of numbers."""
    height, width, channels = layout.shape
    n = height * width // layout.block**2
    base = (layout.top + 1) // (2 if layout.signed else 1)
    if layout.unit == "pixel":
        base **= channels
    if layout.single:
        return np.zeros((1, height, width, channels), np.uint8)
    # Units of a sub-block need no numbers that differ from those of the other sub-blocks, because sub-blocks stay in
    # place. The same holds for the units of blocks that stay in place.
    if layout.moves_blocks:
        parts = 4 if layout.quarters else 1
        numbers = np.arange(n * layout.units).reshape(n, 1, layout.units).repeat(parts, 1)
        return _join_units(layout, _digits(numbers, base))
    digits = _digits(np.arange(layout.units), base)  # [d, U]
    if layout.shared:  # one digit a block, over and over
        count = -(-len(digits) // n)
        which = (np.arange(count * n) % len(digits)).reshape(count, n)
        digits = digits[which]
    else:
        digits = np.broadcast_to(digits[:, None], (len(digits), n, layout.units))
    return _join_units(layout, digits[:, :, None])


def _digits(numbers: Int64Array, base: int) -> Int64Array:
    """Return [d, ...], the digits of numbers [...], the lowest first; as many as the largest number needs."""
    digits, rest = [numbers % base], numbers // base
    while rest.any():
        digits.append(rest % base)
        rest = rest // base
    return np.stack(digits)


def _join_units(layout: UnitLayout, units: Int64Array) -> Images:
    """Join units [m, N, P, U] to images uint8 [m, h, w, c]: the inverse of `split_units`."""
    height, width, channels = layout.shape
    m, n = units.shape[:2]
    if layout.quarters:
        joined = np.empty((m, n, layout.block**2), np.int64)
        joined[:, :, quarter_pixels(layout.block)] = units
    else:
        joined = units[:, :, 0]
    if layout.unit == "nibble":
        low, high = np.split(joined, 2, axis=2)
        joined = low | high << 4
    if layout.unit == "pixel":
        blocks = joined[..., None] // 256 ** np.arange(channels) % 256
    else:
        blocks = joined.reshape(m, n, -1, channels)
    return from_blocks(blocks.astype(np.uint8), height, width)
