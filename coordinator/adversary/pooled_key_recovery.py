"""Key recovery from a pool of ciphertexts under one key (T1; T0 with one image), for every scheme that shares one.

Each scheme's recovery is a file in recover/; all work on second-order statistics of sealed images, and none
needs a plain one. Where every image has a key of its own, each image to guess is a pool of one: for shuffled
blocks that is the jigsaw attack of Chuman and Kiya (arXiv 2202.00806, 2211.02369).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from coordinator.adversary.knowledge import Ciphertexts, Guess, Knowledge, Recovered
from coordinator.adversary.recover import block_pixel, block_pixel_shuffle, ele, etc, le, pe, value_shuffle
from crypto.apply import apply
from crypto.scheme import Scheme, load

Recover = Callable[[Ciphertexts, np.ndarray, Callable[[], bool]], Recovered | None]

RECOVER: dict[str, Recover] = {
    "block_pixel_shuffle": block_pixel_shuffle.recover,
    "value_shuffle": value_shuffle.recover,
    "block_pixel": block_pixel.recover,
    "etc": etc.recover,
    "le": le.recover,
    "ele": ele.recover,
    "pe": pe.recover,
}
_NOTHING = "nothing identifiable"


def attack(knowledge: Knowledge) -> Guess:
    """Opens the rows to guess with the key found from the rows seen.

    Guess.key holds the flat table that opens (gather, mask) and the scheme's parts, or is None where every block
    is constant or every image has a key of its own. Schemes without a recovery of their own, the controls, are
    taken for block_pixel_shuffle.
    """
    started = time.monotonic()
    pool, rows = knowledge.pool, np.asarray(knowledge.rows, np.int64)
    scheme, recover = load(pool.spec), RECOVER.get(pool.spec.name, block_pixel_shuffle.recover)
    if scheme.sealed_dtype != np.uint8:
        images, note = (
            scheme.picture(pool.images(rows)),
            f"no recovery from ciphertexts alone for {pool.spec.name}",
        )
        return Guess("pooled_key_recovery", "T1", images, rows, None, time.monotonic() - started, note)
    if pool.spec.key_scope == "image":
        images, note = _each(scheme, recover, knowledge, rows)
        return Guess("pooled_key_recovery", "T0", images, rows, None, time.monotonic() - started, note)
    tier = "T1" if len(knowledge.seen) > 1 else "T0"
    found = recover(pool, np.asarray(knowledge.seen, np.int64), lambda: knowledge.budget.left() > 0)
    sealed, key, note = pool.images(rows), None, _NOTHING
    if found is not None:
        sealed, note = apply(found.table, sealed), "; ".join(found.notes)
        gather, mask = found.table.flattened()
        # The flat mask takes the place of a part of that name: it is what opens.
        parts = {name: part for name, part in found.parts.items() if name != "mask"}
        key = {**parts, "gather": gather, **({} if mask is None else {"mask": mask})}
    spent = time.monotonic() - started
    return Guess("pooled_key_recovery", tier, scheme.picture(sealed), rows, key, spent, note)


def _before(until: float) -> Callable[[], bool]:
    return lambda: time.monotonic() < until


def _each(
    scheme: Scheme, recover: Recover, knowledge: Knowledge, rows: np.ndarray
) -> tuple[np.ndarray, str]:
    """(uint8 [r, h, w, c], note): every row opened from itself alone, within an equal part of the budget."""
    opened, nothing, late = [], 0, 0
    for done, row in enumerate(rows):
        until = time.monotonic() + knowledge.budget.left() / (len(rows) - done)
        sealed = knowledge.pool.images(rows[done : done + 1])
        found = None
        if knowledge.budget.left() > 0:
            found = recover(knowledge.pool, np.array([row]), _before(until))
            nothing += found is None
            late += time.monotonic() >= until
        else:
            late += 1
        opened.append(scheme.picture(sealed if found is None else apply(found.table, sealed)))
    notes = [f"{nothing} of {len(rows)} images: {_NOTHING}"] if nothing else []
    notes += [f"truncated: out of time in {late} of {len(rows)} images"] if late else []
    return np.concatenate(opened), "; ".join(notes)
