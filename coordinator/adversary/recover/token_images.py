"""Sealed images of `neuracrypt` as tokens, without those that no network returns.

Whoever seals can put any float32 into a pool. One value that is not finite, or whose square is not, would end every
attack on all of its images.
"""

from __future__ import annotations

import numpy as np

from coordinator.adversary.contract import Ciphertexts
from coordinator.adversary.recover.pool_reading import image_chunks
from crypto.arrays import AnyArray, BoolArray, Float32Array, Rows
from crypto.kernels.blocks import to_blocks
from crypto.plural import counted

#: What a token's 0 is stored as, in gray levels.
_MIDDLE = 127.5
#: Furthest from it that a token is believed, in gray levels. Those of random networks are some hundreds away.
_FURTHEST = 1e4


def by_patch(images: AnyArray, block: int) -> Float32Array:
    """Return images as float32 [n, N, V]."""
    blocks = to_blocks(np.asarray(images, np.float32), block)
    return blocks.reshape(*blocks.shape[:2], -1)


def are_tokens(images: AnyArray) -> BoolArray:
    """Return which sealed images [n, h, w, c] hold nothing but values that tokens can have, bool [n]."""
    least, most = images.min((1, 2, 3)), images.max((1, 2, 3))
    within: BoolArray = (least >= _MIDDLE - _FURTHEST) & (most <= _MIDDLE + _FURTHEST)
    return within  # NaN is in no range


def read_tokens(pool: Ciphertexts, rows: Rows) -> tuple[Float32Array, str]:
    """Return the tokens of these rows, float32 [n, N, V], and a note on those that are left out, or ""."""
    parts, within = [], [np.zeros(0, bool)]
    for images in image_chunks(pool, rows):
        within.append(are_tokens(images))
        parts.append(by_patch(images[within[-1]], pool.spec.block))
    return np.concatenate(parts), note_left_out(np.concatenate(within))


def by_patch_or_gray(images: AnyArray, block: int) -> Float32Array:
    """Return images as float32 [n, N, V], with mid-gray for those that hold no tokens."""
    within = are_tokens(images)
    if not within.all():
        images = images.copy()
        images[~within] = _MIDDLE
    return by_patch(images, block)


def note_left_out(within: BoolArray) -> str:
    """Return how many ciphertexts were left out because they hold no tokens, in words; "" for none."""
    others = int((~within).sum())
    holds = counted(others, "ciphertext holds", "ciphertexts hold")
    return f"{holds} no tokens of a network: left out" if others else ""


def note_unreadable(pool: Ciphertexts, rows: Rows) -> str:
    """Return how many of the rows to guess hold no tokens, in words; "" for none."""
    others = sum(int((~are_tokens(images)).sum()) for images in image_chunks(pool, rows))
    holds = counted(others, "ciphertext to guess holds", "ciphertexts to guess hold")
    return f"{holds} no tokens of a network" if others else ""


def join_notes(*notes: str) -> str:
    """Return the notes that are not empty as one."""
    return "; ".join(filter(None, notes))
