"""The jigsaw attack: every ciphertext is a puzzle by itself, put together without any other (T0).

Source: T. Chuman, H. Kiya, "A jigsaw puzzle solver-based attack on image encryption using vision transformer for
privacy-preserving DNNs" (arXiv 2202.00806), with the solver of A. Gallagher (CVPR 2012). It is the recovery of
recover/ with a pool of one, so it asks nothing of the key scope: it is all there is where every image has a key of
its own, and shows what a shared key gives away beyond that. Blocks whose insides are shuffled, too, are opened by
that one image's own blocks first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Guess, Knowledge, Recovered
from coordinator.adversary.recover import block_pixel_shuffle, etc, value_shuffle
from crypto.kernels.executors import apply
from crypto.scheme import load

Recover = Callable[[Ciphertexts, np.ndarray, Callable[[], bool]], Recovered | None]

#: Schemes that move whole blocks, which one image tells; the controls are taken for block_pixel_shuffle.
PUZZLES: dict[str, Recover] = {
    "block_pixel_shuffle": block_pixel_shuffle.recover,
    "etc": etc.recover,
    "value_shuffle": value_shuffle.recover,
    "plain": block_pixel_shuffle.recover,
    "noise": block_pixel_shuffle.recover,
    "permuted": block_pixel_shuffle.recover,
}
#: Most of the time left that one image may take: one hard puzzle shall not cost all the others.
_SHARE = 0.25


def attack(knowledge: Knowledge) -> Guess:
    """Opens as many of the rows to guess as there is time for, each alone; the rest stay sealed, as the note says."""
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    recover = PUZZLES.get(pool.spec.name)
    if recover is None:
        images = load(pool.spec).picture(pool.images(rows))
        note, idle = (
            f"no puzzle: {pool.spec.name} is not a shuffle of whole blocks that one image tells",
            True,
        )
    else:
        images, note, idle = each_alone(recover, knowledge, rows)
    return Guess(images, note=note, idle=idle)


def each_alone(recover: Recover, knowledge: Knowledge, rows: np.ndarray) -> tuple[np.ndarray, str, bool]:
    """(uint8 [r, h, w, c], note, idle): every row opened from itself alone, in the order given, while there is time.

    idle: whether not one image told anything, as where the recovery needs several: that is no resistance.
    """
    pool, left = knowledge.pool, knowledge.budget.left
    scheme = load(pool.spec)
    opened, nothing, late, sealed_still = [], 0, 0, 0
    for done, row in enumerate(rows.tolist()):
        sealed = pool.images(rows[done : done + 1])
        found = None
        if left() <= 0:
            sealed_still += 1
        else:
            until = time.monotonic() + left() * max(_SHARE, 1 / (len(rows) - done))
            found = recover(pool, np.array([row]), _before(until))
            nothing += found is None
            late += found is not None and time.monotonic() >= until
        opened.append(scheme.picture(sealed if found is None else apply(found.table, sealed)))
    of = f"of {len(rows)} images"
    notes = [f"{nothing} {of}: nothing identifiable"] if nothing else []
    notes += [f"truncated: out of time in {late} {of}"] if late else []
    notes += [f"truncated: {sealed_still} {of} not reached and still sealed"] if sealed_still else []
    return np.concatenate(opened), "; ".join(notes), nothing == len(rows)


def _before(until: float) -> Callable[[], bool]:
    return lambda: time.monotonic() < until
