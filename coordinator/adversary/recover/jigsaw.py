"""The jigsaw attack: every ciphertext is a puzzle, solved without any other ciphertext (T0).

Source: T. Chuman, H. Kiya, "A jigsaw puzzle solver-based attack on image encryption using vision transformer for
privacy-preserving DNNs" (arXiv 2202.00806), with the solver of A. Gallagher (CVPR 2012).

The attack runs the recovery of the scheme (methods.py) on a pool of one image. It works under any key scope. Where
every image has a key of its own, no pooled attack exists, and this is all an adversary can do. Where the key is
shared, the difference to `pooled_key_recovery` is what sharing gives away. If the pixels in the blocks are shuffled
too, the blocks of that one image are opened first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from coordinator.adversary.contract import Fit, Guess, Knowledge, Recovery
from coordinator.adversary.opened import open_images, open_rows
from coordinator.adversary.recover.methods import METHODS
from coordinator.adversary.time_budget import until

#: Largest share of the time left that one image may take, so that one hard puzzle does not cost all the others.
#: Set once; not tuned.
_TIME_SHARE = 0.25


def attack(knowledge: Knowledge) -> Guess:
    """Open as many of the rows to guess as there is time for, each alone. The others stay sealed (see the note)."""
    name = knowledge.pool.spec.name
    method = METHODS.get(name)
    if method is None or not method.is_puzzle:
        note = f"no puzzle: {name} is not a shuffle of whole blocks that one image gives away"
        return open_rows(knowledge, None, note, idle=True)
    return open_each_alone(method.recover, knowledge)


def open_each_alone(recover: Recovery, knowledge: Knowledge) -> Guess:
    """Open every row to guess from itself alone, in the order of the rows, while there is time.

    The guess is idle if no image told anything, as where a recovery needs several images. That says nothing about
    the scheme's strength.
    """
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    fits: list[tuple[Fit, ...]] = []
    opened, unidentified, late, unreached = [], 0, 0, 0
    for done, row in enumerate(rows.tolist()):
        sealed = pool.images(rows[done : done + 1])
        recovered = None
        seconds = knowledge.budget.left()
        if seconds <= 0:
            unreached += 1
        else:
            time_left = until(time.monotonic() + seconds * max(_TIME_SHARE, 1 / (len(rows) - done)))
            recovered = recover(pool, np.array([row]), time_left)
            unidentified += recovered is None
            late += recovered is not None and not time_left()
            fits.append(recovered.fits if recovered is not None else ())
        opened.append(open_images(pool.spec, sealed, recovered))
    of = f"of {len(rows)} images"
    notes = [f"{unidentified} {of}: nothing identifiable"] if unidentified else []
    notes += [f"truncated: out of time in {late} {of}"] if late else []
    notes += [f"truncated: {unreached} {of} not reached and still sealed"] if unreached else []
    return Guess(
        np.concatenate(opened),
        note="; ".join(notes),
        idle=unidentified == len(rows),
        fits=_median_fit(fits),
    )


def _median_fit(fits: Sequence[tuple[Fit, ...]]) -> tuple[Fit, ...]:
    """Return the fit of the image in the middle, by how far each fit is from where it would be believed."""
    worst = [min(each, key=lambda fit: fit.value - fit.least) for each in fits if each]
    return tuple(sorted(worst, key=lambda fit: fit.value - fit.least)[len(worst) // 2 :][:1])
